"""Why a photo is not in the map."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.database import posed_model
from processing.sfm.reconstruction import Reconstructed
from processing.unplaced import named, why_unplaced


@pytest.fixture
def found() -> Reconstructed:
    """A map of a.jpg and b.jpg; c, d form another part."""
    images = tuple(SceneImage(name, 1, np.eye(3, 4), "train") for name in ("a.jpg", "b.jpg"))
    scene = Scene("photos", "x", "/nowhere", {1: make_camera("SIMPLE_PINHOLE", 10, 10, [9, 5, 5])}, images)
    model: pycolmap.Reconstruction = posed_model(scene, {image.name: np.zeros((1, 2)) for image in images})
    verified = {("a.jpg", "b.jpg"): 300, ("a.jpg", "e.jpg"): 12, ("b.jpg", "f.jpg"): 80, ("c.jpg", "d.jpg"): 90, ("g.jpg", "h.jpg"): 50}
    return Reconstructed(model, 2, verified, (("c.jpg", "d.jpg"),))


@pytest.mark.parametrize(
    ("name", "keypoints", "reason"),
    [
        ("c.jpg", 900, "part of another group of photos that does not connect with the map (c.jpg, d.jpg)"),
        ("e.jpg", 900, "little overlap: only 12 matches with the most similar placed photo, a.jpg"),
        ("f.jpg", 900, "80 matches with b.jpg, but no position agrees with all of them"),
        ("g.jpg", 900, "shows nothing that any placed photo shows"),
        ("e.jpg", 50, "only 50 keypoints: blurred, dark or without texture"),
    ],
)
def test_reasons(found, name, keypoints, reason):
    assert why_unplaced([name], {name: keypoints}, found)[name].startswith(reason)


def test_many_photos_are_named_by_the_ends():
    assert named(["a", "b", "c"]) == "a, b, c" and named(list("abcd")) == "a to d (4 photos)"
