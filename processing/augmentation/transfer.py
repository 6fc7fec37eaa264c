"""Labels of a copy from those of its source image: by the exact warp, or by matching descriptors as published.

By warp, each keypoint of the copy is taken back to the source image, where its ray is known. It becomes

- **labelled** when it finds the source keypoint that it repeats (nearest within the tolerance, one to one) and that has a label whose
  projection is near;
- **negative** when it repeats a source keypoint that is a negative itself, or when no point of the map projects near it, hidden or not;
- **uncertain** (weight 0, counts in no loss) otherwise: it may show a point of the map that the source image happens not to be linked to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.geometry.reprojection import reprojection_errors
from d2s.scene.label_store import Labels

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class SourceView:
    """The source image of a copy: its features, labels, camera and pose, and all scene points (P, 3) that have labels anywhere."""

    features: LocalFeatures
    labels: Labels
    camera: pycolmap.Camera
    cam_from_world: Array
    points: Array

    def near_point(self, pixels: Array, radius: float) -> NDArray[np.bool_]:
        """Whether some point of the map projects within `radius` pixels of each pixel (N, 2), hidden or not."""
        projected, _ = project(self.camera, pose.transform(self.cam_from_world, self.points))
        reach = np.array([self.camera.width, self.camera.height]) + radius
        projected = projected[((projected > -radius) & (projected < reach)).all(axis=1)]  # false for those that are NaN, too
        if not len(projected):
            return np.zeros(len(pixels), dtype=bool)
        return np.isfinite(cKDTree(projected).query(pixels, distance_upper_bound=radius)[0])

    def errors(self, xyz: ArrayLike, pixels: ArrayLike) -> Array:
        """Distances (N,) in pixels between the projections of scene points (N, 3) and pixels (N, 2) of the source image."""
        return reprojection_errors(self.camera, self.cam_from_world, xyz, pixels)


def labels_by_warp(source: SourceView, origin: Array, tolerance: float, max_error: float, clear: float) -> Labels:
    """Labels (K rows) of a copy whose keypoints lie at `origin` (K, 2) in the source image; distances in pixels of that image."""
    row = repeated(source.features.keypoints.astype(np.float64), origin, tolerance)
    labelled = row >= 0
    labelled[labelled] = source.labels.valid[row[labelled]]
    negative = (row >= 0) & ~labelled
    wrong = labelled.copy()
    wrong[labelled] = source.errors(source.labels.xyz[row[labelled]], origin[labelled]) > max_error
    unmatched = row < 0
    negative[unmatched] = ~source.near_point(origin[unmatched], clear)
    certain = (labelled & ~wrong) | negative
    return _take(source.labels, np.where(labelled & ~wrong, row, -1), certain.astype(np.float32))


def labels_by_match(source: SourceView, matches: NDArray[np.int32], count: int) -> Labels:
    """Labels of a copy's `count` keypoints from matches (M, 2; rows of copy and source); all others are negatives, as published."""
    row = np.full(count, -1, dtype=np.int64)
    row[matches[:, 0]] = np.where(source.labels.valid[matches[:, 1]], matches[:, 1], -1)
    return _take(source.labels, row, None)


def repeated(keypoints: Array, origin: Array, tolerance: float) -> Index:
    """For each of `origin` (K, 2) the row of `keypoints` (N, 2) that it repeats, -1 for none: nearest first, no row is given twice."""
    result = np.full(len(origin), -1, dtype=np.int64)
    if not len(keypoints) or not len(origin):
        return result
    pairs = cKDTree(origin).sparse_distance_matrix(cKDTree(keypoints), tolerance, output_type="ndarray")
    taken = np.zeros(len(keypoints), dtype=bool)
    for i, j, _ in np.sort(pairs, order=("v", "i", "j")):
        if result[i] < 0 and not taken[j]:
            result[i], taken[j] = j, True
    return result


def _take(labels: Labels, row: Index, weight: NDArray[np.float32] | None) -> Labels:
    """The labels of the given rows, unchanged to the last bit; none where the row is -1."""
    valid = row >= 0
    xyz, length, error = np.zeros((len(row), 3), np.float32), np.zeros(len(row), np.int32), np.zeros(len(row), np.float32)
    xyz[valid], length[valid], error[valid] = labels.xyz[row[valid]], labels.track_length[row[valid]], labels.error[row[valid]]
    return Labels(xyz, valid, length, error, weight)
