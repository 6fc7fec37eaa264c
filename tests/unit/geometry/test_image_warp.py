from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2s.errors import InputError
from d2s.geometry.camera import CAMERA_MODELS, make_camera, project
from d2s.geometry.image import TWO_FOCALS, ImageRotation, ImageWarp, crop, resize, resize_to_max_side, with_two_focals
from d2s.geometry.torch_camera import MODELS

SIZES = st.tuples(st.integers(20, 900), st.integers(20, 900))


def camera(model: str, size=(640, 480), coefficient: float = 0.01):
    focals, coefficients, _ = MODELS[model]
    values = [0.6, 1.1] if model == "EUCM" else [coefficient] * coefficients
    return make_camera(model, *size, [510.0, 495.0][:focals] + [323.1, 237.4] + values)


def points_cam(count: int = 50):
    random = np.random.default_rng(0)
    return np.column_stack([random.uniform(-0.6, 0.6, (count, 2)), np.ones(count)]) * random.uniform(0.5, 9, (count, 1))


@pytest.mark.parametrize("model", CAMERA_MODELS)
@pytest.mark.parametrize(
    "warp",
    [
        resize((640, 480), (320, 240)),
        resize((640, 480), (333, 777)),
        crop((640, 480), -20, 35, (400, 300)),
        resize((640, 480), (801, 600)).then(crop((801, 600), 100, 50, (333, 222))).then(resize((333, 222), (100, 100))),
    ],
    ids=["half", "stretched", "crop", "all"],
)
def test_projection_commutes_with_the_warp(model, warp):
    before, _ = project(camera(model), points_cam())
    after, _ = project(warp.apply_camera(camera(model)), points_cam())
    np.testing.assert_allclose(after, warp.apply_points(before), atol=1e-8)
    assert (warp.apply_camera(camera(model)).width, warp.apply_camera(camera(model)).height) == warp.size


@given(SIZES, SIZES, st.tuples(st.integers(-50, 50), st.integers(-50, 50)))
def test_points_round_trip(source, target, corner):
    warp = resize(source, target).then(crop(target, *corner, (30, 40)))
    pixels = np.random.default_rng(0).uniform(0, 500, (20, 2))
    np.testing.assert_allclose(warp.invert_points(warp.apply_points(pixels)), pixels, atol=1e-8)
    np.testing.assert_allclose(warp.apply_points(torch.tensor(pixels)).numpy(), warp.apply_points(pixels), atol=1e-8)


@given(SIZES, SIZES)
def test_resizing_maps_image_borders_to_image_borders(source, target):
    corners = np.array([[-0.5, -0.5], [source[0] - 0.5, source[1] - 0.5]])
    np.testing.assert_allclose(resize(source, target).apply_points(corners), [[-0.5, -0.5], [target[0] - 0.5, target[1] - 0.5]], atol=1e-9)


@given(SIZES, st.integers(16, 1200))
def test_max_side(source, side):
    warp = resize_to_max_side(source, side)
    assert max(warp.size) == min(side, max(source))
    assert max(resize_to_max_side(source, side, enlarge=True).size) == side
    if max(source) <= side:
        assert warp == ImageWarp(source, source)


def gradient_image(width: int, height: int) -> np.ndarray:
    """Channels are the x and y of each pixel, so that a warped image tells where its pixels came from."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    "warp",
    [
        resize((120, 90), (60, 45)),
        resize((120, 90), (83, 51)),
        resize((120, 90), (240, 130)),
        crop((120, 90), 30, 20, (50, 40)),
        resize((120, 90), (240, 180)).then(crop((240, 180), 31, 20, (70, 60))),
        resize((120, 90), (71, 61)).then(crop((71, 61), 8, 9, (50, 40))),
    ],
    ids=["half", "smaller", "larger", "crop", "larger-crop", "smaller-crop"],
)
def test_image_moves_as_points_do(warp):
    result = warp.apply_image(gradient_image(120, 90))
    assert result.shape == (warp.size[1], warp.size[0], 2)
    pixels = gradient_image(*warp.size).astype(np.float64)
    inside = (slice(3, -3), slice(3, -3))
    # Area averages of whole pixels are up to 0.09 off the continuous mean; half a pixel of a wrong convention is far more.
    np.testing.assert_allclose(result[inside], warp.invert_points(pixels)[inside], atol=0.1)


def test_crop_beyond_the_image_is_black():
    image = np.full((10, 20), 7, dtype=np.uint8)
    result = crop((20, 10), -5, -3, (30, 20)).apply_image(image)
    assert result.shape == (20, 30) and result.sum() == 7 * 200 and (result[3:13, 5:25] == 7).all()
    assert crop((20, 10), 50, 50, (5, 5)).apply_image(image).sum() == 0


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.ptp(resize((64, 64), (16, 16)).apply_image(stripes)) == 0


@pytest.mark.parametrize("model", TWO_FOCALS)
def test_two_focals_is_the_same_camera(model):
    own = camera(model, coefficient=-0.03)
    np.testing.assert_allclose(project(with_two_focals(own), points_cam())[0], project(own, points_cam())[0], atol=1e-9)


@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"])
@settings(deadline=None, max_examples=20)
@given(angle=st.floats(-180, 180))
def test_projection_commutes_with_rotation(model, angle):
    own, turn = camera(model), ImageRotation((640, 480), angle, (300.0, 250.0))
    pose = np.column_stack([np.eye(3), [0.1, -0.2, 0.3]])
    before, _ = project(own, points_cam() + pose[:, 3])
    turned = turn.apply_pose(pose)
    after, _ = project(turn.apply_camera(own), points_cam() @ turned[:, :3].T + turned[:, 3])
    np.testing.assert_allclose(after, turn.apply_points(before), atol=1e-8)
    np.testing.assert_allclose(turn.invert_points(after), before, atol=1e-8)


def test_rotated_image_moves_as_points_do():
    turn = ImageRotation((120, 90), 17.0, (60.0, 40.0))
    result = turn.apply_image(gradient_image(120, 90))
    origin = turn.invert_points(gradient_image(120, 90).astype(np.float64))
    inside = (origin > 1).all(-1) & (origin[..., 0] < 118) & (origin[..., 1] < 88)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(result[inside], origin[inside], atol=0.06)


def test_rotation_refuses_cameras_that_it_cannot_express():
    turn = ImageRotation((640, 480), 10.0, (320.0, 240.0))
    for model in ("OPENCV", "PINHOLE"):
        with pytest.raises(InputError, match="no .* camera"):
            turn.apply_camera(camera(model))


def test_wrong_sizes_are_refused():
    with pytest.raises(InputError, match="not \\(5, 4\\)"):
        resize((6, 4), (3, 2)).apply_image(np.zeros((4, 5)))
    with pytest.raises(InputError, match="cannot follow"):
        resize((6, 4), (3, 2)).then(crop((6, 4), 0, 0, (2, 2)))
    with pytest.raises(InputError, match="cannot be warped"):
        resize((6, 4), (0, 2))
