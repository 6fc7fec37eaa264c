"""Whether the camera that a photo is said to have fits what it shows: crops, digital zooms and another lens do not fit.

After a pose, focal length and principal point are freed (a crop beside the middle moves the latter). With a right camera that gains next to
nothing. With a wrong one the reprojection error falls clearly, to a camera that a crop or another lens explains, and that camera then is
the answer's. How much it falls on the photos of the map itself, whose cameras are right by definition, says what is clear here: a map
whose photos were forced into one camera that they never had would else call every camera wrong.
"""

from __future__ import annotations

import math

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.localization.base import PoseEstimate
from d2s.localization.correspondences import Correspondences
from d2s.localization.covariance import PARAMETERS, joint_covariance
from d2s.localization.focal import OPEN
from d2s.localization.lens import CENTER, FOCAL, Free
from d2s.localization.refine import find_inliers, promise, refine_camera, robust_cost

Array = NDArray[np.float64]
CLEAR = 0.95
"""A camera is wrong where another one lowers the robust error below this share of what photos of the map gain by the same freedom.
Measured: no right camera of 45 photos in four scenes falls below; 44 of 45 do where the middle 80 % of the photo are enlarged."""
PROMISING = 1 / 8
"""Share of the fall that one step must promise: for most right cameras the question ends there, after some two milliseconds."""
CHANGED, DEVIATIONS = 0.03, 3.0
"""Least relative change of the focal length that counts, and least change in its standard deviations."""
KEPT = 0.95
"""Share of its inliers that a camera's replacement must keep."""
MARGIN = 0.02
"""Principal points lie off the middle by so much of the longer image side in photos that nobody cropped."""
CHANCE = 6.0
"""Three more numbers to fit take 3 / (2 n) of the error of n points by chance alone: four times that is clear. Without this, two of 13
right cameras of Gerrard Hall asked from its side were replaced, on 29 and 69 inliers."""
FEWEST = 20
"""Inliers below which a camera is not questioned."""


def other_camera(found: PoseEstimate, points: Correspondences, max_error: float, usual: float = 1.0) -> PoseEstimate | None:
    """The pose with the camera that fits clearly better than the one that the points were given with; None where that one does.

    `found`: pose of the N rows that `points` come from. `usual`: what photos of the map gain, see `gain`.
    """
    assert found.cam_from_world is not None
    clear = CLEAR * usual * max(1 - CHANCE / max(found.num_inliers, 1), 0.0)
    promising = 1 - PROMISING * (1 - clear)
    if found.num_inliers < FEWEST or promise(found.cam_from_world, points, max_error, (FOCAL, CENTER)) > promising:
        return None
    at_given, _ = refine_camera(found.cam_from_world, points, max_error, ())
    agreeing = find_inliers(at_given, points, max_error)
    least = 0.0
    for free in ((FOCAL, CENTER), (FOCAL,)):
        cam_from_map, camera = refine_camera(at_given, points, max_error, free)
        seen = points.seen_by(camera)
        inliers = find_inliers(cam_from_map, seen, max_error)
        either = inliers | agreeing
        left = _cost(cam_from_map, seen, either, max_error) / max(_cost(at_given, points, either, max_error), 1e-12)
        if left >= clear or CLEAR * left > least > 0:  # nothing gained, or only what the principal point explains better
            return None
        least = left
        if inliers.sum() >= KEPT * agreeing.sum() and _explained(points.camera, camera, cam_from_map, seen, inliers, free):
            return PoseEstimate(True, cam_from_map, points.scatter(inliers), "", camera, free)
    return None


def gain(cam_from_map: Array, points: Correspondences, max_error: float) -> float:
    """Share of the robust error that is left where focal length and principal point are freed: 1 for a camera that fits perfectly."""
    at_given, _ = refine_camera(cam_from_map, points, max_error, ())
    freed, camera = refine_camera(at_given, points, max_error, (FOCAL, CENTER))
    before = robust_cost(at_given, points, max_error)
    return robust_cost(freed, points.seen_by(camera), max_error) / before if before > 0 else 1.0


def _cost(cam_from_map: Array, points: Correspondences, rows: NDArray[np.bool_], max_error: float) -> float:
    return robust_cost(cam_from_map, points.only(rows), max_error)


def _explained(
    given: pycolmap.Camera, camera: pycolmap.Camera, cam_from_map: Array, seen: Correspondences, inliers: NDArray[np.bool_], free: Free
) -> bool:
    """Whether a crop, a zoom or another lens makes such a camera of the given one, and the inliers fix it well enough to say so."""
    covariance = joint_covariance(cam_from_map, seen.pixels[inliers], seen.xyz[inliers], camera, free)
    if covariance is None:
        return False
    deviation = np.sqrt(covariance.diagonal()[PARAMETERS:])
    longer = math.log(camera.mean_focal_length() / given.mean_focal_length())
    size = np.array([given.width, given.height])
    room = (math.exp(max(longer, 0.0)) - 1) / 2 * size + MARGIN * size.max()  # of a part of the image that is enlarged to its size
    index = list(given.principal_point_idxs())
    moved = np.abs(np.array(camera.params)[index] - np.array(given.params)[index])
    within = CENTER not in free or bool((moved <= room + DEVIATIONS * deviation[1:]).all())
    return within and deviation[0] <= OPEN and abs(longer) >= max(math.log(1 + CHANGED), DEVIATIONS * deviation[0])
