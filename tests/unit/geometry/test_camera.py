from __future__ import annotations

import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2s.errors import InputError
from d2s.geometry.camera import (
    CAMERA_MODELS,
    colmap_from_pixels,
    format_camera,
    make_camera,
    parse_camera,
    pixels_from_colmap,
    project,
    unproject,
)
from d2s.geometry.torch_camera import MODELS

COEFFICIENT = {"FOV": 0.6, "EUCM": 0.8}


def camera(model: str, coefficient: float | None = None):
    focals, coefficients, _ = MODELS[model]
    value = COEFFICIENT.get(model, 0.004) if coefficient is None else coefficient
    return make_camera(model, 640, 480, [510.0, 505.0][:focals] + [323.1, 237.4] + [value] * coefficients)


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_project_and_unproject_are_inverse(model):
    random = np.random.default_rng(0)
    pixels = random.uniform((0, 0), (639, 479), (300, 2))
    rays = unproject(camera(model), pixels)
    depth = random.uniform(0.1, 20, (300, 1))
    back, in_front = project(camera(model), np.column_stack([rays, np.ones(300)]) * depth)
    assert in_front.all()
    np.testing.assert_allclose(back, pixels, atol=1e-6)


@settings(deadline=None)
@given(
    model=st.sampled_from([model for model in CAMERA_MODELS if MODELS[model][1]]),
    coefficient=st.floats(-0.01, 0.01),
    x=st.floats(100, 540),
    y=st.floats(80, 400),
)
def test_round_trip_for_many_distortions(model, coefficient, x, y):
    own = camera(model, abs(coefficient) + 0.5 if model in ("FOV", "EUCM") else coefficient)
    ray = unproject(own, [[x, y]])
    np.testing.assert_allclose(project(own, np.column_stack([ray, [1.0]]))[0], [[x, y]], atol=1e-6)


def test_pixel_convention():
    """A pinhole whose principal point is the middle of a 2x2 image: COLMAP's (1, 1), our (0.5, 0.5)."""
    own = make_camera("SIMPLE_PINHOLE", 2, 2, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(project(own, [[0.0, 0.0, 3.0]])[0], [[0.5, 0.5]])
    np.testing.assert_allclose(unproject(own, [[0.0, 0.0]]), [[-0.5, -0.5]])


@given(st.lists(st.floats(-1e4, 1e4), min_size=1))
def test_conventions_are_inverse(values):
    np.testing.assert_allclose(pixels_from_colmap(colmap_from_pixels(np.array(values))), values, atol=1e-9)


def test_points_behind_the_camera_have_no_pixel():
    pixels, in_front = project(camera("PINHOLE"), [[0, 0, -1], [0, 0, 0], [0.1, 0.1, 1]])
    assert in_front.tolist() == [False, False, True]
    assert np.isnan(pixels[:2]).all() and np.isfinite(pixels[2]).all()


@pytest.mark.parametrize("function", [project, unproject])
def test_no_points(function):
    result = function(camera("SIMPLE_RADIAL"), np.zeros((0, 3 if function is project else 2)))
    assert (result[0] if function is project else result).shape == (0, 2)


@given(st.sampled_from(CAMERA_MODELS), st.integers(1, 10000), st.integers(1, 10000), st.integers(0, 2**32 - 1))
def test_text_round_trip_is_exact(model, width, height, seed):
    random = np.random.default_rng(seed)
    focals, coefficients, _ = MODELS[model]
    params = np.concatenate([random.uniform(1, 5000, focals), random.normal(0, 1000, 2), random.normal(0, 0.1, coefficients)])
    own = make_camera(model, width, height, params)
    back = parse_camera(format_camera(own))
    assert (back.model, back.width, back.height) == (own.model, width, height)
    np.testing.assert_array_equal(back.params, params)


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_every_model_is_made_as_colmap_makes_it(model):
    create = getattr(pycolmap.Camera, "create_from_model_name", None) or pycolmap.Camera.create  # pycolmap 3.13 has the latter
    own = create(1, model, 500.0, 640, 480)
    assert make_camera(model, 640, 480, own.params).params.tolist() == own.params.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "incomplete"),
        ("PINHOLE 640 480", "incomplete"),
        ("PINHOLE 640 480 1 2 3", "4 finite parameters"),
        ("PINHOLE 640 480 1 2 3 nan", "4 finite parameters"),
        ("PINHOLE 640 480 500 500 320 wide", "not a number"),
        ("PINHOLE 640.5 480 500 500 320 240", "not a number"),
        ("HOLEPIN 640 480 1 2 3 4", "Unknown camera model 'HOLEPIN'.*SIMPLE_RADIAL"),
        ("PINHOLE 0 480 1 2 3 4", "positive image size"),
        ("PINHOLE 640 480 -500 500 320 240", "focal length"),
    ],
)
def test_wrong_camera_strings_say_what_is_wrong(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_camera(text)
    assert caught.value.exit_code == 2
