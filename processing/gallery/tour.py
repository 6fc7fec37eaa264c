"""Where the pictures of the gallery are taken from: rounds for mapping, and a walk of its own for the queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from processing.gallery.renderer import Exposure

Array = NDArray[np.float64]

CENTRE, RADII = np.array([4.1, 3.0]), np.array([2.6, 1.75])  # the ellipse around the partition on which the mapping camera walks
FULL_ROUND = 90  # with fewer mapping images than this, only a part of the round is walked, so that views still overlap


@dataclass(frozen=True)
class Shot:
    """One picture: its name, split, pose (3, 4) cam_from_world and exposure."""

    name: str
    split: str
    cam_from_world: Array
    exposure: Exposure


def shots(mapping_images: int, query_images: int, seed: int) -> list[Shot]:
    """All pictures of the gallery, mapping first."""
    arc = 2 * np.pi * min(1.0, mapping_images / FULL_ROUND)
    return _mapping_shots(mapping_images, arc, seed) + _query_shots(query_images, arc, seed)


def _mapping_shots(count: int, arc: float, seed: int) -> list[Shot]:
    """Three rounds: facing the walls, facing the middle, and along the path, forwards and backwards in turn."""
    rng = np.random.default_rng([seed, 1])
    rounds = np.array_split(np.arange(count), [round(0.4 * count), round(0.7 * count)])
    result = []
    for kind, indices in enumerate(rounds):
        for k, i in enumerate(indices):
            turn = arc * (k + 0.33 * kind) / len(indices)
            swing = (-1) ** k
            heading = (18 * swing, 180 + 42 * swing, 72 * swing)[kind]
            height = (1.55, 1.7, 1.4)[kind] + 0.15 * np.sin(3 * turn)
            tilt = (0, -8, -4)[kind] + rng.uniform(-3, 3)
            pose = _pose(turn, 1.0, height, heading + rng.uniform(-4, 4), tilt, rng.uniform(-2, 2))
            exposure = Exposure(tuple(rng.uniform(0.97, 1.03) * np.ones(3)), 0.15, 2.0, (seed, 3, int(i)))
            result.append(Shot(f"mapping/{i:04d}.jpg", "train", pose, exposure))
    return result


def _query_shots(count: int, arc: float, seed: int) -> list[Shot]:
    """Off the mapping path by up to about half a metre, other heights, headings, tilts and light."""
    rng = np.random.default_rng([seed, 2])
    result = []
    for i in range(count):
        turn = arc * (i + rng.uniform(0.2, 0.8)) / count
        heading = rng.choice([0, 0, 180, 75, -75]) + rng.uniform(-30, 30)
        pose = _pose(turn, rng.uniform(0.86, 1.14), rng.uniform(1.2, 1.95), heading, rng.uniform(-14, 8), rng.uniform(-8, 8))
        gain = rng.uniform(0.7, 1.2) * rng.uniform(0.94, 1.06, 3)
        exposure = Exposure(tuple(gain), rng.uniform(0.1, 0.35), rng.uniform(2.5, 5.0), (seed, 4, i))
        result.append(Shot(f"query/{i:04d}.jpg", "test", pose, exposure))
    return result


def _pose(turn: float, stretch: float, height: float, heading: float, tilt: float, roll: float) -> Array:
    """cam_from_world of a camera on the stretched ellipse; `heading` is from the outward direction; degrees, `turn` in radians."""
    place = CENTRE + stretch * RADII * np.array([np.cos(turn), np.sin(turn)])
    outward = np.arctan2(np.sin(turn) / RADII[1], np.cos(turn) / RADII[0])
    return looking(np.array([*place, height]), outward + np.radians(heading), tilt, roll)


def looking(center: Array, yaw: float, tilt: float, roll: float) -> Array:
    """cam_from_world (3, 4) of a camera at `center` (3,); `yaw` in radians from the x axis, `tilt` and `roll` in degrees."""
    tilt, roll = np.radians(tilt), np.radians(roll)
    forward = np.array([np.cos(yaw) * np.cos(tilt), np.sin(yaw) * np.cos(tilt), np.sin(tilt)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return np.column_stack([rotation, -rotation @ center])
