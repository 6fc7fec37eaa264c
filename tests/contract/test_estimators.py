"""What every PnP back end promises."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, unproject
from d2s.localization.table import ESTIMATORS, make_estimator

CAMERAS = [
    "SIMPLE_PINHOLE 640 480 525 320 240",
    "PINHOLE 480 640 525 470 235 330",
    "SIMPLE_RADIAL 640 480 525 320 240 -0.15",
    "RADIAL 640 480 525 320 240 -0.1 0.02",
    "OPENCV 640 480 525 520 310 245 -0.1 0.02 0.001 0.002",
    "FULL_OPENCV 640 480 525 520 320 240 -0.1 0.02 0.001 0.002 0.001 0 0 0",
    "OPENCV_FISHEYE 640 480 250 255 320 240 0.01 0.001 0 0",
    "SIMPLE_RADIAL_FISHEYE 640 480 250 320 240 0.01",
    "RADIAL_FISHEYE 640 480 250 320 240 0.01 -0.002",
    "THIN_PRISM_FISHEYE 640 480 250 250 320 240 0.01 0 0.001 0 0 0 0.001 0",
    "FOV 640 480 300 300 320 240 0.8",
]
PINHOLE = parse_camera(CAMERAS[0])


@pytest.fixture(params=list(ESTIMATORS))
def name(request):
    return request.param


def made_view(camera, count=400, outliers=0.0, noise=0.0, seed=0):
    """A pose, pixels and the scene points seen there; outliers see points that lie elsewhere. Also which are right."""
    random = np.random.default_rng(seed)
    cam_from_world = pose.from_qvec_tvec(random.normal(size=4), random.normal(size=3) * 3)
    pixels = random.uniform([0, 0], [camera.width - 1, camera.height - 1], (3 * count, 2))
    rays = unproject(camera, pixels)
    visible = np.flatnonzero(np.linalg.norm(rays, axis=1) < 3)[:count]
    depth = random.uniform(1, 6, len(visible))
    points = np.column_stack([rays[visible], np.ones(len(visible))]) * depth[:, None]
    xyz = pose.transform(pose.inverse(cam_from_world), points)
    wrong = np.arange(len(visible)) < outliers * len(visible)
    if wrong.any():
        xyz[wrong] = random.uniform(xyz.min(axis=0), xyz.max(axis=0), (int(wrong.sum()), 3))
    return cam_from_world, pixels[visible] + noise * random.normal(size=(len(visible), 2)), xyz, ~wrong


@pytest.mark.parametrize("text", CAMERAS, ids=lambda text: text.split()[0])
def test_exact_points_give_the_exact_pose(name, text):
    camera = parse_camera(text)
    cam_from_world, pixels, xyz, _ = made_view(camera)
    found = make_estimator(name).estimate(pixels, xyz, camera)
    assert found.success and found.reason == ""
    distance, angle = pose.pose_error(found.cam_from_world, cam_from_world)
    assert distance < 1e-6 and angle < 1e-5
    assert found.inliers.all()


@pytest.mark.parametrize("text", CAMERAS, ids=lambda text: text.split()[0])
def test_sixty_percent_outliers_and_noise(name, text):
    camera = parse_camera(text)
    cam_from_world, pixels, xyz, right = made_view(camera, outliers=0.6, noise=1.0)
    found = make_estimator(name).estimate(pixels, xyz, camera)
    distance, angle = pose.pose_error(found.cam_from_world, cam_from_world)
    assert distance < 0.02 and angle < 0.2
    assert found.inliers[right].mean() > 0.99 and found.inliers[~right].mean() < 0.05


def test_back_ends_agree(name):
    camera = parse_camera(CAMERAS[4])
    _, pixels, xyz, _ = made_view(camera, outliers=0.5, noise=2.0, seed=3)
    found, reference = (make_estimator(n).estimate(pixels, xyz, camera) for n in (name, "poselib"))
    distance, angle = pose.pose_error(found.cam_from_world, reference.cam_from_world)
    assert distance < 1e-3 and angle < 1e-2
    assert (found.inliers == reference.inliers).mean() > 0.99


def test_ninety_percent_outliers(name):
    cam_from_world, pixels, xyz, _ = made_view(PINHOLE, count=600, outliers=0.9, noise=1.0)
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert found.success and pose.pose_error(found.cam_from_world, cam_from_world)[0] < 0.1


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_points_are_a_failure(name, count):
    _, pixels, xyz, _ = made_view(PINHOLE, count=count)
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert not found.success and found.cam_from_world is None
    assert str(count) in found.reason and found.inliers.shape == (count,) and not found.inliers.any()


@pytest.mark.parametrize("count", [4, 5, 8])
def test_few_points_give_the_right_pose_or_none(name, count):
    cam_from_world, pixels, xyz, _ = made_view(PINHOLE, count=count)
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    if found.success:
        assert pose.pose_error(found.cam_from_world, cam_from_world)[0] < 1e-3
    else:
        assert found.reason and count < 8


@pytest.mark.parametrize("count", [10, 100, 500])
@pytest.mark.parametrize("seed", range(3))
def test_unrelated_points_are_refused(name, count, seed):
    random = np.random.default_rng(seed)
    pixels, xyz = random.uniform(0, [639, 479], (count, 2)), random.uniform(-3, 3, (count, 3))
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert not found.success and found.reason and not found.inliers.any()


def test_unusable_rows_are_set_aside(name):
    cam_from_world, pixels, xyz, _ = made_view(PINHOLE)
    xyz[3, 1], xyz[5, 0], pixels[7, 0], pixels[9] = np.nan, np.inf, -np.inf, np.nan
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert pose.pose_error(found.cam_from_world, cam_from_world)[0] < 1e-6
    assert set(np.flatnonzero(~found.inliers)) == {3, 5, 7, 9}


def test_nothing_usable_is_a_failure(name):
    _, pixels, xyz, _ = made_view(PINHOLE)
    found = make_estimator(name).estimate(pixels, np.full_like(xyz, np.nan), PINHOLE)
    assert not found.success and "0 usable" in found.reason


def degenerate(kind):
    _, pixels, xyz, _ = made_view(PINHOLE, count=50)
    if kind == "one scene point":
        xyz[:] = xyz[0]
    elif kind == "one pixel":
        pixels[:] = pixels[0]
    elif kind == "three scene points":
        xyz[3:] = xyz[np.arange(47) % 3]
    elif kind == "scene line":
        xyz[:] = xyz[0] + np.linspace(0, 1, 50)[:, None] * (xyz[1] - xyz[0])
    else:
        pixels[:] = pixels[0] + np.linspace(0, 1, 50)[:, None] * (pixels[1] - pixels[0])
    return pixels, xyz


@pytest.mark.parametrize("kind", ["one scene point", "one pixel", "three scene points", "scene line", "pixel line"])
def test_degenerate_points_are_a_failure(name, kind):
    found = make_estimator(name).estimate(*degenerate(kind), PINHOLE)
    assert not found.success and ("distinct" in found.reason or "line" in found.reason)


def test_repeated_points_do_no_harm(name):
    cam_from_world, pixels, xyz, right = made_view(PINHOLE, outliers=0.3)
    pixels, xyz, right = (np.concatenate([a, a[:200], a[:200]]) for a in (pixels, xyz, right))
    found = make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert pose.pose_error(found.cam_from_world, cam_from_world)[0] < 1e-4 and found.inliers[right].all()


def test_same_input_same_pose(name):
    _, pixels, xyz, _ = made_view(PINHOLE, outliers=0.7, noise=2.0)
    estimator = make_estimator(name)
    first = estimator.estimate(pixels, xyz, PINHOLE)
    np.random.default_rng().normal(size=5)
    for again in (estimator, make_estimator(name)):
        found = again.estimate(pixels, xyz, PINHOLE)
        np.testing.assert_array_equal(found.cam_from_world, first.cam_from_world)
        np.testing.assert_array_equal(found.inliers, first.inliers)


def test_inliers_obey_the_threshold(name):
    _, pixels, xyz, _ = made_view(PINHOLE, noise=2.0)
    loose, tight = (make_estimator(name, max_error=e).estimate(pixels, xyz, PINHOLE).num_inliers for e in (20.0, 2.0))
    assert loose == 400 and 100 < tight < 250


def test_inputs_are_not_changed(name):
    _, pixels, xyz, _ = made_view(PINHOLE, noise=1.0)
    copies = pixels.copy(), xyz.copy()
    make_estimator(name).estimate(pixels, xyz, PINHOLE)
    assert (pixels == copies[0]).all() and (xyz == copies[1]).all()


def test_float32_and_weights_are_accepted(name):
    cam_from_world, pixels, xyz, right = made_view(PINHOLE, outliers=0.3, noise=1.0)
    found = make_estimator(name).estimate(pixels.astype(np.float32), xyz.astype(np.float32), PINHOLE, right.astype(np.float32))
    assert pose.pose_error(found.cam_from_world, cam_from_world)[0] < 0.02


def test_arrays_that_do_not_belong_together_are_refused(name):
    with pytest.raises(InputError, match=r"\(5, 2\)"):
        make_estimator(name).estimate(np.zeros((5, 2)), np.zeros((4, 3)), PINHOLE)


def test_unknown_options_are_refused(name):
    _, pixels, xyz, _ = made_view(PINHOLE)
    with pytest.raises(InputError, match="max_reproj_eror"):
        make_estimator(name, options={"max_reproj_eror": 3}).estimate(pixels, xyz, PINHOLE)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bad_threshold_is_refused(name, value):
    with pytest.raises(InputError, match="max_error"):
        make_estimator(name, max_error=value)


def test_unknown_back_end_lists_the_choices():
    with pytest.raises(InputError, match="poselib, pycolmap, opencv"):
        make_estimator("ransac")
