"""The localizer around a regressor that knows the answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, unproject
from d2s.localization.localizer import MIN_KEPT, Localizer, select_reliable
from d2s.regressor.base import ModelInfo

CAMERA = parse_camera("OPENCV 320 240 260 255 158 121 -0.1 0.02 0.001 -0.001")
CAM_FROM_WORLD = pose.from_qvec_tvec([0.8, 0.1, -0.5, 0.2], [0.3, -1.0, 2.0])
INFO = ModelInfo("made", "room", "metres", {"name": "fake"}, num_keypoints=400)


class Oracle:
    """Sees every keypoint at a random depth, right where `good` says so."""

    def __init__(self, share_wrong: float = 0.0, info: ModelInfo = INFO) -> None:
        self.info, self.share_wrong = info, share_wrong

    def predict(self, features: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(1)
        depth = random.uniform(1, 5, len(features))
        rays = unproject(CAMERA, features.keypoints)
        xyz = pose.transform(pose.inverse(CAM_FROM_WORLD), np.column_stack([rays, np.ones(len(rays))]) * depth[:, None])
        wrong = random.random(len(features)) < self.share_wrong
        xyz[wrong] = random.uniform(-5, 5, (int(wrong.sum()), 3))
        return xyz.astype(np.float32), np.where(wrong, 0.1, 0.9).astype(np.float32)


class FakeExtractor:
    """As many random keypoints as asked, of the size of the image."""

    name, descriptor_dim = "fake", 4

    def __init__(self, count: int = 500) -> None:
        self.count = count

    def settings(self) -> dict[str, object]:
        return {"name": "fake"}

    def extract(self, images: list[np.ndarray]) -> list[LocalFeatures]:
        return [make_features(self.count, (image.shape[1], image.shape[0])) for image in images]


def make_features(count: int, size: tuple[int, int] = (320, 240)) -> LocalFeatures:
    random = np.random.default_rng(0)
    keypoints = random.uniform(0, np.array(size) - 1, (count, 2)).astype(np.float32)
    return LocalFeatures(keypoints, np.linspace(1, 0, count, dtype=np.float32), np.ones((count, 4), np.float32), size)


@pytest.mark.parametrize("camera", [CAMERA, "OPENCV 320 240 260 255 158 121 -0.1 0.02 0.001 -0.001"])
@pytest.mark.parametrize("shape", [(240, 320), (240, 320, 3)])
def test_finds_the_pose(camera, shape):
    result = Localizer(Oracle(), extractor=FakeExtractor()).localize(np.zeros(shape, np.uint8), camera)
    assert result.success and not result.reason
    distance, angle = pose.pose_error(result.cam_from_world, CAM_FROM_WORLD)
    assert distance < 1e-5 and angle < 1e-4
    assert (result.num_inliers, result.kept, result.extracted) == (400, 400, 400)  # the best num_keypoints of 500
    np.testing.assert_allclose(result.center, pose.center(CAM_FROM_WORLD), atol=1e-5)
    assert set(result.ms) == {"features", "regressor", "pnp", "total"}
    assert result.ms["total"] >= result.ms["features"] + result.ms["regressor"] + result.ms["pnp"]


def test_only_reliable_keypoints_reach_pnp():
    result = Localizer(Oracle(0.5)).localize_features(make_features(300), CAMERA)
    assert (result.used == (result.reliability > 0.5)).all() and 100 < result.kept < 200
    assert not (result.inliers & ~result.used).any() and result.num_inliers == result.kept
    everything = Localizer(Oracle(0.5), threshold=0.0).localize_features(make_features(300), CAMERA)
    assert everything.kept == 300 and everything.confidence == pytest.approx(result.confidence, abs=0.01)  # shares do not count


def test_json_is_complete_and_valid():
    value = json.loads(json.dumps(Localizer(Oracle()).localize_features(make_features(200), CAMERA).to_json("a/b.jpg"), allow_nan=False))
    keys = ["image", "success", "reason", "qvec", "tvec", "center", "inliers", "kept", "extracted", "confidence"]
    assert (
        list(value) == [*keys, "sigma_t", "sigma_r_deg", "covariance", "refused_pose", "camera", "camera_from", "sigma_focal", "ms"]
        and value["image"] == "a/b.jpg"
        and 0.9 < value["confidence"] <= 1
    )
    np.testing.assert_allclose(pose.from_qvec_tvec(value["qvec"], value["tvec"]), CAM_FROM_WORLD, atol=1e-5)
    np.testing.assert_allclose(value["center"], pose.center(CAM_FROM_WORLD), atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_keypoints_are_a_result(count):
    result = Localizer(Oracle()).localize_features(make_features(count), CAMERA)
    assert not result.success and "needed" in result.reason and result.extracted == count
    value = result.to_json("x")
    assert value["qvec"] is None and value["center"] is None and value["confidence"] == 0


def test_wrong_coordinates_are_a_failure():
    result = Localizer(Oracle(1.0)).localize_features(make_features(400), CAMERA)
    assert not result.success and "chance" in result.reason and result.num_inliers == 0 and result.cam_from_world is None


def test_size_mismatch_names_both_sizes():
    with pytest.raises(InputError, match="320x200.*320x240"):
        Localizer(Oracle(), extractor=FakeExtractor()).localize(np.zeros((200, 320), np.uint8), CAMERA)
    with pytest.raises(InputError, match="100x50.*320x240"):
        Localizer(Oracle()).localize_features(make_features(5, (100, 50)), CAMERA)


@pytest.mark.parametrize("image", [np.zeros((240, 320), np.float32), np.zeros((240, 320, 4), np.uint8), np.zeros((0, 320), np.uint8)])
def test_other_arrays_are_refused(image):
    with pytest.raises(InputError, match="uint8"):
        Localizer(Oracle(), extractor=FakeExtractor()).localize(image, CAMERA)


def test_bad_camera_text_is_refused():
    with pytest.raises(InputError, match="SIMPLE_PINHOLE"):
        Localizer(Oracle(), extractor=FakeExtractor()).localize(np.zeros((240, 320), np.uint8), "PINBALL 320 240 1 2 3")


def test_most_reliable_are_taken_when_few_pass():
    reliability = np.linspace(0, 0.4, 200, dtype=np.float32)
    used = select_reliable(reliability, 0.5)
    assert used.sum() == MIN_KEPT and used[-MIN_KEPT:].all()
    assert select_reliable(np.full(10, np.nan, np.float32), 0.5).sum() == 0
    assert select_reliable(reliability, 0.1).sum() == (reliability > 0.1).sum()
