"""Where the pictures of the staircase are taken from: walks up and down for mapping, and one of its own for the queries."""

from __future__ import annotations

import numpy as np

from processing.gallery.stairs import LENGTH, WIDTH, floor_height
from processing.gallery.tour import Array, Exposure, Shot, looking

FULL_WALK = 120  # with fewer mapping images than this, only the lower part of the stairs is walked, so that views still overlap
ENDS = 0.7  # metres: how near the walks come to the ends


def stairs_shots(mapping_images: int, query_images: int, seed: int) -> list[Shot]:
    """All pictures of the staircase, mapping first."""
    reach = min(1.0, mapping_images / FULL_WALK)
    return _mapping_shots(mapping_images, reach, seed) + _query_shots(query_images, reach, seed)


def _mapping_shots(count: int, reach: float, seed: int) -> list[Shot]:
    """Up looking ahead, down looking ahead, and up looking at the walls, left and right in turn."""
    rng = np.random.default_rng([seed, 11])
    walks = np.array_split(np.arange(count), [round(0.35 * count), round(0.7 * count)])
    result = []
    for kind, indices in enumerate(walks):
        for k, i in enumerate(indices):
            swing = (-1) ** k
            yaw = (28 * swing, 180 + 28 * swing, 78 * swing)[kind] + rng.uniform(-5, 5)
            across = 0.5 + (0.12, -0.12, -0.16 * swing)[kind] + rng.uniform(-0.03, 0.03)
            tilt = (2, -12, -3)[kind] + rng.uniform(-3, 3)
            pose = _pose(reach, (k + 0.33 * kind) / len(indices), across, 1.5 + 0.1 * np.sin(0.7 * k), yaw, tilt, rng.uniform(-2, 2))
            exposure = Exposure(tuple(rng.uniform(0.97, 1.03) * np.ones(3)), 0.15, 2.0, (seed, 13, int(i)))
            result.append(Shot(f"mapping/{i:04d}.jpg", "train", pose, exposure))
    return result


def _query_shots(count: int, reach: float, seed: int) -> list[Shot]:
    """Nearer to the walls, other heights, headings, tilts and light."""
    rng = np.random.default_rng([seed, 12])
    result = []
    for i in range(count):
        yaw = rng.choice([0, 0, 180, 180, 75, -75]) + rng.uniform(-32, 32)
        along = (i + rng.uniform(0.2, 0.8)) / count
        pose = _pose(reach, along, rng.uniform(0.25, 0.75), rng.uniform(1.15, 1.8), yaw, rng.uniform(-16, 8), rng.uniform(-8, 8))
        gain = rng.uniform(0.7, 1.2) * rng.uniform(0.94, 1.06, 3)
        exposure = Exposure(tuple(gain), rng.uniform(0.1, 0.35), rng.uniform(2.5, 5.0), (seed, 14, i))
        result.append(Shot(f"query/{i:04d}.jpg", "test", pose, exposure))
    return result


def _pose(reach: float, along: float, across: float, height: float, yaw: float, tilt: float, roll: float) -> Array:
    """`along` and `across` are shares of the stairs, angles in degrees, `height` in metres above the floor."""
    x = ENDS + reach * along * (LENGTH - 2 * ENDS)
    center = np.array([x, across * WIDTH, floor_height(x) + height])
    return looking(center, float(np.radians(yaw)), tilt, roll)
