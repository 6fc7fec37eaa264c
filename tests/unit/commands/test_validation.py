"""The numbers of a validation: failures count as infinite errors, which JSON cannot hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2s.commands.validation import make_validation
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.scene.manifest import Scene


class Network:
    def parameters(self):
        yield type("Weight", (), {"device": "cpu"})()


def result_of(cam_from_world):
    empty = np.zeros((0, 3), np.float32)
    mask = np.zeros(0, dtype=bool)
    return LocalizationResult(cam_from_world is not None, cam_from_world, "", {}, empty[:, :2], empty, empty[:, 0], mask, mask)


@pytest.mark.parametrize(("localized", "median"), [(0, None), (1, None), (3, 0.0), (4, 0.0)])
def test_failures_count_as_infinite(place, monkeypatch, localized, median):
    scene = Scene.load(place.scene_dir)
    poses = iter([image.cam_from_world if i < localized else None for i, image in enumerate(scene.split("val"))])
    monkeypatch.setattr(Localizer, "__init__", lambda self, regressor, min_confidence: None)
    monkeypatch.setattr(Localizer, "localize_features", lambda self, features, camera: result_of(next(poses)))
    monkeypatch.setattr("d2s.commands.validation.TrainedModel", lambda network, info, device: None)
    numbers = make_validation(place.scene_dir, scene, place.info)(Network())
    json.dumps(numbers, allow_nan=False)
    assert numbers["n_failed"] == 4 - localized
    assert numbers["recall"] == localized / 4
    assert numbers["median_t"] == (None if median is None else pytest.approx(median, abs=1e-6))
    assert numbers["score"][0] == localized / 4
    assert numbers["score"][1] == (-1e9 if median is None else pytest.approx(0, abs=1e-6))
