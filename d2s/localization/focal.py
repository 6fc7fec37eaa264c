"""The pose of a photo whose camera nobody knows: the focal length is estimated with it.

Four points give a pose and a focal length (P4Pf, in COLMAP's RANSAC), unless they lie in a plane: where that fails, focal lengths are tried
one after the other. Both are then refined on all inliers, together with one coefficient
of radial distortion where there are many, under the robust loss that every pose ends with. The principal point stays in the middle: freed
too, it made poses worse.
"""

from __future__ import annotations

import math

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.geometry.camera import colmap_from_pixels, make_camera
from d2s.localization.acceptance import FOCAL_SAMPLE, is_by_chance
from d2s.localization.base import PoseEstimate
from d2s.localization.correspondences import Correspondences, degeneracy
from d2s.localization.covariance import PARAMETERS, joint_covariance
from d2s.localization.lens import FOCAL, RADIAL, Free, believable, moved_lens
from d2s.localization.refine import find_inliers, refine_camera
from d2s.localization.table import make_estimator

Array = NDArray[np.float64]
USUAL = 1.2
"""Focal length of a usual photo, as a share of its longer side: where a search begins."""
OPEN = 0.15
"""Relative standard deviation from which a focal length counts as not fixed by the points: depths are as uncertain."""
MANY = 50
"""Inliers from which distortion is estimated, too."""
MOST_RADIAL = 1.0
"""Coefficients beyond that no lens has: the image does not show its distortion."""
TRIED = USUAL * 1.4 ** np.arange(-4.0, 4.0)
"""Focal lengths that are tried, as shares of the longer side: 0.3 to 3.3. Refinement finds the way from one to the next."""
SAMPLES = 1000
"""RANSAC samples for each of them."""
MIN_INLIER_RATIO = 0.01  # COLMAP's 0.1 gives up early where most points are outliers


def usual_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """A camera for images of `size` (width, height) about which nothing is known."""
    return make_camera("SIMPLE_RADIAL", *size, [USUAL * max(size), size[0] / 2, size[1] / 2, 0.0])


def estimate_with_focal(
    pixels: ArrayLike, xyz: ArrayLike, size: tuple[int, int], max_error: float, reliability: ArrayLike | None = None, seed: int = 0
) -> PoseEstimate:
    """Pose and camera of the image of `size` (width, height) that shows scene points `xyz` (N, 3) at `pixels` (N, 2).

    Arguments and failures as `PoseEstimator.estimate`; one failure more is that the points leave the focal length open.
    """
    points = Correspondences.clean(pixels, xyz, usual_camera(size), reliability)
    problem = degeneracy(points) or ("4 usable points, 5 are needed without a camera" if len(points) <= FOCAL_SAMPLE else "")
    if problem:
        return _failure(points, problem)
    start = start_with_focal(points, max_error, seed)
    if start is None:
        return _failure(points, f"no pose and focal length for {len(points)} points")
    cam_from_map, camera, free = refine_lens(start[0], points.seen_by(start[1]), max_error)
    seen = points.seen_by(camera)
    inliers = find_inliers(cam_from_map, seen, max_error)
    if not believable(camera) or is_by_chance(int(inliers.sum()), seen, max_error, FOCAL_SAMPLE):
        found = f"only {int(inliers.sum())} of {len(points)} points agree on a pose and a focal length"
        return _failure(points, f"{found}, no more than chance")
    deviation = focal_deviation(cam_from_map, seen.pixels[inliers], seen.xyz[inliers], camera, free)
    if deviation > OPEN:
        return _failure(points, open_reason(camera, deviation))
    return PoseEstimate(True, cam_from_map, points.scatter(inliers), "", camera, free)


def start_with_focal(points: Correspondences, max_error: float, seed: int = 0) -> tuple[Array, pycolmap.Camera] | None:
    """Pose and camera, its focal length found anew, where refinement may begin; None where too few points agree on any."""
    return _ransac(points, max_error, seed) or _try_focals(points, max_error, seed)


def refine_lens(cam_from_map: Array, points: Correspondences, max_error: float) -> tuple[Array, pycolmap.Camera, Free]:
    """Pose, camera, and what of the camera was freed, from those near them that the points come with."""
    pose, camera = refine_camera(cam_from_map, points, max_error, (FOCAL,))
    if find_inliers(pose, points.seen_by(camera), max_error).sum() < MANY:
        return pose, camera, (FOCAL,)
    bent, lens = refine_camera(pose, points.seen_by(camera), max_error, (FOCAL, RADIAL))
    return (bent, lens, (FOCAL, RADIAL)) if abs(lens.params[-1]) <= MOST_RADIAL else (pose, camera, (FOCAL,))


def focal_deviation(cam_from_map: Array, pixels: Array, xyz: Array, camera: pycolmap.Camera, free: Free) -> float:
    """Relative standard deviation of a focal length that was estimated with a pose (3, 4) from inliers; infinite where it is open."""
    covariance = joint_covariance(cam_from_map, pixels, xyz, camera, free)
    return math.inf if covariance is None else math.sqrt(covariance[PARAMETERS, PARAMETERS])


def open_reason(camera: pycolmap.Camera, deviation: float) -> str:
    """Why there is no pose where points leave the focal length open."""
    about = f", {camera.mean_focal_length():.0f} px ± {100 * deviation:.0f} %" if deviation < 1 else ""
    return f"what the image shows leaves its focal length open{about}: name its camera"


def _ransac(points: Correspondences, max_error: float, seed: int) -> tuple[Array, pycolmap.Camera] | None:
    camera = make_camera(points.camera.model.name, points.camera.width, points.camera.height, points.camera.params)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.estimate_focal_length = True
    options.ransac.max_error, options.ransac.min_inlier_ratio = max_error, MIN_INLIER_RATIO
    if "random_seed" in options.ransac.todict():
        options.ransac.random_seed = seed
    else:  # before pycolmap 4 the generator is global
        pycolmap.set_random_seed(seed)
    found = pycolmap.estimate_absolute_pose(colmap_from_pixels(points.pixels), points.xyz, camera, options)  # changes the camera
    if found is None or not believable(camera):
        return None
    return np.asarray(found["cam_from_world"].matrix(), dtype=np.float64), camera


def _try_focals(points: Correspondences, max_error: float, seed: int) -> tuple[Array, pycolmap.Camera] | None:
    """The pose with the most inliers among those of cameras with the TRIED focal lengths."""
    estimator = make_estimator("poselib", max_error, seed=seed, options={"max_iterations": SAMPLES})
    best: tuple[int, Array, pycolmap.Camera] | None = None
    for focal in TRIED * max(points.camera.width, points.camera.height):
        camera = moved_lens(points.camera, (FOCAL,), np.array([math.log(focal / points.focal)]))
        found = estimator.estimate(points.pixels, points.xyz, camera, points.weights)
        if found.cam_from_world is not None and (best is None or found.num_inliers > best[0]):
            best = found.num_inliers, found.cam_from_world, camera
    return None if best is None else best[1:]


def _failure(points: Correspondences, reason: str) -> PoseEstimate:
    return PoseEstimate(False, None, points.scatter(np.zeros(len(points), dtype=bool)), reason)
