"""Poses of another program that follow another convention than `results.txt`: world to camera, quaternions w x y z."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from d2s.evaluation.score import Score
from d2s.geometry import pose

Array = NDArray[np.float64]
CLEARLY = 10.0
"""Times by which distances and angles must be smaller in another convention, in the median."""


def _reordered(cam_from_world: Array) -> Array:
    """What the numbers of a line mean where the quaternion is x y z w."""
    qvec, tvec = pose.to_qvec_tvec(cam_from_world)
    return pose.from_qvec_tvec(np.roll(qvec, 1), tvec)


OTHERS: dict[str, Callable[[Array], Array]] = {
    "camera to world": pose.inverse,
    "quaternions x y z w": _reordered,
    "camera to world with quaternions x y z w": lambda cam_from_world: pose.inverse(_reordered(cam_from_world)),
}


def other_convention(scores: Sequence[Score]) -> str | None:
    """The convention in which the poses agree with the truth far better than in that of `results.txt`; None where there is none."""
    pairs = [(score.cam_from_world, score.image.cam_from_world) for score in scores]
    posed = [(found, true) for found, true in pairs if found is not None and true is not None]
    if not posed:
        return None
    given = _medians([pose.pose_error(found, true) for found, true in posed])
    for name, read in OTHERS.items():
        if np.all(CLEARLY * _medians([pose.pose_error(read(found), true) for found, true in posed]) < given):
            return name
    return None


def _medians(errors: Sequence[tuple[float, float]]) -> Array:
    return np.median(np.asarray(errors), axis=0)
