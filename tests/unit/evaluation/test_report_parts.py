"""Parts of a report by themselves: what it keeps on disk, bytes of a model, matching beside it, axes of curves."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from d2s.errors import FormatError
from d2s.evaluation.comparison import load_comparison, save_comparison
from d2s.evaluation.figures import _log_marks, _log_range
from d2s.evaluation.matching_baseline import MatchingLocalizer
from d2s.evaluation.model_parts import model_parts
from d2s.evaluation.report_data import MAX_POINTS, Keypoints, ReportData, collect
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.localization.result import LocalizationResult
from d2s.matching.nearest import mutual_nearest_neighbors
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import TrainingSet

CAMERA = parse_camera("PINHOLE 640 480 500 500 319.5 239.5")


def result(keypoints, xyz, inliers) -> LocalizationResult:
    n = len(keypoints)
    used = np.ones(n, bool)
    return LocalizationResult(True, np.eye(3, 4), "", {"total": 1.0}, keypoints, xyz, np.ones(n, np.float32), used, inliers)


@pytest.fixture
def colored(tmp_path):
    """A scene of one picture, red on the left and blue on the right."""
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, :320], picture[:, 320:] = (0, 0, 250), (250, 0, 0)  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    return Scene("made", "colored", tmp_path, {1: CAMERA}, (SceneImage("a.png", 1, np.eye(3, 4), "test"),))


def test_points_have_the_colour_of_the_pixels_that_found_them(colored):
    keypoints = np.array([[100, 100], [500, 100], [100, 300]], np.float32)
    xyz = np.array([[0, 0, 1], [1, 0, 1], [2, 0, 1]], np.float32)
    found = result(keypoints, xyz, np.array([True, True, False]))
    data = collect(colored, {"a.png": found}, ["a.png"], np.vstack([xyz, [[9, 9, 9], [0, 0, 1]]]))
    np.testing.assert_array_equal(data.points, np.vstack([xyz, [[9, 9, 9]]]))
    np.testing.assert_array_equal(data.found, [True, True, False, False])
    np.testing.assert_array_equal(data.rgb[:2], [[250, 0, 0], [0, 0, 250]])
    without = collect(colored, {"a.png": found}, [])
    np.testing.assert_array_equal(without.points, xyz[:2])
    assert without.keypoints == {}
    assert len(collect(colored, {}, [], np.random.default_rng(0).normal(size=(MAX_POINTS + 500, 3))).points) == MAX_POINTS


def test_report_data_come_back_from_disk_and_damage_is_said(tmp_path):
    marked = {f"{n}.png": Keypoints(np.full((n, 2), n, np.float32), np.ones(n, bool), np.arange(n) < 2) for n in (3, 1, 5)}
    data = ReportData(np.ones((2, 3), np.float32), np.zeros((2, 3), np.uint8), np.array([True, False]), marked)
    data.save(tmp_path / "data.npz")
    back = ReportData.load(tmp_path / "data.npz")
    assert list(back.keypoints) == ["3.png", "1.png", "5.png"]
    for name, keypoints in marked.items():
        np.testing.assert_array_equal(back.keypoints[name].keypoints, keypoints.keypoints)
        np.testing.assert_array_equal(back.keypoints[name].inliers, keypoints.inliers)
    np.testing.assert_array_equal(back.found, data.found)
    ReportData().save(tmp_path / "empty.npz")
    assert len(ReportData.load(tmp_path / "empty.npz").points) == 0 and ReportData.load(tmp_path / "none.npz").keypoints == {}
    (tmp_path / "data.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:200])
    with pytest.raises(FormatError, match=r"data\.npz is damaged"):
        ReportData.load(tmp_path / "data.npz")


def test_parts_of_a_model_add_up(tmp_path):
    tensors = {
        "landmarks.xyz": np.zeros((100, 3), np.float32),
        "landmarks.codes": np.zeros((100, 64), np.int8),
        "enter.weight": np.zeros((8, 8), np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "model.json").write_text("{}")
    parts = model_parts(tmp_path)
    assert parts["landmarks"] == 1200 + 6400 and parts["network"] == 128
    assert sum(parts.values()) == sum(file.stat().st_size for file in tmp_path.iterdir())
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    assert model_parts(tmp_path) == {}


@pytest.fixture
def mapped():
    """A training set of two images that see 60 points each, 30 of them in common; the points' descriptors tell them apart."""
    rng = np.random.default_rng(0)
    points, descriptors = rng.uniform([-2, -2, 4], [2, 2, 8], (90, 3)).astype(np.float32), rng.normal(size=(90, 32)).astype(np.float32)
    rows = np.stack([np.arange(60), np.arange(30, 90)])
    made = TrainingSet(
        names=("a", "b"),
        descriptors=torch.from_numpy(descriptors[rows]).half(),
        keypoints=torch.zeros(2, 60, 2),
        mask=torch.ones(2, 60, dtype=torch.bool),
        xyz=torch.from_numpy(points[rows]),
        valid=torch.ones(2, 60, dtype=torch.bool),
        point=torch.from_numpy(rows),
        weight=torch.ones(2, 60),
        cam_from_world=torch.zeros(2, 3, 4),
        has_pose=torch.ones(2, dtype=torch.bool),
        camera=torch.zeros(2, dtype=torch.long),
        cameras=(CAMERA,),
        num_real=2,
    )
    return made, points, descriptors


