"""Absolute pose by COLMAP's LO-RANSAC (Schoenberger and contributors)."""

from __future__ import annotations

import numpy as np
import pycolmap

from d2s.errors import unknown_choice
from d2s.geometry.camera import colmap_from_pixels
from d2s.localization.base import Array, PoseEstimator
from d2s.localization.correspondences import Correspondences

MIN_INLIER_RATIO = 0.01  # COLMAP's 0.1 gives up early where most points are outliers


class PycolmapEstimator(PoseEstimator):
    """COLMAP's estimator, with the true camera."""

    name = "pycolmap"

    def _ransac(self, points: Correspondences) -> Array | None:
        found = pycolmap.estimate_and_refine_absolute_pose(
            colmap_from_pixels(points.pixels), points.xyz, points.camera, estimation_options=self._estimation_options()
        )
        return None if found is None else np.asarray(found["cam_from_world"].matrix(), dtype=np.float64)

    def _estimation_options(self) -> pycolmap.AbsolutePoseEstimationOptions:
        options = pycolmap.AbsolutePoseEstimationOptions()
        ransac = options.ransac
        for name, value in {"max_error": self.max_error, "min_inlier_ratio": MIN_INLIER_RATIO, **self.options}.items():
            if name not in ransac.todict():
                raise unknown_choice("pycolmap RANSAC option", name, ransac.todict())
            setattr(ransac, name, value)
        self._seed(ransac)
        return options

    def _seed(self, ransac: pycolmap.RANSACOptions) -> None:
        if "random_seed" in ransac.todict():
            ransac.random_seed = self.seed
        else:  # before pycolmap 4 the generator is global
            pycolmap.set_random_seed(self.seed)
