"""Absolute pose by OpenCV's solvePnPRansac."""

from __future__ import annotations

import cv2
import numpy as np

from d2s.errors import unknown_choice
from d2s.localization.base import Array, PoseEstimator
from d2s.localization.correspondences import Correspondences

DEFAULTS = {"iterationsCount": 5000, "confidence": 0.9999}


class OpencvEstimator(PoseEstimator):
    """OpenCV on undistorted points."""

    name = "opencv"

    def _ransac(self, points: Correspondences) -> Array | None:
        for name in self.options:
            if name not in DEFAULTS:
                raise unknown_choice("OpenCV RANSAC option", name, DEFAULTS)
        cv2.setRNGSeed(self.seed)
        intrinsics = np.diag([points.focal, points.focal, 1.0])
        settings = {**DEFAULTS, **self.options, "reprojectionError": self.max_error, "flags": cv2.SOLVEPNP_AP3P}
        try:
            found, rotation, translation, _ = cv2.solvePnPRansac(points.xyz, points.undistorted, intrinsics, None, **settings)
        except cv2.error:  # OpenCV asserts inside its final solver when the inliers are degenerate
            return None
        return np.concatenate([cv2.Rodrigues(rotation)[0], translation.reshape(3, 1)], axis=1) if found else None
