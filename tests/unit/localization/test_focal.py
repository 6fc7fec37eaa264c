"""Poses of cameras that nobody knows, and cameras that do not fit: synthetic scenes whose truth is exact."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import make_camera, parse_camera, project, unproject
from d2s.localization.base import PoseEstimate
from d2s.localization.correspondences import Correspondences
from d2s.localization.covariance import pose_covariance, pose_difference
from d2s.localization.focal import estimate_with_focal
from d2s.localization.lens import CENTER, FOCAL, KEPT_CENTER, KEPT_RADIAL, RADIAL, lens_jacobian, moved_lens, size_of
from d2s.localization.misfit import gain, other_camera
from d2s.localization.table import make_estimator

SIZE = (640, 480)
TRUE = pose.from_qvec_tvec([0.9, 0.2, -0.3, 0.1], [1.0, -2.0, 0.5])
MAX_ERROR = 12.0


def lens(focal, radial=0.0, center=(320.0, 240.0)):
    return make_camera("SIMPLE_RADIAL", *SIZE, [focal, *center, radial])


def seen(camera, count=300, noise=0.0, outliers=0.0, depth=(2.0, 8.0), seed=0):
    """Pixels and scene points in front of TRUE."""
    random = np.random.default_rng(seed)
    pixels = random.uniform([10, 10], [630, 470], (count, 2))
    local = np.column_stack([unproject(camera, pixels), np.ones(count)]) * random.uniform(*depth, (count, 1))
    xyz = pose.transform(pose.inverse(TRUE), local)
    pixels = pixels + noise * random.normal(size=(count, 2))
    wrong = random.random(count) < outliers
    xyz[wrong] = random.permutation(xyz[wrong])
    return pixels, xyz


@pytest.mark.parametrize("focal", [250.0, 500.0, 900.0, 2500.0])
def test_exact_points_give_pose_and_focal_length(focal):
    found = estimate_with_focal(*seen(lens(focal)), SIZE, MAX_ERROR)
    assert found.success and found.camera.mean_focal_length() == pytest.approx(focal, rel=1e-3)
    distance, angle = pose.pose_error(found.cam_from_world, TRUE)
    assert distance < 0.01 and angle < 0.02


def test_noise_outliers_and_distortion():
    found = estimate_with_focal(*seen(lens(600.0, -0.2), noise=1.0, outliers=0.6, count=600), SIZE, MAX_ERROR)
    assert found.camera.mean_focal_length() == pytest.approx(600, rel=0.02) and found.camera.params[3] == pytest.approx(-0.2, abs=0.04)
    assert pose.pose_error(found.cam_from_world, TRUE)[0] < 0.15 and 200 < found.num_inliers < 270


def test_the_scene_may_be_moved_turned_and_scaled():
    """A similarity of the world moves the pose with it and leaves the camera as it is."""
    pixels, xyz = seen(lens(700.0), noise=0.5)
    first = estimate_with_focal(pixels, xyz, SIZE, MAX_ERROR)
    change = pose.from_qvec_tvec([0.3, -0.8, 0.2, 0.5], [30.0, -10.0, 5.0])
    second = estimate_with_focal(pixels, 3 * pose.transform(change, xyz), SIZE, MAX_ERROR)
    assert second.camera.mean_focal_length() == pytest.approx(first.camera.mean_focal_length(), rel=2e-3)
    expected = 3 * pose.transform(change, pose.center(first.cam_from_world)[None])[0]
    assert np.linalg.norm(pose.center(second.cam_from_world) - expected) < 0.05


def test_a_wall_seen_frontally_leaves_the_focal_length_open():
    found = estimate_with_focal(*seen(lens(700.0), noise=1.0, depth=(5.0, 5.0001)), SIZE, MAX_ERROR)
    assert not found.success and "leaves its focal length open" in found.reason and found.camera is None


@pytest.mark.parametrize(("count", "outliers", "word"), [(0, 0.0, "0 usable"), (4, 0.0, "5 are needed"), (300, 1.0, "")])
def test_what_gives_no_pose_is_a_failure_with_a_reason(count, outliers, word):
    found = estimate_with_focal(*seen(lens(500.0), count, outliers=outliers), SIZE, MAX_ERROR)
    assert not found.success and found.cam_from_world is None and found.reason and word in found.reason and not found.inliers.any()


def test_an_unknown_focal_length_makes_the_pose_less_certain_and_the_covariance_says_so():
    """Errors lie in their ellipsoids: six degrees of freedom, so 12.6 holds 95 %; a fixed camera's covariance would be far too small.

    What is not estimated, principal point and distortion, is off by what it may be.
    """
    squared, ratio, random = [], [], np.random.default_rng(0)
    for seed in range(25):
        center = np.array([320.0, 240.0]) + 640 * KEPT_CENTER * random.normal(size=2)
        pixels, xyz = seen(lens(700.0, KEPT_RADIAL * random.normal(), center), 60, noise=1.0, depth=(4.0, 6.0), seed=seed)
        found = estimate_with_focal(pixels, xyz, SIZE, MAX_ERROR)
        rows = found.inliers
        free, fixed = (pose_covariance(found.cam_from_world, pixels[rows], xyz[rows], found.camera, f) for f in (found.free, ()))
        error = pose_difference(found.cam_from_world, TRUE)
        squared.append(error @ np.linalg.solve(free, error))
        ratio.append(np.trace(free[3:, 3:]) / np.trace(fixed[3:, 3:]))
    assert 3 < np.median(squared) < 10 and np.mean(np.array(squared) < 12.6) > 0.75 and np.median(ratio) > 4


@pytest.mark.parametrize("free", [(FOCAL,), (CENTER,), (RADIAL,), (FOCAL, RADIAL), (FOCAL, CENTER)])
@pytest.mark.parametrize("text", ["SIMPLE_RADIAL 640 480 500 310 250 -0.1", "OPENCV 640 480 525 520 310 245 -0.1 0.02 0.001 0.002"])
def test_derivative_of_the_lens_matches_differences(text, free):
    camera = parse_camera(text)
    points = np.array([[0.3, 0.2, 1.0], [-0.4, 0.5, 2.0], [0.1, -0.3, 1.5]])
    jacobian = lens_jacobian(camera, points, project(camera, points)[0], free)
    assert jacobian.shape == (3, 2, size_of(free))
    for axis, delta in enumerate(1e-5 * np.eye(size_of(free))):
        ahead, back = (project(moved_lens(camera, free, d), points)[0] for d in (delta, -delta))
        np.testing.assert_allclose(jacobian[:, :, axis], (ahead - back) / 2e-5, rtol=1e-4, atol=1e-4)


def asked(given, true, noise=1.0, **scene):
    pixels, xyz = seen(true, noise=noise, **scene)
    found = make_estimator(max_error=MAX_ERROR).estimate(pixels, xyz, given)
    return other_camera(found, Correspondences.clean(pixels, xyz, given), MAX_ERROR)


@pytest.mark.parametrize("seed", range(8))
def test_a_right_camera_is_left_in_peace(seed):
    assert asked(lens(520.0, -0.05), lens(520.0, -0.05), seed=seed, outliers=0.3) is None


@pytest.mark.parametrize(
    "true",
    [lens(520.0 / 0.8), lens(520.0 / 0.6), lens(520.0 / 0.8, center=(400.0, 180.0)), lens(520.0 / 1.5)],
    ids=["80 %", "60 %", "80 %, a corner", "another lens"],
)
def test_a_crop_and_another_lens_are_seen_and_mended(true):
    found = asked(lens(520.0), true)
    assert found is not None and found.camera.mean_focal_length() == pytest.approx(true.mean_focal_length(), rel=0.03)
    assert pose.pose_error(found.cam_from_world, TRUE)[0] < 0.15


def test_where_only_a_camera_fits_that_no_crop_explains_the_pose_is_refused():
    """The principal point of a longer focal length cannot lie far outside the middle of what was enlarged."""
    found = asked(lens(520.0), lens(530.0, center=(500.0, 60.0)), noise=0.5)
    assert found is not None and not found.success and "camera does not fit" in found.reason and not found.inliers.any()


@pytest.mark.parametrize("usual", [None, 0.8])
def test_no_photo_is_refused_where_the_maps_own_fit_no_better_or_nobody_knows(usual):
    pixels, xyz = seen(lens(530.0, center=(500.0, 60.0)), noise=0.5)
    found = make_estimator(max_error=MAX_ERROR).estimate(pixels, xyz, lens(520.0))
    assert other_camera(found, Correspondences.clean(pixels, xyz, lens(520.0)), MAX_ERROR, usual) is None


@pytest.mark.parametrize(
    ("share", "place"), [(0.5, (0.5, 0.5)), (0.5, (1.0, 0.0)), (0.65, (0.0, 0.5)), (0.9, (0.0, 1.0)), (0.95, (0.5, 0.5))]
)
def test_a_crop_is_found_from_a_pose_of_the_wrong_camera_or_from_none(share, place):
    """Wherever the part lay that was enlarged, and also where the uncropped camera gives no pose at all."""
    size = np.array(SIZE)
    true = lens(520.0 / share, center=(size / 2 - (1 - share) * size * place) / share)
    pixels, xyz = seen(true, 400, noise=1.0, outliers=0.5)
    points = Correspondences.clean(pixels, xyz, lens(520.0))
    nothing = PoseEstimate(False, None, np.zeros(400, dtype=bool), "no pose")
    for first in (make_estimator(max_error=MAX_ERROR).estimate(pixels, xyz, lens(520.0)), nothing):
        found = other_camera(first, points, MAX_ERROR)
        assert found is not None and found.success and found.camera.mean_focal_length() == pytest.approx(520 / share, rel=0.03)
        assert pose.pose_error(found.cam_from_world, TRUE)[0] < 0.2


def test_a_failure_stays_one_where_nothing_agrees_with_any_camera():
    pixels, xyz = seen(lens(520.0), 300, outliers=1.0)
    nothing = PoseEstimate(False, None, np.zeros(300, dtype=bool), "no pose")
    assert other_camera(nothing, Correspondences.clean(pixels, xyz, lens(520.0)), MAX_ERROR) is None


def test_where_all_photos_of_a_map_gain_a_gain_says_nothing():
    pixels, xyz = seen(lens(600.0), noise=1.0)
    given = Correspondences.clean(pixels, xyz, lens(520.0))
    found = make_estimator(max_error=MAX_ERROR).estimate(pixels, xyz, given.camera)
    usual = gain(found.cam_from_world, given, MAX_ERROR)
    assert usual < 0.8 and other_camera(found, given, MAX_ERROR, usual) is None and other_camera(found, given, MAX_ERROR) is not None


@pytest.mark.parametrize("share", [0.1, 0.2, 20.0, 100.0])
def test_a_focal_length_that_no_lens_has_is_not_taken_at_its_word(share):
    """From there one step of refinement promises little: pose and focal length are found anew."""
    found = asked(lens(520.0 * share), lens(520.0), outliers=0.3)
    assert found is not None and found.camera.mean_focal_length() == pytest.approx(520.0, rel=0.03)


@pytest.mark.parametrize("radial", [0.15, 0.5])
def test_a_wrong_distortion_is_not_hidden_by_a_longer_focal_length(radial):
    """As of a sign that was mistaken: the answer is that without a camera, or none."""
    found = asked(lens(520.0, radial), lens(520.0, -0.11), count=600)
    assert found is not None and (not found.success or pose.pose_error(found.cam_from_world, TRUE)[0] < 0.15)
