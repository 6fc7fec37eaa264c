"""Absolute pose by PoseLib's LO-RANSAC (Larsson and contributors)."""

from __future__ import annotations

from typing import Any

import numpy as np
import poselib

from d2s.errors import unknown_choice
from d2s.localization.base import Array, PoseEstimator
from d2s.localization.correspondences import Correspondences

# PoseLib's 100000 spend seconds on images that show another place; this many still find a pose among 90 % outliers.
MAX_ITERATIONS = 20_000
# PoseLib's 1000 take 10 ms where most points are right and an early sample finds the pose. Where fewer are, it goes on by itself.
MIN_ITERATIONS = 100


class PoselibEstimator(PoseEstimator):
    """PoseLib on undistorted points: it knows some COLMAP camera models only, and estimates on undistorted points in any case."""

    name = "poselib"

    def _ransac(self, points: Correspondences) -> Array | None:
        size = {"width": points.camera.width, "height": points.camera.height}
        camera = {"model": "SIMPLE_PINHOLE", **size, "params": [points.focal, 0.0, 0.0]}
        limits = {"min_iterations": MIN_ITERATIONS, "max_iterations": MAX_ITERATIONS}
        ransac = {"max_reproj_error": self.max_error, "seed": self.seed, **limits, **self.options}
        found, info = poselib.estimate_absolute_pose(points.undistorted, points.xyz, camera, _known(ransac), {})
        return np.asarray(found.Rt, dtype=np.float64) if info["num_inliers"] else None


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The same options; PoseLib itself ignores names that it does not know."""
    allowed = dict(poselib.RansacOptions())
    for name in options:
        if name not in allowed:
            raise unknown_choice("PoseLib RANSAC option", name, allowed)
    return options
