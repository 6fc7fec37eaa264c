"""Where `d2s eval` takes the features of the test images from, and what an image without stored features is."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from d2s.commands import eval as command
from d2s.evaluation.predict import stored
from d2s.scene.feature_store import FeatureReader


@pytest.fixture
def folder(tmp_path):
    """A scene's folder whose feature file has one image."""
    with h5py.File(tmp_path / "features.h5", "w") as file:
        group = file.create_group("a.png")
        group.create_dataset("keypoints", data=np.zeros((2, 2)))
        group.create_dataset("descriptors", data=np.zeros((4, 2)))
        group.create_dataset("image_size", data=[8, 8])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "asked", "way"), [("sift", False, "live"), ("sift", True, "stored"), ("hloc:feats-r2d2", False, "stored")]
)
def test_stored_features_where_asked_or_where_nothing_else_is_possible(monkeypatch, folder, name, asked, way):
    monkeypatch.setattr(command, "live", lambda *_: "live")
    monkeypatch.setattr(command, "stored", lambda *_: "stored")
    monkeypatch.setattr(command, "predict", lambda images, locate: locate)
    localizer = SimpleNamespace(info=SimpleNamespace(features={"name": name}))
    scene = SimpleNamespace(split=lambda _: ())
    assert command._predict_test(localizer, scene, folder, asked) == way


def test_image_without_stored_features_is_a_failed_query(folder):
    localizer = SimpleNamespace(localize_features=lambda features, camera: (len(features), camera))
    scene = SimpleNamespace(camera=lambda image: image.name)
    with FeatureReader(folder / "features.h5") as reader:
        locate = stored(localizer, scene, reader)
        assert locate(SimpleNamespace(name="a.png")) == (2, "a.png")
        missing = locate(SimpleNamespace(name="b.png"))
    assert not missing.success
    assert "no features of this image" in missing.reason
