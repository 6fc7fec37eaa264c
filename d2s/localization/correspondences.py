"""Correspondences between pixels and scene coordinates, cleaned for pose estimation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.geometry.camera import unproject

Array = NDArray[np.float64]
MIN_POINTS = 4  # three fix the pose up to four solutions, the fourth decides between them
FLAT = 1e-6  # ratio of extents below which points count as lying on one line


@dataclass(frozen=True)
class Correspondences:
    """M usable correspondences out of N given ones.

    pixels (M, 2) as seen, rays (M, 2) undistorted on the plane z = 1, xyz (M, 3) in the world, weights (M,) for refinement, `rows` (M,)
    their places among the N given, and the true camera.
    """

    pixels: Array
    rays: Array
    xyz: Array
    weights: Array
    rows: NDArray[np.int64]
    total: int
    camera: pycolmap.Camera

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def focal(self) -> float:
        """Mean focal length in pixels: turns pixel thresholds into thresholds on undistorted points."""
        return float(self.camera.mean_focal_length())

    @property
    def undistorted(self) -> Array:
        """Pixels (M, 2) of a pinhole camera with the same focal length and its principal point at the origin."""
        return self.rays * self.focal

    def seen_by(self, camera: pycolmap.Camera) -> Correspondences:
        """The same points seen by another camera; a pixel that it cannot have seen has no ray (NaN)."""
        return self if camera is self.camera else replace(self, camera=camera, rays=unproject(camera, self.pixels))

    def only(self, mask: NDArray[np.bool_]) -> Correspondences:
        """The usable rows of a mask (M,)."""
        parts = {name: getattr(self, name)[mask] for name in ("pixels", "rays", "xyz", "weights", "rows")}
        return replace(self, **parts)

    def scatter(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask over the usable rows as one over all given rows."""
        full = np.zeros(self.total, dtype=bool)
        full[self.rows[mask]] = True
        return full

    @staticmethod
    def clean(pixels: ArrayLike, xyz: ArrayLike, camera: pycolmap.Camera, reliability: ArrayLike | None = None) -> Correspondences:
        """Drop rows with coordinates that are not finite or that the camera model cannot have seen.

        Raises InputError when the arrays do not belong together.
        """
        pixels, xyz, weights = _checked(pixels, xyz, reliability)
        finite = np.isfinite(pixels).all(axis=1) & np.isfinite(xyz).all(axis=1) & np.isfinite(weights)
        rows = np.flatnonzero(finite)
        rays = unproject(camera, pixels[rows])
        rows, rays = rows[np.isfinite(rays).all(axis=1)], rays[np.isfinite(rays).all(axis=1)]
        return Correspondences(pixels[rows], rays, xyz[rows], weights[rows], rows, len(pixels), camera)


def _checked(pixels: ArrayLike, xyz: ArrayLike, reliability: ArrayLike | None) -> tuple[Array, Array, Array]:
    pixels, xyz = np.asarray(pixels, dtype=np.float64), np.asarray(xyz, dtype=np.float64)
    weights = np.ones(len(pixels)) if reliability is None else np.asarray(reliability, dtype=np.float64)
    n = len(pixels)
    if pixels.shape != (n, 2) or xyz.shape != (n, 3) or weights.shape != (n,):
        shapes = f"{pixels.shape}, {xyz.shape}, {weights.shape}"
        raise InputError(f"Pose estimation needs pixels (N, 2), xyz (N, 3) and weights (N,), not {shapes}.")
    return pixels, xyz, weights


def degeneracy(points: Correspondences) -> str:
    """Why these points cannot fix a pose; empty when they may."""
    if len(points) < MIN_POINTS:
        return f"{len(points)} usable points, {MIN_POINTS} are needed"
    if min(_distinct(points.pixels), _distinct(points.xyz)) < MIN_POINTS:
        return f"fewer than {MIN_POINTS} distinct points"
    if _on_a_line(points.xyz):
        return "all scene points lie on one line"
    if _on_a_line(points.rays):
        return "all pixels lie on one line"
    return ""


def _distinct(rows: Array) -> int:
    """How many rows (N, D) differ from each other, counted up to MIN_POINTS."""
    count = 0
    while len(rows) and count < MIN_POINTS:
        rows, count = rows[(rows != rows[0]).any(axis=1)], count + 1
    return count


def _on_a_line(points: Array) -> bool:
    extents = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(extents[1] <= FLAT * extents[0])
