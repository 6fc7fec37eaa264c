from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.pairs import (
    exhaustive_pairs,
    pairs_from_poses,
    probe_pairs,
    retrieval_pairs,
    sequential_pairs,
    unique_pairs,
)

CAMERA = make_camera("SIMPLE_PINHOLE", 640, 480, [525, 320, 240])


def scene_of(poses):
    images = tuple(SceneImage(f"{i:04d}.png", 1, p, "train") for i, p in enumerate(poses))
    return Scene("made", "pairs", Path(), {1: CAMERA}, images)


def sideways(x, yaw_deg=0.0):
    """A camera at (x, 0, 0) that looks along +z, turned by `yaw_deg` about the vertical."""
    a = np.radians(yaw_deg)
    rotation = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    return np.column_stack([rotation, -rotation @ [x, 0.0, 0.0]])


def neighbors(pairs, name):
    return {a if b == name else b for a, b in pairs if name in (a, b)}


def test_exhaustive_pairs_are_all_pairs_once():
    names = ["a", "b", "c", "d"]
    assert exhaustive_pairs(names) == list(combinations(names, 2))


def test_unique_pairs_are_ordered_and_undirected():
    assert unique_pairs([("c", "a"), ("a", "c"), ("b", "b"), ("b", "a")], ["a", "b", "c"]) == [("a", "b"), ("a", "c")]


def test_sequential_pairs_reach_near_and_far():
    names = [f"{i:03d}" for i in range(100)]
    pairs = sequential_pairs(names, 3)
    assert len(set(pairs)) == len(pairs)
    assert neighbors(pairs, "000") == {"001", "002", "003", "008", "016", "032", "064"}
    assert sequential_pairs(names[:2], 3) == [("000", "001")]


def test_opposite_views_are_not_paired():
    poses = [sideways(0.1 * i, 180.0 * (i % 2)) for i in range(20)]
    pairs = pairs_from_poses(scene_of(poses), [2.0, 3.0], 5)
    assert pairs
    assert all((int(a[:4]) - int(b[:4])) % 2 == 0 for a, b in pairs)


def test_useful_parallax_is_preferred_to_near_copies():
    poses = [sideways(0.005 * i) for i in range(300)]  # half a centimetre from frame to frame, three metres away
    pairs = pairs_from_poses(scene_of(poses), [3.0], 8)
    gaps = np.array([int(b[:4]) - int(a[:4]) for a, b in pairs])
    angle = np.degrees(np.arctan(gaps * 0.005 / 3.0))
    assert np.median(angle) > 2.0
    assert angle.max() < 35.0
    assert (angle < 0.5).mean() < 0.05


def test_neighbors_differ_among_themselves():
    poses = [sideways(0.005 * i) for i in range(300)]
    own = sorted(int(name[:4]) for name in neighbors(pairs_from_poses(scene_of(poses), [3.0], 6), "0000.png"))
    first_choices = [i for i in own if i > 0]
    assert np.ptp(first_choices) > 60


def test_scale_of_the_scene_does_not_matter():
    rng = np.random.default_rng(0)
    poses = [sideways(x, yaw) for x, yaw in zip(rng.uniform(-2, 2, 40), rng.uniform(-30, 30, 40), strict=True)]
    small = [np.column_stack([p[:, :3], p[:, 3] * 1e-3]) for p in poses]
    assert pairs_from_poses(scene_of(poses), [2.0, 4.0], 6) == pairs_from_poses(scene_of(small), [2e-3, 4e-3], 6)


def test_every_image_has_neighbors_on_a_circle():
    yaws = np.linspace(0, 360, 72, endpoint=False)
    poses = []
    for yaw in yaws:
        a = np.radians(yaw)
        center = np.array([5 * np.sin(a), 0, -5 * np.cos(a)])
        rotation = sideways(0, -yaw)[:, :3]
        poses.append(np.column_stack([rotation, -rotation @ center]))
    assert np.allclose(pose.center(np.stack(poses)) + 5 * np.stack(poses)[:, 2, :3], 0, atol=1e-9)  # all look at the middle
    pairs = pairs_from_poses(scene_of(poses), [4.0, 5.0], 6)
    for name in [f"{i:04d}.png" for i in range(72)]:
        assert len(neighbors(pairs, name)) >= 6
    turn = np.array([(int(b[:4]) - int(a[:4])) * 5 for a, b in pairs])
    assert np.minimum(turn, 360 - turn).max() <= 50


def test_probe_pairs_look_the_same_way():
    poses = [sideways(0.05 * i, 90.0 * (i % 2)) for i in range(50)]
    pairs = probe_pairs(scene_of(poses))
    assert len(pairs) >= 40
    assert all((int(a[:4]) - int(b[:4])) % 2 == 0 and a != b for a, b in pairs)


def test_probe_pairs_of_a_lonely_image_are_none():
    assert probe_pairs(scene_of([sideways(0.0), sideways(0.0, 180.0)])) == []


@pytest.fixture
def places():
    """Local descriptors of 12 images of 3 places: each place has its own set of visual words."""
    rng = np.random.default_rng(3)
    words = rng.normal(size=(3, 30, 16))
    local = {}
    for place in range(3):
        for image in range(4):
            rows = words[place][rng.integers(0, 30, 200)] + 0.2 * rng.normal(size=(200, 16))
            local[f"{place}-{image}"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return local


def test_retrieval_finds_the_same_place(places):
    pairs = retrieval_pairs(list(places), places.__getitem__, 3)
    assert len(pairs) == 12 * 3
    assert all(a[0] == b[0] and a != b for a, b in pairs)
