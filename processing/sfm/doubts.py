"""Groups of photos that were probably placed at the wrong end of a place that repeats itself.

Two facades that look alike make structure from motion put the photos of one in front of the other. All figures stay good then, those of the
self-check too, since the reference poses are wrong in the same way. What gives such a group away: few points hold it, and the photos taken
just before and after it lie far from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from d2s.geometry import pose
from processing.sfm.links import Link

SMALLEST = 3
"""Photos of a group that is worth doubting; single ones go astray without harm."""
STEP, JUMP = 0.1, 0.25
"""Shares of the extent of the path: neighbours in time are usually nearer than the first; a jump is longer than the second."""


def doubtful(links: Sequence[Link], ordered: Sequence[str], poses: Mapping[str, NDArray[np.float64]]) -> list[Link]:
    """Weak links whose part lies far from all photos taken just before and after it; none where the order of the photos means nothing.

    `ordered`: photos as they were taken; `poses`: cam_from_world of the placed ones.
    """
    placed = [name for name in ordered if name in poses]
    if len(placed) < 2 * SMALLEST:
        return []
    centers = pose.center(np.stack([poses[name] for name in placed]))
    extent = float(np.linalg.norm(np.ptp(centers, axis=0)))
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    if np.median(steps) > STEP * extent:
        return []
    return [link for link in links if len(link.part) >= SMALLEST and _apart(set(link.part), placed, steps, JUMP * extent)]


def _apart(part: set[str], placed: Sequence[str], steps: NDArray[np.float64], jump: float) -> bool:
    """Whether every step of the path into the part or out of it is a jump."""
    borders = [steps[i] for i, (a, b) in enumerate(zip(placed, placed[1:], strict=False)) if (a in part) != (b in part)]
    return bool(borders) and min(borders) > jump
