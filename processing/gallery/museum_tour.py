"""Where the pictures of the museum are taken from: rounds through every room, and the passages; queries on paths of their own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from processing.gallery.museum import PASSAGES, ROOMS, extent, passage
from processing.gallery.tour import Array, Exposure, Shot, looking

FULL_ROOM = 55  # with fewer mapping images than this per room, only the first rooms are visited, so that views still overlap
MARGIN = 1.25  # metres from the walls to the path
IN_PASSAGES = 0.12  # share of the pictures that are taken around the passages


def museum_shots(mapping_images: int, query_images: int, seed: int) -> list[Shot]:
    """All pictures of the museum, mapping first."""
    visited = int(np.clip(mapping_images // FULL_ROOM, 1, len(ROOMS)))
    mapping = _mapping_poses(mapping_images, visited, np.random.default_rng([seed, 21]))
    queries = _query_poses(query_images, visited, np.random.default_rng([seed, 22]))
    return [_mapping_shot(i, pose, seed) for i, pose in enumerate(mapping)] + [_query_shot(i, pose, seed) for i, pose in enumerate(queries)]


def _mapping_shot(i: int, pose: Array, seed: int) -> Shot:
    rng = np.random.default_rng([seed, 23, i])
    return Shot(f"mapping/{i:04d}.jpg", "train", pose, Exposure(tuple(rng.uniform(0.97, 1.03) * np.ones(3)), 0.15, 2.0, (seed, 24, i)))


def _query_shot(i: int, pose: Array, seed: int) -> Shot:
    rng = np.random.default_rng([seed, 25, i])
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.94, 1.06, 3)
    return Shot(f"query/{i:04d}.jpg", "test", pose, Exposure(tuple(gain), rng.uniform(0.1, 0.35), rng.uniform(2.5, 5.0), (seed, 26, i)))


def _shares(count: int, visited: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of `count` pictures each visited room gets, by its floor, and each passage between two of them."""
    inner = [k for k, pair in enumerate(PASSAGES) if max(pair) < visited]
    floors = np.array([extent(room)[1][0] * extent(room)[1][1] for room in range(visited)])
    walked = round(IN_PASSAGES * count) if inner else 0
    rooms = np.diff(np.rint(np.cumsum([0, *floors / floors.sum()]) * (count - walked)).astype(np.int64))
    passages = np.zeros(len(PASSAGES), dtype=np.int64)
    if inner:
        passages[inner] = np.diff(np.rint(np.linspace(0, walked, len(inner) + 1)).astype(np.int64))
    return rooms, passages


def _mapping_poses(count: int, visited: int, rng: np.random.Generator) -> list[Array]:
    """Each room: facing the walls, facing the middle, along the path both ways. Each passage: through it, forth and back in turn."""
    rooms, passages = _shares(count, visited)
    poses = []
    for room, number in enumerate(rooms):
        rounds = np.array_split(np.arange(number), [round(0.4 * number), round(0.7 * number)])
        for kind, indices in enumerate(rounds):
            for k in range(len(indices)):
                turn, swing = 2 * np.pi * (k + 0.33 * kind) / len(indices), (-1) ** k
                heading = (18 * swing, 180 + 42 * swing, 72 * swing)[kind] + rng.uniform(-4, 4)
                height = (1.55, 1.7, 1.4)[kind] + 0.15 * np.sin(3 * turn)
                tilt = (0, -8, -4)[kind] + rng.uniform(-3, 3)
                poses.append(_in_room(room, turn, 1.0, height, heading, tilt, rng.uniform(-2, 2)))
    for k, number in enumerate(passages):
        for i in range(number):
            along = np.linspace(-1.5, 1.0, number)[i] if number > 1 else -0.5
            swing = (-1) ** (i // 2)
            poses.append(_in_passage(k, i % 2, along, 0.0, 1.55, 14 * swing + rng.uniform(-4, 4), rng.uniform(-4, 2), rng.uniform(-2, 2)))
    return poses


def _query_poses(count: int, visited: int, rng: np.random.Generator) -> list[Array]:
    """Off the mapping paths by up to about half a metre, other heights, headings and tilts."""
    rooms, passages = _shares(count, visited)
    poses = []
    for room, number in enumerate(rooms):
        for i in range(number):
            turn = 2 * np.pi * (i + rng.uniform(0.2, 0.8)) / number
            heading = rng.choice([0, 0, 180, 75, -75]) + rng.uniform(-30, 30)
            where = (turn, rng.uniform(0.86, 1.14), rng.uniform(1.2, 1.95))
            poses.append(_in_room(room, *where, heading, rng.uniform(-14, 8), rng.uniform(-8, 8)))
    for k, number in enumerate(passages):
        for i in range(number):
            where = (rng.uniform(-1.5, 1.0), rng.uniform(-0.3, 0.3), rng.uniform(1.25, 1.85))
            poses.append(_in_passage(k, i % 2, *where, rng.uniform(-25, 25), rng.uniform(-12, 6), rng.uniform(-8, 8)))
    return poses


def _in_room(room: int, turn: float, stretch: float, height: float, heading: float, tilt: float, roll: float) -> Array:
    """A pose on the stretched ellipse around a room's middle; `heading` is from the outward direction; degrees, `turn` in radians."""
    at, (width, depth, _) = extent(room)
    radii = np.array([width / 2 - MARGIN, depth / 2 - MARGIN])
    ground = at[:2] + (width / 2, depth / 2) + stretch * radii * (np.cos(turn), np.sin(turn))
    outward = np.arctan2(np.sin(turn) / radii[1], np.cos(turn) / radii[0])
    return looking(np.array([*ground, height]), float(outward + np.radians(heading)), tilt, roll)


def _in_passage(number: int, back: int, along: float, across: float, height: float, heading: float, tilt: float, roll: float) -> Array:
    """A pose `along` metres past the middle of a passage (before it: negative) on the way forth, or back; `heading` from that way."""
    middle, direction = passage(number)
    forward = -direction if back else direction
    left = np.array([-forward[1], forward[0], 0.0])
    center = middle + along * forward + across * left + np.array([0.0, 0.0, height])
    return looking(center, float(np.arctan2(forward[1], forward[0]) + np.radians(heading)), tilt, roll)
