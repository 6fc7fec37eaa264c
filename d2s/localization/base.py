"""From correspondences between pixels and scene coordinates to a camera pose: one interface over every RANSAC library.

All back ends share what happens before RANSAC (points that cannot be used are set aside, degenerate sets are refused) and after it
(refinement and inlier counting with the true camera, and the decision whether the pose is more than chance), so that their results can
be compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.localization.acceptance import is_by_chance
from d2s.localization.correspondences import Correspondences, degeneracy
from d2s.localization.lens import Free
from d2s.localization.refine import find_inliers, refine_pose

Array = NDArray[np.float64]
DEFAULT_MAX_ERROR = 12.0


@dataclass(frozen=True)
class PoseEstimate:
    """A pose, or why there is none.

    `cam_from_world` is (3, 4) float64 or None. `inliers` (N,) bool, row-aligned with the given points: those that the pose projects to
    within `max_error` pixels of where they were seen (all False on failure). `reason` is empty on success. `camera`: the one that was
    estimated with the pose, None where the given one was taken, and what of it was `free`.
    """

    success: bool
    cam_from_world: Array | None
    inliers: NDArray[np.bool_]
    reason: str = ""
    camera: pycolmap.Camera | None = None
    free: Free = ()

    @property
    def num_inliers(self) -> int:
        """How many points agree with the pose."""
        return int(self.inliers.sum())


@dataclass
class PoseEstimator(ABC):
    """Robust absolute pose. Deterministic: the same input gives the same pose.

    `max_error`: inlier threshold in pixels of the original image. `seed`: seed of the random sampling. `options`: options of the back end's
    own RANSAC, under its own names; unknown names are refused. `refine`: end with the non-linear refinement of `d2s.localization.refine`.
    """

    max_error: float = DEFAULT_MAX_ERROR
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    refine: bool = True
    name = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.max_error) and self.max_error > 0):
            raise InputError(f"The inlier threshold max_error must be a positive number of pixels, not {self.max_error}.")

    def estimate(self, pixels: ArrayLike, xyz: ArrayLike, camera: pycolmap.Camera, reliability: ArrayLike | None = None) -> PoseEstimate:
        """Pose of the camera that saw scene points `xyz` (N, 3) at `pixels` (N, 2), top-left pixel centre at (0, 0).

        `reliability` (N,), if given, weights the refinement. Bad geometry, too few points or outliers only give a failure with its reason,
        never an exception.
        """
        points = Correspondences.clean(pixels, xyz, camera, reliability)
        problem = degeneracy(points)
        if problem:
            return self._failure(points, problem)
        hypothesis = self._ransac(points)
        if hypothesis is None or not np.isfinite(hypothesis).all():
            return self._failure(points, f"{self.name} found no pose for {len(points)} points")
        cam_from_world = self._finish(hypothesis, points)
        inliers = find_inliers(cam_from_world, points, self.max_error)
        if is_by_chance(int(inliers.sum()), points, self.max_error):
            return self._failure(points, f"only {int(inliers.sum())} of {len(points)} points agree on a pose, no more than chance")
        return PoseEstimate(True, cam_from_world, points.scatter(inliers))

    def _finish(self, cam_from_world: Array, points: Correspondences) -> Array:
        return refine_pose(cam_from_world, points, self.max_error) if self.refine else cam_from_world

    def _failure(self, points: Correspondences, reason: str) -> PoseEstimate:
        return PoseEstimate(False, None, points.scatter(np.zeros(len(points), dtype=bool)), reason)

    @abstractmethod
    def _ransac(self, points: Correspondences) -> Array | None:
        """The back end's pose (3, 4), or None. `points` holds at least four finite, non-degenerate correspondences."""
