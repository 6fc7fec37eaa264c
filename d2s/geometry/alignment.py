"""Similarity transforms between two coordinate frames of the same place, for example a reconstruction and known poses.

Least squares after S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.geometry import pose

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Similarity:
    """x_target = scale * rotation @ x_source + translation."""

    scale: float
    rotation: Array
    translation: Array

    def apply_points(self, points: ArrayLike) -> Array:
        """Points (N, 3) of the source frame in the target frame."""
        return self.scale * np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    def apply_pose(self, cam_from_world: ArrayLike) -> Array:
        """cam_from_world (..., 3, 4) of the same camera with the target frame as its world; depths grow by `scale`."""
        rotation = np.asarray(cam_from_world, dtype=np.float64)[..., :3] @ self.rotation.T
        center = self.apply_points(pose.center(cam_from_world))
        return np.concatenate([rotation, -rotation @ center[..., None]], axis=-1)

    def inverse(self) -> Similarity:
        """The transform from the target frame to the source frame."""
        return Similarity(1 / self.scale, self.rotation.T, -self.rotation.T @ self.translation / self.scale)


def similarity_from_points(source: ArrayLike, target: ArrayLike) -> Similarity:
    """The similarity that maps source points (N, 3) onto target points (N, 3) with the least squared error.

    Raises InputError for fewer than three pairs, or where the source points lie on a line: the rotation about it is then unknown.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) < 3:
        raise InputError(f"Aligning needs at least three pairs of 3D points, not {source.shape} and {target.shape}.")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - source_mean, target - target_mean
    spread = np.linalg.svd(a, compute_uv=False)
    if spread[1] <= 1e-9 * max(spread[0], np.finfo(float).tiny):
        raise InputError("Aligning needs points that do not lie on one line.", "Give more camera positions.")
    u, singular, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u * signs @ vt
    scale = float(singular @ signs / (a * a).sum())
    if not scale > 0:
        raise InputError(
            "The two sets of points have nothing in common: the best scale is not positive.", "Check that the pairs belong together."
        )
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


TRIALS, SAMPLE = 500, 3
OUTLIER = 2.5
"""Residuals beyond this many (robust) standard deviations are outliers."""
MEDIAN_TO_SIGMA = 1 / 1.538
"""The median length of a 3D Gaussian error is 1.538 standard deviations of one axis."""


def robust_similarity(source: ArrayLike, target: ArrayLike, seed: int = 0) -> tuple[Similarity, NDArray[np.bool_]]:
    """As `similarity_from_points`, for pairs of which up to nearly half may be wrong, and which pairs (N,) were taken as right.

    The sample of three pairs with the least median residual is refined on the pairs that agree with it. Raises InputError as there.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    best = similarity_from_points(source, target)
    least = float(np.median(_residuals(best, source, target)))
    rng = np.random.default_rng(seed)
    for _ in range(TRIALS):
        rows = rng.choice(len(source), SAMPLE, replace=False)
        try:
            candidate = similarity_from_points(source[rows], target[rows])
        except InputError:  # three cameras on a line say nothing
            continue
        median = float(np.median(_residuals(candidate, source, target)))
        if median < least:
            best, least = candidate, median
    for _ in range(5):
        residuals = _residuals(best, source, target)
        inliers = residuals <= OUTLIER * np.sqrt(3) * MEDIAN_TO_SIGMA * max(float(np.median(residuals)), 1e-12)
        best = similarity_from_points(source[inliers], target[inliers])
    return best, inliers


def _residuals(similarity: Similarity, source: Array, target: Array) -> Array:
    return np.asarray(np.linalg.norm(similarity.apply_points(source) - target, axis=1))
