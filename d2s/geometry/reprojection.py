"""How far scene points are from the pixels that are said to show them."""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.geometry import pose
from d2s.geometry.camera import project


def reprojection_errors(camera: pycolmap.Camera, cam_from_world: ArrayLike, xyz: ArrayLike, pixels: ArrayLike) -> NDArray[np.float64]:
    """Distances (N,) in pixels between projected scene points (N, 3) and pixels (N, 2).

    Infinite for points behind the camera or outside the domain of its distortion model.
    """
    projected, _ = project(camera, pose.transform(cam_from_world, np.asarray(xyz, dtype=np.float64).reshape(-1, 3)))
    errors = np.linalg.norm(projected - np.asarray(pixels, dtype=np.float64).reshape(-1, 2), axis=1)
    return np.where(np.isfinite(errors), errors, np.inf)
