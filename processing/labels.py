"""From an SfM model to labels: which keypoint of which image shows which scene coordinate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, ReconstructionError
from d2s.scene.label_store import Labels

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabelOptions:
    """Which 3D points are good enough to learn from.

    min_track_length: images that see the point, at least. max_error_px: mean reprojection error, at most. min_angle_deg: the largest angle
    between two of its rays, at least. min_median: labels of the median image, below which the scene is refused.
    """

    min_track_length: int = 3
    max_error_px: float = 4.0
    min_angle_deg: float = 1.5
    min_median: int = 50


@dataclass(frozen=True)
class PointTable:
    """The 3D points of a model as arrays (P,), and for every image the point row (N,) of each of its keypoints, -1 for none."""

    xyz: Array
    track_length: NDArray[np.int32]
    error: Array
    angle_deg: Array
    row_of_keypoint: dict[str, NDArray[np.int64]]


def make_labels(table: PointTable, rows: Mapping[str, int], options: LabelOptions) -> Iterator[tuple[str, Labels]]:
    """Labels of every image in `rows` (name -> number of features), row-aligned; keypoints without a good point stay, as negatives.

    An image that the model lacks gets negatives only. Raises FormatError when model and features do not belong together.
    """
    good = good_points(table, options)
    for name, count in rows.items():
        index = table.row_of_keypoint.get(name, np.full(count, -1))
        if len(index) != count:
            raise FormatError(
                f"The SfM model has {len(index)} keypoints of image {name}, the features have {count}.", "Preprocess with --overwrite."
            )
        yield name, _labels_of(table, index, good)


def good_points(table: PointTable, options: LabelOptions) -> NDArray[np.bool_]:
    """Which points (P,) pass the filters."""
    return np.asarray(
        (table.track_length >= options.min_track_length)
        & (table.error <= options.max_error_px)
        & (table.angle_deg >= options.min_angle_deg)
        & np.isfinite(table.xyz).all(axis=1)
    )


def _labels_of(table: PointTable, index: NDArray[np.int64], good: NDArray[np.bool_]) -> Labels:
    valid = index >= 0
    valid[valid] = good[index[valid]]
    xyz, length, error = np.zeros((len(index), 3), np.float32), np.zeros(len(index), np.int32), np.zeros(len(index), np.float32)
    found = index[valid]
    xyz[valid], length[valid], error[valid] = table.xyz[found], table.track_length[found], table.error[found]
    return Labels(xyz, valid, length, error)


def require_labels(counts: Sequence[int], options: LabelOptions, advice: str) -> None:
    """Raise ReconstructionError when the median image has too few labels to learn from."""
    median = float(np.median(counts)) if len(counts) else 0.0
    if median < options.min_median:
        raise ReconstructionError(
            f"The median training image has {median:g} labels; at least {options.min_median} are needed "
            f"(3D points seen in {options.min_track_length} or more images, reprojection error up to {options.max_error_px:g} px).",
            advice,
        )


def point_table(model: pycolmap.Reconstruction, observed: Mapping[str, NDArray[np.int64]] | None = None) -> PointTable:
    """The model's points and observations as arrays.

    `observed`: point ids (N,) of each image's keypoints, -1 for none, where they were read from the file already (much faster).
    """
    points = model.points3D
    point_ids = np.fromiter(points.keys(), dtype=np.int64, count=len(points))
    values = list(points.values())
    row_of_id = np.full(int(point_ids.max(initial=0)) + 1, -1, dtype=np.int64)
    row_of_id[point_ids] = np.arange(len(point_ids))
    xyz = np.array([point.xyz for point in values], dtype=np.float64).reshape(-1, 3)
    ids = {image.name: _ids_of(image) if observed is None else observed[image.name] for image in model.images.values()}
    rows = {name: np.where(found >= 0, row_of_id[found], -1) for name, found in ids.items()}
    centers = {image.name: image.projection_center() for image in model.images.values()}
    seen = np.concatenate([np.zeros(0, np.int64), *(found[found >= 0] for found in rows.values())])
    return PointTable(
        xyz=xyz,
        track_length=np.bincount(seen, minlength=len(xyz)).astype(np.int32),
        error=np.array([point.error for point in values], dtype=np.float64),
        angle_deg=_largest_angles(xyz, rows, centers),
        row_of_keypoint=rows,
    )


def _ids_of(image: pycolmap.Image) -> NDArray[np.int64]:
    """Point id (N,) of each keypoint of an image, -1 for none."""
    ids = np.full(image.num_points2D(), -1, dtype=np.int64)
    observed = np.asarray(image.get_observation_point2D_idxs(), dtype=np.int64)
    ids[observed] = np.array([point.point3D_id for point in image.get_observation_points2D()], dtype=np.int64)
    return ids


def _largest_angles(xyz: Array, rows: Mapping[str, NDArray[np.int64]], centers: Mapping[str, Array]) -> Array:
    """Largest angle (P,) in degrees between two rays of each point.

    From a ray to the one farthest from it, and on from there: never less than half of the true diameter, and seldom much less than all.
    """
    if len(xyz) == 0:
        return np.zeros(0)
    point = np.concatenate([r[r >= 0] for r in rows.values()])
    center = np.concatenate([np.repeat(centers[name][None], int((r >= 0).sum()), axis=0) for name, r in rows.items()])
    order = np.argsort(point, kind="stable")
    point = point[order]
    rays = center[order] - xyz[point]
    rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
    reference = np.searchsorted(point, np.arange(len(xyz)))  # first ray of each point
    for _ in range(3):
        reference, angle = _farthest(rays, point, reference)
    return angle


def _farthest(rays: Array, point: NDArray[np.int64], reference: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """For each point the ray farthest from its reference ray, and their angle in degrees."""
    difference = rays - rays[reference[point]]
    chord = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    longest = np.maximum.reduceat(chord, np.searchsorted(point, np.arange(len(reference))))
    reached = np.flatnonzero(chord == longest[point])
    farthest = np.empty_like(reference)
    farthest[point[reached]] = reached  # the last of equal ones stays
    return farthest, np.degrees(2 * np.arcsin(np.clip(longest / 2, 0, 1)))
