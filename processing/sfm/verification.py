"""Which matches agree with poses that are known: epipolar distance and depth sign, all matches of a pair at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.geometry import pose
from d2s.geometry.camera import unproject

Array = NDArray[np.float64]

MIN_PARALLAX_DEG = 0.5
"""Below this angle between two rays the sign of the depth is noise."""


@dataclass(frozen=True)
class View:
    """One image as verification needs it: rays (N, 3) on z = 1 of its keypoints, focal length in pixels, pose (3, 4)."""

    rays: Array
    focal: float
    cam_from_world: Array


def make_view(camera: pycolmap.Camera, keypoints: ArrayLike, cam_from_world: Array) -> View:
    """The view of an image; keypoints (N, 2) in our pixels, any camera model."""
    plane = unproject(camera, keypoints)
    return View(np.column_stack([plane, np.ones(len(plane))]), float(camera.mean_focal_length()), cam_from_world)


def verify(view0: View, view1: View, matches: NDArray[np.int32], max_error_px: float) -> NDArray[np.int32]:
    """The matches (K, 2) whose epipolar (Sampson) distance is at most `max_error_px` and whose point lies before both cameras.

    A pair without a baseline verifies nothing: every match would have to lie on one ray.
    """
    relative = pose.compose(view1.cam_from_world, pose.inverse(view0.cam_from_world))
    if len(matches) == 0 or np.linalg.norm(relative[:, 3]) < 1e-9:
        return matches[:0]
    x0, x1 = view0.rays[matches[:, 0]], view1.rays[matches[:, 1]]
    error = sampson_distance(relative, x0, x1) * 0.5 * (view0.focal + view1.focal)
    return matches[(error <= max_error_px) & ~_behind(relative, x0, x1)]


def sampson_distance(relative: Array, x0: Array, x1: Array) -> Array:
    """First-order geometric distance (K,) to the epipolar constraint, in units of the plane z = 1. NaN rays give infinity."""
    tx, ty, tz = relative[:, 3] / np.linalg.norm(relative[:, 3])
    essential = np.array([[0, -tz, ty], [tz, 0, -tx], [-ty, tx, 0]]) @ relative[:, :3]
    line1, line0 = x0 @ essential.T, x1 @ essential
    residual = np.abs(np.einsum("ij,ij->i", x1, line1))
    scale = np.sqrt((line1[:, :2] ** 2).sum(axis=1) + (line0[:, :2] ** 2).sum(axis=1))
    return np.nan_to_num(residual / np.maximum(scale, 1e-12), nan=np.inf)


def depths(relative: Array, x0: Array, x1: Array) -> tuple[Array, Array, Array]:
    """Depths (K,) in both cameras of the points where rays meet best, and the sine of the angle between the rays."""
    rotated = x0 @ relative[:, :3].T
    normal = np.cross(x1, rotated)
    squared = np.maximum((normal**2).sum(axis=1), 1e-18)
    t = relative[:, 3]
    depth0 = -(np.cross(x1, t) * normal).sum(axis=1) / squared
    depth1 = -(np.cross(rotated, t) * normal).sum(axis=1) / squared
    sine = np.sqrt(squared) / (np.linalg.norm(x1, axis=1) * np.linalg.norm(rotated, axis=1))
    return depth0, depth1, sine


def _behind(relative: Array, x0: Array, x1: Array) -> NDArray[np.bool_]:
    depth0, depth1, sine = depths(relative, x0, x1)
    return (sine > np.sin(np.radians(MIN_PARALLAX_DEG))) & ((depth0 <= 0) | (depth1 <= 0))
