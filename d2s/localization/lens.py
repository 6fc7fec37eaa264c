"""What of a camera can be estimated together with its pose, and how pixels and cameras move with it.

FOCAL: the logarithm of the focal length (both, where there are two). CENTER: the principal point, pixels. RADIAL: the first coefficient of
radial distortion, of cameras that have one.
"""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry.camera import make_camera, pixels_from_colmap, project

Array = NDArray[np.float64]
FOCAL, CENTER, RADIAL = "focal", "center", "radial"
SIZES = {FOCAL: 1, CENTER: 2, RADIAL: 1}
STEP = 1e-5  # of a radial coefficient, for its derivative
FOCAL_RANGE = (0.3, 6.0)
"""Focal lengths that are believed, as a share of the longer image side: 118 to 9.5 degrees from one end of it to the other."""

KEPT_CENTER, KEPT_RADIAL = 0.003, 0.02
"""How far off what is not estimated of a camera may be where the rest is: the principal point as a share of the longer image side, and the
first coefficient of distortion. Standard deviations, before those of all poses are widened (`d2s.localization.trust`)."""

Free = tuple[str, ...]


def size_of(free: Free) -> int:
    """How many numbers are free."""
    return sum(SIZES[name] for name in free)


def lens_jacobian(camera: pycolmap.Camera, points: Array, pixels: Array, free: Free) -> Array:
    """Derivative (N, 2, size_of(free)) of the pixels (N, 2) to which a camera projects points (N, 3) in its frame."""
    columns = [_jacobian(camera, points, pixels, name) for name in free]
    return np.concatenate([np.zeros((len(points), 2, 0)), *columns], axis=2)


def kept_jacobian(camera: pycolmap.Camera, points: Array, free: Free) -> Array:
    """What a standard deviation of each number that nobody knows and that is not `free` would move pixels by, (N, 2, so many), of points
    (N, 3) in the camera's frame. Where the principal point is free, a known lens was zoomed or its image cropped: the rest is known.
    """
    if CENTER in free:
        return np.zeros((len(points), 2, 0))
    shifts = np.tile(KEPT_CENTER * max(camera.width, camera.height) * np.eye(2), (len(points), 1, 1))
    if RADIAL in free:
        return shifts
    rays = points[:, :2] / points[:, 2:]
    bend = KEPT_RADIAL * camera.mean_focal_length() * rays * (rays**2).sum(axis=1, keepdims=True)
    return np.concatenate([shifts, bend[:, :, None]], axis=2)


def _jacobian(camera: pycolmap.Camera, points: Array, pixels: Array, name: str) -> Array:
    if name == FOCAL:  # all that lies between the principal point and a pixel is multiplied with it
        center = pixels_from_colmap(np.array([camera.principal_point_x, camera.principal_point_y]))
        return np.asarray((pixels - center)[:, :, None])
    if name == CENTER:
        return np.tile(np.eye(2), (len(points), 1, 1))
    ahead, back = (project(moved_lens(camera, (RADIAL,), np.array([step])), points)[0] for step in (STEP, -STEP))
    return np.asarray((ahead - back)[:, :, None] / (2 * STEP))


def moved_lens(camera: pycolmap.Camera, free: Free, delta: Array) -> pycolmap.Camera:
    """The camera whose free numbers are changed by delta (size_of(free),)."""
    if not free:
        return camera
    params, start = np.array(camera.params), 0
    for name in free:
        step = delta[start : start + SIZES[name]]
        start += SIZES[name]
        if name == FOCAL:
            params[list(camera.focal_length_idxs())] *= np.exp(np.clip(step[0], -2, 2))
        elif name == CENTER:
            params[list(camera.principal_point_idxs())] += step
        else:
            params[camera.extra_params_idxs()[0]] += step[0]
    return make_camera(camera.model.name, camera.width, camera.height, params)


def believable(camera: pycolmap.Camera) -> bool:
    """Whether the focal length lies in FOCAL_RANGE."""
    return bool(FOCAL_RANGE[0] <= camera.mean_focal_length() / max(camera.width, camera.height) <= FOCAL_RANGE[1])
