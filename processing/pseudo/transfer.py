"""From the matches of one photo to its labels: a pose that more than chance supports, and what agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.features.base import LocalFeatures
from d2s.geometry.reprojection import reprojection_errors
from d2s.localization.base import PoseEstimator
from d2s.scene.label_store import Labels
from processing.pseudo.candidates import Candidates, Neighbour, from_matches, near_projections, union
from processing.pseudo.labelled_map import LabelledMap

NO_MATCH = "no match with a labelled keypoint"
NO_POSE = "no pose that more than chance supports"
FEW_LABELS = "too few labels agree with its pose"

SIMILARITY_PERCENTILE = 10
"""Guided matches must be as similar as all but this percentage of the verified ones: what is similar differs by feature and by scene."""


@dataclass(frozen=True)
class TransferOptions:
    """max_error_px: reprojection error up to which a label agrees with the photo's pose. min_labels: photos with fewer get none.
    guided: once the pose is known, also look for the points that no match had found.
    """

    max_error_px: float = 4.0
    min_labels: int = 15
    guided: bool = True


@dataclass(frozen=True)
class Transfer:
    """The labels of one photo, or why it has none: `reason` (of the three above) and its `detail`.

    `voters` (K, k) says which of the k neighbours agreed on each label. `candidates`: different pairs of keypoint and point that the
    matches proposed, of which `inliers` made the pose.
    """

    labels: Labels | None
    voters: NDArray[np.bool_]
    cam_from_world: NDArray[np.float64] | None = None
    candidates: int = 0
    inliers: int = 0
    reason: str = ""
    detail: str = ""


def transfer(
    features: LocalFeatures,
    camera: pycolmap.Camera,
    neighbours: Sequence[Neighbour],
    matches: Sequence[NDArray[np.int32]],
    the_map: LabelledMap,
    estimator: PoseEstimator,
    options: TransferOptions,
) -> Transfer:
    """Labels for a photo from its matches (M, 2) with each of its labelled neighbours. A photo that cannot be placed is no error."""
    found = from_matches(features, neighbours, matches)
    failed = Transfer(None, np.zeros((len(features), len(neighbours)), bool), candidates=len(found))
    if not len(found):
        return replace(failed, reason=NO_MATCH)
    xyz = the_map.xyz[found.point].astype(np.float64)
    estimate = estimator.estimate(features.keypoints[found.row], xyz, camera, found.votes)
    if estimate.cam_from_world is None:
        return replace(failed, reason=NO_POSE, detail=estimate.reason)
    placed = replace(failed, cam_from_world=estimate.cam_from_world, inliers=estimate.num_inliers)
    agreeing = _verified(features, camera, neighbours, found, the_map, estimate.cam_from_world, options)
    errors = _errors(features, camera, agreeing, the_map, estimate.cam_from_world)
    chosen = one_to_one(agreeing, errors)
    if len(chosen) < options.min_labels:
        return replace(placed, reason=FEW_LABELS, detail=f"{len(chosen)}, at least {options.min_labels} are needed")
    labels, voters = _labels(agreeing, chosen, errors, len(features), the_map, options)
    return replace(placed, labels=labels, voters=voters)


def _errors(
    features: LocalFeatures, camera: pycolmap.Camera, of: Candidates, the_map: LabelledMap, cam_from_world: NDArray[np.float64]
) -> NDArray[np.float64]:
    return reprojection_errors(camera, cam_from_world, the_map.xyz[of.point], features.keypoints[of.row])


def _verified(
    features: LocalFeatures,
    camera: pycolmap.Camera,
    neighbours: Sequence[Neighbour],
    found: Candidates,
    the_map: LabelledMap,
    cam_from_world: NDArray[np.float64],
    options: TransferOptions,
) -> Candidates:
    """The candidates that agree with the pose, and those that the pose brings to light."""
    agreeing = found.select(_errors(features, camera, found, the_map, cam_from_world) <= options.max_error_px)
    if not len(agreeing) or not options.guided:
        return agreeing
    least = float(np.percentile(agreeing.similarity, SIMILARITY_PERCENTILE))
    near = near_projections(features, neighbours, the_map, camera, cam_from_world, options.max_error_px, least)
    return union(agreeing, near)


def one_to_one(candidates: Candidates, errors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which candidates become labels: those with most votes first, then the most similar, then the nearest.

    No keypoint shows two points, and no point is shown by two keypoints of a photo. Candidates without a vote are never taken.
    """
    order = np.lexsort((errors, -candidates.similarity, -candidates.votes))
    rows: set[int] = set()
    points: set[int] = set()
    chosen = []
    for index in order[candidates.votes[order] > 0]:
        row, point = int(candidates.row[index]), int(candidates.point[index])
        if row not in rows and point not in points:
            rows.add(row)
            points.add(point)
            chosen.append(int(index))
    return np.sort(np.array(chosen, dtype=np.int64))


def _labels(
    candidates: Candidates,
    chosen: NDArray[np.int64],
    errors: NDArray[np.float64],
    count: int,
    the_map: LabelledMap,
    options: TransferOptions,
) -> tuple[Labels, NDArray[np.bool_]]:
    """Labels (count rows) and their voters (count, k).

    A keypoint near a map point that it was not given may show that point or not: it is neither a label nor a negative, its weight is 0.
    """
    taken = candidates.select(chosen)
    point, votes, weight = np.full(count, -1, np.int64), np.zeros(count, np.int32), np.ones(count, np.float32)
    voters = np.zeros((count, candidates.voters.shape[1]), bool)
    weight[candidates.row] = 0
    point[taken.row], votes[taken.row], voters[taken.row] = taken.point, taken.votes, taken.voters
    weight[taken.row] = label_weight(taken.votes, errors[chosen], options.max_error_px)
    return the_map.labels(point, weight, votes), voters


def label_weight(votes: NDArray[np.int32], errors: NDArray[np.float64], max_error: float) -> NDArray[np.float32]:
    """Trust (L,) in (0, 1): 1/2 for one vote, towards 1 for many, and at most halved where the label lies `max_error` pixels away."""
    return (votes / (votes + 1.0) / (1.0 + (errors / max_error) ** 2)).astype(np.float32)
