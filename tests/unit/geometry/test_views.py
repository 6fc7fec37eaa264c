"""Views of turned and zoomed cameras, and homographies: exact for points, cameras and poses of every model, and for pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from d2s.geometry.views import CameraView, Homography

SIZE = (640, 480)
LENSES = {
    "SIMPLE_PINHOLE": [500, 330, 235],
    "PINHOLE": [500, 520, 330, 235],
    "SIMPLE_RADIAL": [500, 330, 235, -0.08],
    "RADIAL": [500, 330, 235, -0.08, 0.02],
    "OPENCV": [500, 520, 330, 235, -0.08, 0.02, 0.002, -0.003],
    "FULL_OPENCV": [500, 520, 330, 235, -0.08, 0.02, 0.002, -0.003, 0.001, 0.01, 0.002, 0.001],
    "OPENCV_FISHEYE": [300, 310, 330, 235, 0.01, -0.002, 0.001, 0.0],
}


def turned(model: str, roll: float = 25.0, tilt: float = 10.0, zoom: float = 0.8, size=SIZE) -> CameraView:
    source = make_camera(model, *SIZE, LENSES[model])
    params = np.array(source.params)
    params[list(source.focal_length_idxs())] *= zoom
    rotation = cv2.Rodrigues(np.radians([0, 0, roll]))[0] @ cv2.Rodrigues(np.radians([tilt, 0.5 * tilt, 0]))[0]
    return CameraView(source, make_camera(model, *size, params), rotation)


def world() -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) in front of a camera, and its pose."""
    random = np.random.default_rng(0)
    cam_from_world = pose.from_qvec_tvec([0.9, 0.1, -0.2, 0.3], [0.4, -0.3, 1.0])
    rays = np.column_stack([random.uniform(-0.5, 0.5, (200, 2)), np.ones(200)]) * random.uniform(1, 9, (200, 1))
    return pose.transform(pose.inverse(cam_from_world), rays), cam_from_world


@pytest.mark.parametrize("model", LENSES)
def test_the_new_camera_and_pose_see_every_point_where_the_view_puts_its_pixel(model):
    points, cam_from_world = world()
    view = turned(model)
    before, _ = project(view.source, pose.transform(cam_from_world, points))
    after, _ = project(view.target, pose.transform(view.apply_pose(cam_from_world), points))
    np.testing.assert_allclose(view.apply_points(before), after, atol=1e-5)
    np.testing.assert_allclose(view.invert_points(after), before, atol=1e-5)
    np.testing.assert_allclose(pose.center(view.apply_pose(cam_from_world)), pose.center(cam_from_world), atol=1e-12)


def test_the_pose_is_turned_from_the_left():
    """Turned from the right, the world would turn about its own origin, and the points would be hundreds of pixels off."""
    points, cam_from_world = world()
    view = turned("SIMPLE_PINHOLE")
    wrong = cam_from_world @ np.block([[view.rotation, np.zeros((3, 1))], [np.zeros(3), 1.0]])
    right, _ = project(view.target, pose.transform(view.apply_pose(cam_from_world), points))
    off, _ = project(view.target, pose.transform(wrong, points))
    assert np.nanmedian(np.linalg.norm(right - off, axis=1)) > 100


def positions(size=SIZE) -> np.ndarray:
    """An image whose channels are the x and y of its pixels, so that each pixel of a view says where it came from (uint8 has no room)."""
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    return np.stack([x, y], axis=-1)


def homography() -> Homography:
    return Homography.from_corners(SIZE, [[40, 20], [600, 60], [630, 470], [10, 400]])


@pytest.mark.parametrize("view", [turned("OPENCV", zoom=1.3), turned("SIMPLE_RADIAL", zoom=0.8, size=(300, 500)), homography()])
def test_images_move_as_points_do(view):
    result = view.apply_image(positions())
    height, width = result.shape[:2]
    grid = positions((width, height)).reshape(-1, 2).astype(np.float64)
    origin = view.invert_points(grid).reshape(height, width, 2)
    inside = ((origin > 4) & (origin < np.array(SIZE) - 5)).all(axis=-1)
    assert inside.mean() > 0.3
    assert np.abs(result[inside] - origin[inside]).max() < 0.1  # half a pixel of a wrong convention is far more
    outside = ((origin < -5) | (origin > np.array(SIZE) + 5)).any(axis=-1)
    assert (result[outside] == 0).all()


def test_a_homography_fills_the_image_from_its_corners_and_goes_back():
    view = homography()
    np.testing.assert_allclose(view.apply_points([[40, 20], [630, 470]]), [[0, 0], [639, 479]], atol=1e-3)
    pixels = np.random.default_rng(0).uniform(0, 400, (50, 2))
    np.testing.assert_allclose(view.invert_points(view.apply_points(pixels)), pixels, atol=1e-6)


def test_rays_behind_the_camera_are_nan_and_black():
    view = turned("SIMPLE_PINHOLE", tilt=100.0)
    assert np.isnan(view.apply_points([[330.0, 235.0]])).all()
    assert not view.apply_image(np.full((480, 640, 3), 255, np.uint8))[0].any()


def test_beyond_the_horizon_of_a_homography_is_nothing():
    view = Homography(SIZE, np.array([[1, 0, 0], [0, 1, 0], [0.01, 0, 1.0]]))
    assert np.isnan(view.apply_points([[-200.0, 0.0]])).all() and np.isfinite(view.apply_points([[50.0, 0.0]])).all()


@pytest.mark.parametrize("view", [turned("PINHOLE"), homography()])
def test_images_of_another_size_are_refused(view):
    with pytest.raises(InputError, match=r"\(640, 480\) pixels, not \(480, 640\)"):
        view.apply_image(np.zeros((640, 480, 3), np.uint8))
