"""Groups of photos that lie where they were not taken."""

from __future__ import annotations

import numpy as np

from processing.sfm.doubts import doubtful
from processing.sfm.links import Link

NAMES = [f"{i:02d}.jpg" for i in range(40)]
PART = tuple(NAMES[20:30])


def at(centers: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.column_stack([np.eye(3), -center]) for name, center in zip(NAMES, centers, strict=True)}


def around() -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, len(NAMES), endpoint=False)
    return np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])


def test_a_group_at_the_opposite_side_is_doubted():
    centers = around()
    assert doubtful([Link("00.jpg", "20.jpg", 90, PART)], NAMES, at(centers)) == []
    centers[20:30] *= -1  # the facade opposite looks the same
    (link,) = doubtful([Link("00.jpg", "20.jpg", 90, PART)], NAMES, at(centers))
    assert link.part == PART


def test_only_groups_that_hang_on_a_weak_link_are_doubted():
    centers = around()
    centers[20:30] *= -1
    assert doubtful([], NAMES, at(centers)) == []
    assert doubtful([Link("00.jpg", "20.jpg", 9, PART[:2])], NAMES, at(centers)) == []


def test_a_group_that_one_neighbour_in_time_confirms_is_not_doubted():
    centers = around()
    centers[20:30] = centers[19] + 0.01 * np.arange(10)[:, None]
    centers[30:] *= -1
    assert doubtful([Link("19.jpg", "20.jpg", 90, PART)], NAMES, at(centers)) == []


def test_photos_in_no_order_say_nothing():
    centers = np.random.default_rng(0).permutation(around())
    assert doubtful([Link("00.jpg", "20.jpg", 90, PART)], NAMES, at(centers)) == []
    assert doubtful([Link("00.jpg", "01.jpg", 1, ("01.jpg",))], NAMES[:2], {name: np.eye(3, 4) for name in NAMES[:2]}) == []
