"""The second look: all landmarks near where a first pose predicts them."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.pose_field import PoseField, Reach, motion
from d2s.localization.guided import refine_by_map
from d2s.localization.localizer import Localizer
from d2s.localization.table import make_estimator
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmark_map import LandmarkMap

CAMERA = parse_camera("SIMPLE_RADIAL 640 480 500 320 240 -0.05")
TRUE = motion(np.array([0.1, -0.2, 0.05, 0.3, -0.1, 0.4]))
MAX_ERROR = 12.0


def place(count: int = 600, noise: float = 0.5, seed: int = 0) -> tuple[LocalFeatures, LandmarkMap]:
    """Landmarks in view of the camera at TRUE, and the keypoints that show them, in another order."""
    rng = np.random.default_rng(seed)
    local = np.column_stack([rng.uniform(-1.8, 1.8, count), rng.uniform(-1.3, 1.3, count), rng.uniform(3, 6, count)])
    xyz = pose.transform(pose.inverse(TRUE), local)
    look = rng.standard_normal((count, 64)).astype(np.float32)
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    pixels, _ = project(CAMERA, local)
    order = rng.permutation(count)
    keypoints = (pixels + noise * rng.standard_normal(pixels.shape)).astype(np.float32)[order]
    features = LocalFeatures(keypoints, np.linspace(1, 0.1, count, dtype=np.float32), look[order], (640, 480))
    return features, LandmarkMap(look, xyz, 0.8)


def off(size: float) -> np.ndarray:
    return pose.compose(motion(size * np.array([1, -1, 0.5, 2, 1, -2])), TRUE)


def nothing(features: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    """No match is known of these features."""
    return np.zeros((len(features), 3), np.float32), np.zeros(len(features), dtype=bool)


def test_a_rough_pose_becomes_precise() -> None:
    features, landmarks = place()
    found = refine_by_map(off(0.01), features, landmarks, CAMERA, MAX_ERROR, nothing(features))
    assert found is not None
    before, after = pose.pose_error(off(0.01), TRUE), pose.pose_error(found.cam_from_map, TRUE)
    assert after[0] < 0.1 * before[0]
    assert after[1] < 0.1 * before[1]
    assert found.used.sum() > 500
    assert found.inliers[found.used].mean() > 0.95 and not found.inliers[~found.used].any()


def test_keypoints_and_points_belong_together() -> None:
    features, landmarks = place(noise=0.0)
    found = refine_by_map(TRUE, features, landmarks, CAMERA, MAX_ERROR, nothing(features))
    assert found is not None
    pixels, _ = project(CAMERA, pose.transform(TRUE, found.xyz[found.used]))
    np.testing.assert_allclose(pixels, features.keypoints[found.used], atol=1e-3)
    assert len(np.unique(found.xyz[found.used], axis=0)) == found.used.sum() > 500


def test_known_matches_stay_where_nothing_is_found() -> None:
    """Ten keypoints look like no landmark of the map; what the first pose matched them with is right, and wrong for five others."""
    features, landmarks = place(noise=0.0)
    unlike, misled, unknown = np.arange(10), np.arange(10, 15), np.arange(15, 20)
    changed = features.descriptors.copy()
    changed[unlike] = changed[unknown] = 1 / np.sqrt(changed.shape[1])
    features = LocalFeatures(features.keypoints, features.scores, changed, features.image_size)
    xyz, used = nothing(features)
    xyz[unlike] = landmarks.xyz[np.argmax(place(noise=0.0)[0].descriptors[unlike] @ landmarks.descriptors.T, axis=1)]
    xyz[misled] = landmarks.xyz[:5] + 1
    used[unlike] = used[misled] = True
    known = xyz.copy(), used.copy()
    found = refine_by_map(off(0.003), features, landmarks, CAMERA, MAX_ERROR, known)
    assert found is not None
    assert found.used[unlike].all() and found.inliers[unlike].all()
    np.testing.assert_array_equal(found.xyz[unlike], xyz[unlike])
    pixels, _ = project(CAMERA, pose.transform(TRUE, found.xyz[misled]))
    np.testing.assert_allclose(pixels, features.keypoints[misled], atol=1e-3)  # what is found takes the place of what was known
    assert not found.used[unknown].any() and not found.inliers[unknown].any()
    np.testing.assert_array_equal(known[0], xyz)  # the caller's arrays are its own
    np.testing.assert_array_equal(known[1], used)


def test_known_matches_alone_are_no_support() -> None:
    features, landmarks = place()
    known = np.zeros((len(features), 3), np.float32), np.ones(len(features), dtype=bool)
    strange = LandmarkMap(landmarks.descriptors[::-1], landmarks.xyz, landmarks.min_similarity)
    assert refine_by_map(TRUE, features, strange, CAMERA, MAX_ERROR, known) is None


def test_landmarks_that_look_otherwise_are_no_support() -> None:
    features, landmarks = place()
    shuffled = LandmarkMap(landmarks.descriptors[::-1], landmarks.xyz, landmarks.min_similarity)
    assert refine_by_map(TRUE, features, shuffled, CAMERA, MAX_ERROR, nothing(features)) is None


def test_a_pose_that_looks_elsewhere_is_no_support() -> None:
    features, landmarks = place()
    backwards = pose.compose(motion(np.array([0, np.pi, 0, 0, 0, 0.0])), TRUE)
    assert refine_by_map(backwards, features, landmarks, CAMERA, MAX_ERROR, nothing(features)) is None


class FewLandmarks:
    """A network that knows forty landmarks badly, and a map with all of them."""

    def __init__(self, features: LocalFeatures, landmarks: LandmarkMap | None, field: PoseField | None = None) -> None:
        self.info = ModelInfo("test", "test", "metres", {}, 2048, max_error=MAX_ERROR, pose_field=field)
        self._map = landmarks
        rng = np.random.default_rng(3)
        depth = rng.uniform(3, 6, len(features))
        plane = np.asarray(CAMERA.cam_from_img(features.keypoints.astype(np.float64) + 0.5))
        local = np.column_stack([plane, np.ones(len(plane))]) * depth[:, None]
        self._xyz = (pose.transform(pose.inverse(TRUE), local) + 0.03 * rng.standard_normal(local.shape)).astype(np.float32)

    def predict(self, features: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
        reliability = np.zeros(len(features), np.float32)
        reliability[:60] = 0.9
        return self._xyz, reliability

    def landmark_map(self) -> LandmarkMap | None:
        return self._map


@pytest.mark.parametrize("with_field", [False, True])
def test_localizer_looks_again(with_field: bool) -> None:
    features, landmarks = place()
    field = PoseField(TRUE[None], np.zeros((1, 6)), np.array([0, 0, 0, 0.5, 0, 0]), (Reach(1.0, 10.0),) * 2) if with_field else None
    plain = Localizer(FewLandmarks(features, None), make_estimator("poselib", MAX_ERROR)).localize_features(features, CAMERA)
    again = Localizer(FewLandmarks(features, landmarks, field), make_estimator("poselib", MAX_ERROR)).localize_features(features, CAMERA)
    assert pose.pose_error(again.cam_from_map, TRUE)[0] < 0.3 * pose.pose_error(plain.cam_from_map, TRUE)[0]
    assert again.num_inliers > 5 * plain.num_inliers
    assert (again.used | ~again.inliers).all()
    distance = pose.pose_error(again.cam_from_world, again.cam_from_map)[0]
    assert distance == pytest.approx(0.5 if with_field else 0.0, abs=1e-6)
