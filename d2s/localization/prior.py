"""Localizing with a pose prior: the landmarks that the prior can see are searched for first, and their answer has to prove itself.

A prior decides where to look, never what is seen. Keypoints are compared with the landmarks in view of the prior only, which is faster
than asking the network and tells places apart that look alike; the pose of these matches then comes from the same RANSAC and passes the
same test against chance as any other. No term pulls it towards the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.localization.acceptance import MAX_LOG10_FALSE_ALARMS, log10_false_alarms
from d2s.localization.base import PoseEstimate, PoseEstimator
from d2s.localization.guided import in_view
from d2s.localization.result import LocalizationResult, Rival
from d2s.matching.nearest import mutual_nearest_neighbors
from d2s.regressor.landmark_map import LandmarkMap

Array = NDArray[np.float64]
WIDE = 0.25
"""Radius around the places where a prior of unknown quality puts landmarks, as a share of the longer image side: some ten degrees."""
MARGIN = 0.5
"""How far beyond the border of the image landmarks are looked for without a radius, in image sizes: priors are off by tens of degrees."""
COMPARABLE = 0.8
"""A pose near the prior with fewer inliers than this share of what the whole map suggests has lost. On the stairs of the demo, a wrong
storey has less than this share of the right one's inliers in three of four images, and up to 1.2 times as many in the others: there the
image alone cannot tell."""
CLEARLY = 0.5
"""A pose near the prior is beyond doubt only where one that the whole map suggests has fewer inliers than this share of its own."""
DOUBT = 0.5
"""`d2s.localization.doubt` from which an image fits two places, whatever the counts of inliers say."""
FIRST_KEYPOINTS = 700
"""The best keypoints, which are enough to find the pose within a radius; the second look asks all of them."""
SAME_PIXELS = 3.0
"""Two poses are the same where they project what both explain to within so many inlier thresholds of each other, in the median."""


@dataclass(frozen=True)
class NearMatches:
    """Keypoints `rows` (K,), ascending, and the scene points `xyz` (K, 3) that they may show."""

    rows: NDArray[np.int64]
    xyz: Array


def as_prior(value: ArrayLike) -> Array:
    """A pose prior as cam_from_world (3, 4), of a (3, 4) or (4, 4) matrix or of seven numbers qw qx qy qz tx ty tz. Raises InputError."""
    prior = np.asarray(value, dtype=np.float64)
    if prior.shape == (7,) and np.isfinite(prior).all():
        return pose.from_qvec_tvec(prior[:4], prior[4:])
    if prior.shape not in ((3, 4), (4, 4)):
        raise InputError(f"A prior is cam_from_world (3, 4), or seven finite numbers qw qx qy qz tx ty tz, not an array of {prior.shape}.")
    return pose.from_matrix(prior)


def wide_radius(camera: pycolmap.Camera) -> float:
    """The radius in pixels for a prior of unknown quality."""
    return WIDE * max(camera.width, camera.height)


def search_near(
    prior: Array, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera, estimator: PoseEstimator, radius: float
) -> tuple[NearMatches, PoseEstimate]:
    """Matches within `radius` pixels of where the prior, cam_from_map (3, 4), puts them, and their pose.

    Where the best keypoints give no pose there, all of them may show whatever is about in view. `features`: best first.
    """
    for reach, some in ((radius, features.top(FIRST_KEYPOINTS)), (None, features)):
        matches = match_near(prior, some, landmarks, camera, reach)
        found = estimate_near(matches, some, camera, estimator, reach)
        if found.success:
            break
    return matches, found


def match_near(prior: Array, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera, radius: float | None) -> NearMatches:
    """Mutual nearest neighbours among the keypoints and the landmarks in view of the prior, cam_from_map (3, 4).

    `radius`: how far, in pixels, a keypoint may lie from where the prior projects its landmark; None: anywhere.
    """
    seen, pixels = in_view(prior, landmarks, camera, MARGIN * np.array([camera.width, camera.height]) if radius is None else radius)
    pairs = mutual_nearest_neighbors(landmarks.describe(features.descriptors), landmarks.descriptors[seen])
    rows, index = pairs[:, 0].astype(np.int64), seen[pairs[:, 1]]
    if radius is not None:
        near = np.linalg.norm(features.keypoints[rows] - pixels[index], axis=1) <= radius
        rows, index = rows[near], index[near]
    return NearMatches(rows, landmarks.xyz[index])


def estimate_near(
    matches: NearMatches, features: LocalFeatures, camera: pycolmap.Camera, estimator: PoseEstimator, radius: float | None
) -> PoseEstimate:
    """The pose of the matches, by the estimator's own rules and, with a `radius`, one more.

    Matches within a radius agree with the prior by chance more easily than any two unrelated points: the test against chance is repeated
    with that probability.
    """
    found = estimator.estimate(features.keypoints[matches.rows], matches.xyz, camera)
    if not found.success or radius is None:
        return found
    by_chance = min(1.0, (estimator.max_error / radius) ** 2)
    if log10_false_alarms(found.num_inliers, len(matches.rows), by_chance) <= MAX_LOG10_FALSE_ALARMS:
        return found
    reason = f"only {found.num_inliers} of {len(matches.rows)} points near the prior agree on a pose, no more than chance"
    return PoseEstimate(False, None, np.zeros(len(matches.rows), dtype=bool), reason)


def choose(search: LocalizationResult, near: LocalizationResult, camera: pycolmap.Camera, max_error: float) -> LocalizationResult:
    """The better of what the search of the whole map and the one near the prior found; `near.doubt` is that of its pose in the whole map.

    Where both found the same pose, the one with more inliers. Where they disagree, a wrong prior is outvoted: its pose goes unless it has
    nearly as many inliers. Where both places fit, the prior decides, and the result names the rival; its confidence is then an even chance
    at most. A pose that the search found counts although it was refused.
    """
    if not near.success:
        return search
    near = near.without_certainty() if near.doubt >= DOUBT else near
    if search.cam_from_map is None:
        return near
    if same_pose(search, near, camera, max_error):
        return search if search.success and search.num_inliers >= near.num_inliers else near
    if near.num_inliers < COMPARABLE * search.num_inliers:
        return search
    if search.num_inliers >= CLEARLY * near.num_inliers or near.doubt >= DOUBT:
        found = search.cam_from_world if search.cam_from_world is not None else search.refused_pose
        assert found is not None
        return near.with_rival(Rival(found, search.num_inliers))
    return near


def same_pose(a: LocalizationResult, b: LocalizationResult, camera: pycolmap.Camera, max_error: float) -> bool:
    """Whether two results put what either explains at the same places in the image."""
    assert a.cam_from_map is not None and b.cam_from_map is not None
    xyz = np.concatenate([a.xyz[a.inliers], b.xyz[b.inliers]]).astype(np.float64)
    one, other = (project(camera, pose.transform(cam_from_map, xyz))[0] for cam_from_map in (a.cam_from_map, b.cam_from_map))
    apart = np.nan_to_num(np.linalg.norm(one - other, axis=1), nan=np.inf)
    return bool(np.median(apart) <= SAME_PIXELS * max_error)