def test_matching_localizes_and_says_what_it_keeps(mapped):
    data, points, descriptors = mapped
    cam_from_world = np.column_stack([np.eye(3), [0.1, -0.2, 0.5]])
    pixels, _ = project(CAMERA, pose.transform(cam_from_world, points))
    wrong = np.arange(len(points)) % 9 == 0
    pixels[wrong] = np.random.default_rng(1).uniform([0, 0], [639, 479], (int(wrong.sum()), 2))
    localizer = MatchingLocalizer(data)
    found = localizer.localize_features(LocalFeatures(pixels.astype(np.float32), np.ones(90, np.float32), descriptors, (640, 480)), CAMERA)
    assert found.success and pose.pose_error(found.cam_from_world, cam_from_world)[0] < 1e-3
    assert found.kept == 90 and found.inliers[~wrong].all() and found.inliers.sum() < 90
    np.testing.assert_allclose(found.xyz[found.inliers], points[found.inliers], atol=1e-6)
    assert localizer.map_bytes == 2 * 60 * (2 * 32 + 12) + 90 * 12
    assert set(found.ms) == {"regressor", "pnp", "total"}
    nothing = LocalFeatures(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 32), np.float32), (640, 480))
    assert not localizer.localize_features(nothing, CAMERA).success


def test_another_matcher_sees_the_features_of_both_images(mapped):
    data, points, descriptors = mapped
    cam_from_world = np.column_stack([np.eye(3), [0.1, -0.2, 0.5]])
    pixels, _ = project(CAMERA, pose.transform(cam_from_world, points))
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    query = LocalFeatures(pixels.astype(np.float32), np.ones(90, np.float32), unit, (640, 480))
    seen = []

    def nearest(one: LocalFeatures, other: LocalFeatures) -> np.ndarray:
        seen.append((one, other))
        return mutual_nearest_neighbors(one.descriptors, other.descriptors)

    found = MatchingLocalizer(data, matcher=nearest).localize_features(query, CAMERA)
    np.testing.assert_array_equal(found.inliers, MatchingLocalizer(data).localize_features(query, CAMERA).inliers)
    assert found.success and found.inliers.sum() > 70
    assert len(seen) == 2 and all(one is query for one, _ in seen)
    assert all(other.image_size == (640, 480) and other.keypoints.shape == (60, 2) for _, other in seen)


def test_comparison_comes_back_from_disk(tmp_path, colored):
    save_comparison(tmp_path, {"a.png": result(np.ones((2, 2), np.float32), np.ones((2, 3), np.float32), np.ones(2, bool))}, 77)
    found = load_comparison(tmp_path, colored.images)
    assert found.map_bytes == 77 and found.scores[0].t == 0 and found.scores[0].inliers == 2
    (tmp_path / "map.json").write_text(json.dumps([]))
    with pytest.raises(FormatError, match=r"map\.json is damaged"):
        load_comparison(tmp_path, colored.images)
    (tmp_path / "map.json").unlink()
    assert load_comparison(tmp_path, colored.images) is None


@pytest.mark.parametrize("limits", [(0.5, 75.0), (0.01, 900.0), (1e-5, 0.1)])
def test_marks_of_a_logarithmic_axis_are_few_and_inside(limits):
    marks = _log_marks(limits)
    assert 3 <= len(marks) <= 9 and all(limits[0] <= mark <= limits[1] for mark in marks)


def test_axis_reaches_small_and_large_errors_but_not_endlessly():
    assert _log_range(np.array([]), (0.5, 75)) == (0.5, 75)
    low, high = _log_range(np.array([1e-9] * 50 + [1000.0] * 50), (0.5, 75))
    assert high == pytest.approx(1200) and low == pytest.approx(1e-4 * 1200)
