"""Whether the camera that a photo is said to have fits what it shows: crops, digital zooms and another lens do not fit.

After a pose, focal length and principal point are freed (a crop beside the middle moves the latter). With a right camera that gains next to
nothing. With a wrong one the reprojection error falls clearly. The pose of a wrong camera is no good place to begin, so pose and focal
length are then found anew, too; a camera that a crop or another lens explains becomes the answer's, and where none does, the pose is
refused. How much the error falls on the photos of the map itself, whose cameras are right by definition, says what is clear here: a map
whose photos were forced into one camera that they never had would else call every camera wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.localization.acceptance import FOCAL_SAMPLE, is_by_chance
from d2s.localization.base import PoseEstimate
from d2s.localization.correspondences import Correspondences
from d2s.localization.covariance import PARAMETERS, joint_covariance
from d2s.localization.focal import OPEN, estimate_with_focal, start_with_focal
from d2s.localization.lens import CENTER, FOCAL, Free, believable
from d2s.localization.refine import find_inliers, promise, refine_camera, robust_cost

Array = NDArray[np.float64]
State = tuple[Array, pycolmap.Camera]
FEWEST = 20
"""Keypoints below which an image of the map is not asked."""
CLEAR = 0.98
"""A camera is wrong where another one lowers the robust error below this share of what photos of the map gain by the same freedom."""
CHANCE = 12.0
"""Three more numbers to fit take 3 / (2 n) of the error of n points by chance alone, and minima are many: eight times that is clear. With
half of it, a right camera of the fox asked from its side (0.88 on 117 inliers) would be refused."""
PROMISING = 1 / 4
"""Share of the fall that one step must promise: for most right cameras the question ends there, after some two milliseconds."""
THIN = 1 / 10
"""Share of agreeing points below which a promise says nothing: the pose itself may be that of a wrong camera."""
SIMPLER = 0.97
"""Share of the error with a free focal length alone to which a free principal point must bring it to be believed."""
SOUND = 0.95
"""What photos of the map gain below which no photo is refused for its camera, and none mended but to a longer focal length, as a crop's:
those of the map fit no better. On the Statue of Liberty, whose map knows one camera for all devices (0.84), 3 of 37 were refused."""
MARGIN, DEVIATIONS = 0.02, 3.0
"""Principal points lie off the middle by so much of the longer image side in photos that nobody cropped, and are estimated to so many
standard deviations."""
REASON = "its camera does not fit what the image shows, nor does that of a part of it or of a zoom: name the right one, or none"


def other_camera(
    found: PoseEstimate, points: Correspondences, max_error: float, usual: float | None = 1.0, seed: int = 0
) -> PoseEstimate | None:
    """The pose with the camera that fits clearly better than the one that the points were given with; None where that one does.

    `found`: pose of the N rows that `points` come from, or a failure. The answer is a failure where the given camera does not fit and the
    one that does is none that a crop or another lens makes of it. `usual`: what photos of the map gain, see `gain`; None where that is
    not known, and then no photo is refused.
    """
    if found.cam_from_world is None:
        return _settled(_candidates([], points, max_error, seed), None, points, max_error, 0.0)
    given, near = (found.cam_from_world, points.camera), []
    clear = CLEAR * (1.0 if usual is None else usual)
    if found.num_inliers >= THIN * len(points) and believable(points.camera):  # else a step promises nothing
        if promise(given[0], points, max_error, (FOCAL, CENTER)) > 1 - PROMISING * (1 - clear):
            return None
        near = [refine_camera(given[0], points, max_error, (FOCAL, CENTER))]
        if _left(near[0], given, points, max_error) >= clear:
            return None
    clear *= max(1 - CHANCE / max(found.num_inliers, 1), 0.0)
    other = _settled(_candidates([given], points, max_error, seed, near), given, points, max_error, clear)
    if other is not None and other.success:
        other = _undistorted(other, points, max_error, seed)
    return None if other is None or ((usual is None or usual < SOUND) and not _longer(other, points.camera)) else other


def _undistorted(mended: PoseEstimate, points: Correspondences, max_error: float, seed: int) -> PoseEstimate:
    """The answer without any camera where it fits clearly better: the given distortion is wrong, a longer focal length only hides it."""
    assert mended.cam_from_world is not None and mended.camera is not None
    size = points.camera.width, points.camera.height
    alone = estimate_with_focal(points.pixels, points.xyz, size, max_error, points.weights, seed)
    if alone.cam_from_world is None or alone.camera is None:
        return mended
    if _left((alone.cam_from_world, alone.camera), (mended.cam_from_world, mended.camera), points, max_error) >= CLEAR:
        return mended
    return PoseEstimate(True, alone.cam_from_world, points.scatter(alone.inliers), "", alone.camera, alone.free)


def _longer(found: PoseEstimate, given: pycolmap.Camera) -> bool:
    """Whether a pose goes with a longer focal length than the given one, as that of any crop or zoom."""
    return found.camera is not None and found.camera.mean_focal_length() > given.mean_focal_length()


def _candidates(starts: list[State], points: Correspondences, max_error: float, seed: int, near: Sequence[State] = ()) -> list[State]:
    """Pose and camera with a free focal length, then with a free principal point as well; none where nothing is found.

    Refinement begins at `starts`, at a pose and a focal length that are found anew, and for the second at those `near` as well.
    """
    anew = start_with_focal(points, max_error, seed)
    starts = [*starts, *([] if anew is None else [anew])]
    if not starts:
        return []
    zoomed = _best(starts, points, max_error, (FOCAL,))
    return [zoomed, _best([*starts, *near, zoomed], points, max_error, (FOCAL, CENTER))]


def _settled(
    candidates: list[State], given: State | None, points: Correspondences, max_error: float, clear: float
) -> PoseEstimate | None:
    """The better of two `_candidates` where it is clearly better than the given state."""
    if not candidates:
        return None
    zoomed, shifted = candidates
    free: Free = (FOCAL, CENTER)
    if _left(shifted, zoomed, points, max_error) >= SIMPLER:
        shifted, free = zoomed, (FOCAL,)
    if given is not None and _left(shifted, given, points, max_error) >= clear:
        return None
    seen = points.seen_by(shifted[1])
    inliers = find_inliers(shifted[0], seen, max_error)
    if is_by_chance(int(inliers.sum()), seen, max_error, FOCAL_SAMPLE):
        return None
    if _explained(points.camera, shifted, seen.only(inliers), free):
        return PoseEstimate(True, shifted[0], points.scatter(inliers), "", shifted[1], free)
    return None if given is None else PoseEstimate(False, None, points.scatter(np.zeros(len(points), dtype=bool)), REASON)


def gain(cam_from_map: Array, points: Correspondences, max_error: float) -> float:
    """Share of the robust error that is left where focal length and principal point are freed: 1 for a camera that fits perfectly."""
    at_given, _ = refine_camera(cam_from_map, points, max_error, ())
    freed, camera = refine_camera(at_given, points, max_error, (FOCAL, CENTER))
    before = robust_cost(at_given, points, max_error)
    return robust_cost(freed, points.seen_by(camera), max_error) / before if before > 0 else 1.0


def _best(starts: list[State], points: Correspondences, max_error: float, free: Free) -> State:
    """The best pose and camera that refinement finds from any of some."""
    found = [refine_camera(start[0], points.seen_by(start[1]), max_error, free) for start in starts]
    return min(found, key=lambda state: robust_cost(state[0], points.seen_by(state[1]), max_error))


def _left(state: State, other: State, points: Correspondences, max_error: float) -> float:
    """Robust error of one pose and camera as a share of another's, over the points that agree with either."""
    seen = [(cam_from_map, points.seen_by(camera)) for cam_from_map, camera in (state, other)]
    either = np.logical_or(*(find_inliers(*one, max_error) for one in seen))
    costs = [robust_cost(cam_from_map, of.only(either), max_error) for cam_from_map, of in seen]
    return costs[0] / max(costs[1], 1e-12)


def _explained(given: pycolmap.Camera, state: State, agreeing: Correspondences, free: Free) -> bool:
    """Whether a crop, a zoom or another lens makes such a camera of the given one, and the inliers fix it well enough to say so."""
    covariance = joint_covariance(state[0], agreeing.pixels, agreeing.xyz, state[1], free)
    if covariance is None:
        return False
    deviation = np.sqrt(covariance.diagonal()[PARAMETERS:])
    longer = math.log(state[1].mean_focal_length() / given.mean_focal_length())
    size = np.array([given.width, given.height])
    room = (math.exp(max(longer, 0.0)) - 1) / 2 * size + MARGIN * size.max()  # of a part of the image that is enlarged to its size
    index = list(given.principal_point_idxs())
    moved = np.abs(np.array(state[1].params)[index] - np.array(given.params)[index])
    return bool(deviation[0] <= OPEN) and (CENTER not in free or bool((moved <= room + DEVIATIONS * deviation[1:]).all()))
