"""What a few images with known poses say about the poses that a model finds: how often they are right, how far off they are.

Two things that the general constants of `d2s.localization.trust` cannot know: whether this place is harder or easier than others of equal
support, and errors that all inliers share, of the map and of the reference poses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2s.localization.trust import DEGREES_TOLERANCE, Calibration

Array = NDArray[np.float64]
PRIOR_SHIFT = 0.7
"""Standard deviation of the log odds by which places differ: a handful of images says little."""
MAX_SHIFT = 1.0
"""An easy place may not raise the odds by more: other places' photos would profit too."""
FEWEST = 3
"""Right poses needed to say how far off they are."""
EXPECTED = 2.366
"""Median of the squared length of three independent standard normal numbers (chi-square, 3 degrees of freedom)."""


@dataclass(frozen=True)
class Observation:
    """One image: log odds by the general constants, and the error (6,) with the covariance (6, 6) that residuals and pose field give, in
    the parametrisation of `d2s.localization.covariance`; no error without a pose. `residual`: the signal.
    """

    score: float
    difference: Array | None
    covariance: Array | None
    residual: float = math.nan

    def is_right(self, tolerance_t: float, tolerance_r_deg: float = DEGREES_TOLERANCE) -> bool:
        """Whether the pose is within the tolerance."""
        if self.difference is None:
            return False
        turned = math.degrees(float(np.linalg.norm(self.difference[:3])))
        return float(np.linalg.norm(self.difference[3:])) <= tolerance_t and turned <= tolerance_r_deg


def calibrate(observations: Sequence[Observation], tolerance_t: float, tolerance_r_deg: float = DEGREES_TOLERANCE) -> Calibration:
    """The record of a place from images that were not used to map it; `tolerance_t` (scene unit) and degrees say which poses are right."""
    tolerance = tolerance_t, tolerance_r_deg
    found = [o for o in observations if o.difference is not None]
    right = [o for o in found if o.is_right(*tolerance)]
    shift = most_likely_shift(np.array([o.score for o in found]), np.array([o.is_right(*tolerance) for o in found], dtype=bool))
    known = [(o.difference, o.covariance) for o in right if o.difference is not None and o.covariance is not None]
    r, t = (shared_error(known, slice(0, 3)), shared_error(known, slice(3, 6))) if len(known) >= FEWEST else (0.0, 0.0)
    images = len(known) if len(known) >= FEWEST else 0
    residuals = [o.residual for o in right if math.isfinite(o.residual)]
    residual = round(float(np.median(residuals)), 4) if images and residuals else None
    return Calibration(round(shift, 4) + 0.0, float(f"{t:.4g}"), float(f"{r:.4g}"), images, *tolerance, residual)


def most_likely_shift(scores: Array, right: NDArray[np.bool_]) -> float:
    """Log odds to add to the scores (N,), given which poses are right: maximum a posteriori under a normal prior about 0."""

    def slope(shift: float) -> float:
        return float((right - 1 / (1 + np.exp(-(scores + shift)))).sum()) - shift / PRIOR_SHIFT**2

    return min(_root(slope, -10.0, 10.0), MAX_SHIFT)


def shared_error(known: Sequence[tuple[Array, Array]], part: slice) -> float:
    """Standard deviation per axis that must be added to the given covariances so that they explain the errors.

    Medians decide: one image with a wrong reference pose must not blur all others.
    """
    squared = np.array([float(difference[part] @ difference[part]) for difference, _ in known])
    stated = np.array([float(np.trace(covariance[part, part])) / 3 for _, covariance in known])

    def excess(variance: float) -> float:
        return float(np.median(squared / (stated + variance))) - EXPECTED

    if excess(0.0) <= 0:
        return 0.0
    return math.sqrt(_root(excess, 0.0, float(squared.max())))


def _root(decreasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a decreasing function crosses zero, by bisection."""
    for _ in range(80):
        middle = (low + high) / 2
        if decreasing(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
