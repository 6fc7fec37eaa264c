"""Covariances of poses: against errors of simulated poses, and their parametrisation against small motions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2, kstest

from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project, unproject
from d2s.geometry.pose_field import motion
from d2s.localization.correspondences import Correspondences
from d2s.localization.covariance import (
    centre_from_left,
    in_world,
    left_from_centre,
    pose_covariance,
    pose_difference,
    spread_r_deg,
    spread_t,
)
from d2s.localization.refine import refine_pose

CAMERA = parse_camera("OPENCV 640 480 520 515 318 241 -0.1 0.02 0.001 -0.001")
TRUE = pose.from_qvec_tvec([0.8, 0.1, -0.5, 0.2], [0.3, -1.0, 2.0])
MAX_ERROR = 12.0


def estimated(count: int, noise: float, seed: int, window: float = 1.0, outliers: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A pose from noisy keypoints in a window of the image, and the covariance that its inliers give."""
    random = np.random.default_rng(seed)
    pixels = random.uniform([10, 10], [10 + 620 * window, 10 + 460 * window], (count, 2))
    rays = np.column_stack([unproject(CAMERA, pixels), np.ones(count)])
    xyz = pose.transform(pose.inverse(TRUE), rays * random.uniform(2, 6, (count, 1)))
    seen = pixels + random.normal(0, noise, (count, 2))
    wrong = random.random(count) < outliers
    seen[wrong] += random.uniform(-MAX_ERROR, MAX_ERROR, (int(wrong.sum()), 2))
    start = pose.compose(motion(random.normal(0, [0.002] * 3 + [0.01] * 3)), TRUE)  # so that refinement has something to do
    found = refine_pose(start, Correspondences.clean(seen, xyz, CAMERA, None), MAX_ERROR)
    inliers = np.linalg.norm(project(CAMERA, pose.transform(found, xyz))[0] - seen, axis=1) <= MAX_ERROR
    covariance = pose_covariance(found, seen[inliers], xyz[inliers], CAMERA)
    assert covariance is not None
    return found, covariance


def squared_errors(*setting: float, trials: int = 60) -> np.ndarray:
    """Squared errors in units of the covariance: chi-square with 6 degrees of freedom where that is right."""
    values = []
    for seed in range(trials):
        found, covariance = estimated(*setting[:2], seed, *setting[2:])  # type: ignore[arg-type]
        difference = pose_difference(found, TRUE)
        values.append(difference @ np.linalg.solve(covariance, difference))
    return np.array(values)


@pytest.mark.parametrize("setting", [(200, 0.7), (200, 0.7, 0.3), (60, 1.5)])
def test_errors_are_as_large_as_stated(setting):
    values = squared_errors(*setting)
    assert kstest(values, chi2(6).cdf).pvalue > 0.005
    assert 0.85 < np.sqrt(np.median(values) / chi2.median(6)) < 1.25


@pytest.mark.parametrize(("setting", "low", "high"), [((200, 0.7, 1.0, 0.3), 0.6, 1.25), ((14, 1.0), 0.75, 1.5)])
def test_outliers_and_few_points_change_little(setting, low, high):
    assert low < np.sqrt(np.median(squared_errors(*setting)) / chi2.median(6)) < high


def test_spreads_follow_noise_and_view():
    quiet, noisy = (estimated(200, noise, 0)[1] for noise in (0.3, 1.2))
    np.testing.assert_allclose(spread_t(noisy) / spread_t(quiet), 4, rtol=0.25)
    np.testing.assert_allclose(spread_r_deg(noisy) / spread_r_deg(quiet), 4, rtol=0.25)
    assert spread_t(estimated(200, 0.3, 0, 0.2)[1]) > 2 * spread_t(quiet)


def test_the_parametrisation_is_the_stated_one():
    random = np.random.default_rng(0)
    w, c = random.normal(0, 1e-4, 3), random.normal(0, 1e-4, 3)
    turned = motion(np.concatenate([w, np.zeros(3)]))[:, :3] @ TRUE[:, :3]
    moved = np.column_stack([turned, -turned @ (pose.center(TRUE) + c)])
    np.testing.assert_allclose(pose_difference(TRUE, moved), np.concatenate([w, c]), atol=1e-12)


def test_left_perturbations_move_the_centre():
    random = np.random.default_rng(1)
    samples = random.normal(0, 1e-5, (400, 6)) * [1, 2, 3, 4, 5, 6]
    differences = np.array([pose_difference(TRUE, pose.compose(motion(sample), TRUE)) for sample in samples])
    expected = centre_from_left(TRUE, samples.T @ samples)
    np.testing.assert_allclose(differences.T @ differences, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(left_from_centre(TRUE, expected), samples.T @ samples, atol=1e-15)


def test_a_pose_field_carries_the_covariance_along():
    moved = motion(np.array([0.02, -0.01, 0.03, 0.2, -0.1, 0.3]))
    random = np.random.default_rng(2)
    samples = random.normal(0, 1e-5, (400, 6)) * [1, 2, 3, 4, 5, 6]
    in_map = np.array([pose_difference(TRUE, pose.compose(motion(sample), TRUE)) for sample in samples])
    world = pose.compose(moved, TRUE)
    true_worlds = [pose.compose(moved, pose.compose(motion(sample), TRUE)) for sample in samples]
    differences = np.array([pose_difference(world, true) for true in true_worlds])
    expected = in_world(in_map.T @ in_map, TRUE, world)
    np.testing.assert_allclose(differences.T @ differences, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("points", ["three", "line", "behind"])
def test_points_that_fix_no_pose_have_no_covariance(points):
    local = np.random.default_rng(3).uniform([-1, -1, 2], [1, 1, 4], (20, 3))
    if points == "three":
        local = local[:3]
    elif points == "line":
        local = np.linspace(2, 4, 20)[:, None] * np.array([0.1, 0.1, 1.0]) + [0.3, 0.2, 0]
    pixels = project(CAMERA, local)[0]
    if points == "behind":
        local = -local
    assert pose_covariance(TRUE, pixels, pose.transform(pose.inverse(TRUE), local), CAMERA) is None


def test_the_covariance_that_the_page_on_localizing_gives_to_ros():
    """Position first, then rotation about the map's fixed axes."""
    page = (Path(__file__).parents[3] / "docs" / "localizing.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"to_ros = (.*)", page)
    world_from_cam = TRUE[:, :3].T
    to_ros = eval(line, {"np": np, "world_from_cam": world_from_cam})
    error = np.array([2e-5, -1e-5, 3e-5, 0.01, 0.02, -0.03])  # (w, c)
    moved_from_cam = (motion(np.array([*error[:3], 0, 0, 0]))[:, :3] @ TRUE[:, :3]).T
    turned = Rotation.from_matrix(moved_from_cam @ world_from_cam.T).as_rotvec()
    np.testing.assert_allclose(to_ros @ error, [*error[3:], *turned], atol=1e-8)
