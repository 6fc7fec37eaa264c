"""How the photos of a map hang together."""

from __future__ import annotations

import numpy as np
import pycolmap

from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.database import posed_model
from processing.sfm.links import shared_points, strongest_tree, weak_links

NAMES = [f"{i}.jpg" for i in range(6)]


def chain(strengths: list[int]) -> np.ndarray:
    """Photos in a row, each sharing points with the next only."""
    shared = np.zeros((len(strengths) + 1,) * 2, np.int64)
    for i, strength in enumerate(strengths):
        shared[i, i + 1] = shared[i + 1, i] = strength
    return shared


def test_shared_points_are_counted_per_pair():
    images = tuple(SceneImage(name, 1, np.eye(3, 4), "train") for name in NAMES)
    scene = Scene("photos", "x", "/nowhere", {1: make_camera("SIMPLE_PINHOLE", 10, 10, [9, 5, 5])}, images)
    model = posed_model(scene, {name: np.zeros((4, 2)) for name in NAMES})
    for row, seen in enumerate(([1, 2, 3], [1, 2], [3, 4])):
        track = pycolmap.Track()
        for image_id in seen:
            track.add_element(image_id, row)
        model.add_point3D(np.ones(3), track)
    shared = shared_points(model, NAMES)
    assert shared[0, 1] == 2 and shared[0, 2] == shared[1, 2] == shared[2, 3] == 1 and shared[0, 3] == 0 and shared[0, 0] == 2
    assert (shared == shared.T).all() and not shared[5].any()
    assert shared_points(model, NAMES[2:4]).tolist() == [[2, 1], [1, 1]]


def test_the_tree_takes_the_strongest_way():
    shared = chain([50, 300, 40])
    shared[0, 3] = shared[3, 0] = 200
    edges = {tuple(sorted(edge)) for edge in strongest_tree(shared)}
    assert edges == {(0, 3), (0, 1), (1, 2)}


def test_a_weak_link_names_the_part_that_hangs_on_it():
    (link,) = weak_links(chain([400, 380, 420, 25, 500]), NAMES)
    assert (link.first, link.second, link.shared, link.part) == ("3.jpg", "4.jpg", 25, ("4.jpg", "5.jpg"))


def test_a_second_way_round_makes_a_link_strong():
    shared = chain([400, 380, 420, 25, 500])
    shared[0, 5] = shared[5, 0] = 300
    assert not weak_links(shared, NAMES)


def test_weak_is_relative_up_to_a_point():
    assert not weak_links(chain([900, 900, 210, 900, 900]), NAMES)  # enough, however many others share
    assert len(weak_links(chain([900, 900, 150, 900, 900]), NAMES)) == 1
    assert not weak_links(chain([80, 90, 70, 80, 100]), NAMES)
    assert [link.shared for link in weak_links(chain([10, 90, 5, 80, 100]), NAMES)] == [5, 10]


def test_one_photo_hangs_on_nothing():
    assert weak_links(np.zeros((1, 1), np.int64), ["a"]) == [] and weak_links(np.zeros((0, 0), np.int64), []) == []
