"""From correspondences to a pose, whatever is known of the camera: nothing, or one that has to prove itself."""

from __future__ import annotations

from dataclasses import replace

import pycolmap
from numpy.typing import ArrayLike

from d2s.localization.acceptance import FOCAL_SAMPLE
from d2s.localization.base import PoseEstimate, PoseEstimator
from d2s.localization.correspondences import Correspondences, degeneracy
from d2s.localization.focal import OPEN, estimate_with_focal, focal_deviation, open_reason
from d2s.localization.guided import CLOSE
from d2s.localization.misfit import other_camera
from d2s.localization.refine import find_inliers, refine_camera
from d2s.localization.result import ESTIMATED, MENDED, LocalizationResult


def estimate_pose(
    estimator: PoseEstimator,
    pixels: ArrayLike,
    xyz: ArrayLike,
    size: tuple[int, int],
    camera: pycolmap.Camera | None,
    reliability: ArrayLike | None = None,
    usual: float | None = None,
) -> PoseEstimate:
    """As `PoseEstimator.estimate` for an image of `size` (width, height); the estimate names its camera where that is not the given one.

    `camera`: None where it is unknown. `usual`: see `d2s.localization.misfit.other_camera`.
    """
    if camera is None:
        return estimate_with_focal(pixels, xyz, size, estimator.max_error, reliability, estimator.seed)
    found = estimator.estimate(pixels, xyz, camera, reliability)
    points = Correspondences.clean(pixels, xyz, camera, reliability)
    if degeneracy(points) or len(points) <= FOCAL_SAMPLE:
        return found
    return other_camera(found, points, estimator.max_error, usual, estimator.seed) or found


def settle(result: LocalizationResult, found: PoseEstimate, camera: pycolmap.Camera | None, max_error: float) -> LocalizationResult:
    """The result with its camera; where that was estimated, pose and camera refined together on all that came to light since `found`.

    `camera`: the one that was given. A failure where focal length and pose cannot be told from each other.
    """
    if found.camera is None or result.cam_from_map is None:
        return replace(result, camera=camera)
    pose, lens = result.cam_from_map, found.camera
    points = Correspondences.clean(result.keypoints[result.used], result.xyz[result.used], lens)
    for error in (max_error, CLOSE * max_error):
        pose, lens = refine_camera(pose, points.seen_by(lens), error, found.free)
    seen = points.seen_by(lens)
    agreeing = find_inliers(pose, seen, max_error)
    deviation = focal_deviation(pose, seen.pixels[agreeing], seen.xyz[agreeing], lens, found.free)
    inliers = result.inliers.copy()
    inliers[result.used] = points.scatter(agreeing)
    origin = ESTIMATED if camera is None else MENDED
    result = replace(result, inliers=inliers, cam_from_map=pose, camera=lens, camera_from=origin, free=found.free, sigma_focal=deviation)
    return result if deviation <= OPEN else _failure(result, open_reason(lens, deviation))


def _failure(result: LocalizationResult, reason: str) -> LocalizationResult:
    return replace(result, success=False, reason=reason, cam_from_world=None, cam_from_map=None)
