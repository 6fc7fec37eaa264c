"""The file that a validation leaves for people who watch."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from d2s.commands.validation import make_validation
from d2s.commands.validation_view import ViewWriter
from d2s.geometry import pose
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.scene.manifest import Scene
from d2s.training.validation_view import MAX_POINTS, ValidationView

COUNT = 4000


def result_of(cam_from_world, width: int = 64, height: int = 48) -> LocalizationResult:
    random = np.random.default_rng(3)
    used = np.arange(COUNT) < 2 * MAX_POINTS
    keypoints = random.uniform(0, [width - 1, height - 1], (COUNT, 2)).astype(np.float32)
    xyz = np.repeat(np.arange(COUNT, dtype=np.float32)[:, None], 3, axis=1)
    inliers = used & (np.arange(COUNT) % 2 == 0)
    return LocalizationResult(cam_from_world is not None, cam_from_world, "", {}, keypoints, xyz, xyz[:, 0], used, inliers)


def mapped(count: int = 9000):
    points = np.random.default_rng(4).uniform(-1, 1, (count, 3)).astype(np.float32)
    points[::100] *= 1e5  # stray points, which every reconstruction has
    return points


@pytest.mark.parametrize("localized", [True, False])
def test_a_view_is_small_and_keeps_rows_together(place, tmp_path, localized):
    scene = Scene.load(place.scene_dir)
    image = scene.split("val")[0]
    path = tmp_path / "view.npz"
    ViewWriter(path, scene, mapped())(image, result_of(image.cam_from_world if localized else None))
    view = ValidationView.load(path)
    assert path.stat().st_size < 150_000
    assert (view.image, view.kept, view.extracted) == (image.name, 2 * MAX_POINTS, COUNT)
    assert len(view.predicted) == len(view.inlier) == MAX_POINTS
    np.testing.assert_array_equal(view.inlier, view.predicted[:, 0] % 2 == 0)
    assert MAX_POINTS * 0.9 < len(view.mapped) <= MAX_POINTS
    assert np.abs(view.mapped).max() < 2
    np.testing.assert_allclose(view.centers[0], pose.center(image.cam_from_world), atol=1e-5)
    assert np.isfinite(view.centers[1]).all() == localized
    assert Image.open(BytesIO(view.picture.tobytes())).format == "JPEG"


def test_a_photo_that_is_gone_leaves_darkness_with_keypoints(place, tmp_path):
    scene = Scene.load(place.scene_dir)
    image = replace(scene.split("val")[0], name="gone.jpg")
    ViewWriter(tmp_path / "view.npz", scene, mapped())(image, result_of(None))
    picture = np.asarray(Image.open(BytesIO(ValidationView.load(tmp_path / "view.npz").picture.tobytes())))
    camera = scene.camera(image)
    assert picture.shape[0] / picture.shape[1] == pytest.approx(camera.height / camera.width, rel=0.05)
    assert picture.max() > 150  # the keypoints


def test_a_disk_that_refuses_the_view_does_not_stop_the_training(place, tmp_path, caplog):
    scene = Scene.load(place.scene_dir)
    (tmp_path / "file").write_text("in the way")
    ViewWriter(tmp_path / "file" / "view.npz", scene, mapped())(scene.split("val")[0], result_of(None))
    assert "could not be written" in caplog.text


def test_every_validation_shows_the_same_image(place, monkeypatch):
    scene, seen = Scene.load(place.scene_dir), []
    monkeypatch.setattr(Localizer, "__init__", lambda self, regressor, **options: None)
    monkeypatch.setattr(Localizer, "localize_features", lambda self, features, camera: result_of(None))
    monkeypatch.setattr("d2s.commands.validation.TrainedModel", lambda network, info, device: None)

    class Network:
        def parameters(self):
            yield type("Weight", (), {"device": "cpu"})()

    validate = make_validation(place.scene_dir, scene, place.info, lambda image, result: seen.append(image.name))
    validate(Network()), validate(Network())
    assert seen == [scene.split("val")[2].name] * 2
