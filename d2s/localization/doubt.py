"""Whether an image fits a second place as well as the first: storeys, aisles and doors that look the same.

Inliers of the pose that was found say nothing of it: on a wrong storey everything fits. But the first matches, each the best that the whole
map has for its keypoint, are then divided among the look-alikes, and those that contradict the pose agree on another one.
"""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.localization.base import PoseEstimator
from d2s.localization.correspondences import Correspondences
from d2s.localization.refine import find_inliers

CERTAIN = 0.3
"""Reliability above which a match may speak for another place: less certain ones agree on nothing, and looking for it takes 90 ms."""
FEW = 0.25
"""Contradicting matches, as a share of the agreeing ones, below which no other pose is looked for: it could not have more."""


def doubt(
    cam_from_map: NDArray[np.float64],
    keypoints: NDArray[np.float32],
    xyz: NDArray[np.float32],
    reliability: NDArray[np.float32],
    camera: pycolmap.Camera,
    estimator: PoseEstimator,
) -> float:
    """Matches behind the best pose among those that contradict the given one, over matches that agree with it; 0 to 1.

    The first matches: `keypoints` (M, 2), their scene points `xyz` (M, 3) and `reliability` (M,).
    """
    points = Correspondences.clean(keypoints, xyz, camera, reliability)
    agreeing = points.scatter(find_inliers(cam_from_map, points, estimator.max_error))
    count = int(agreeing.sum())
    if len(points) - count <= FEW * count:
        return 0.0
    other = estimator.estimate(keypoints[~agreeing], xyz[~agreeing], camera, reliability[~agreeing])
    return min(1.0, other.num_inliers / max(count, 1))
