from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.errors import InputError
from d2s.geometry.camera import CAMERA_MODELS, make_camera, pixels_from_colmap
from d2s.geometry.torch_camera import MODELS, TorchCameras, project_points

# Values with every coefficient in use, small enough for the points below to lie in the models' domains.
COEFFICIENTS = {
    "SIMPLE_RADIAL": [-0.08],
    "RADIAL": [-0.08, 0.02],
    "OPENCV": [-0.08, 0.02, 0.003, -0.002],
    "FULL_OPENCV": [-0.08, 0.02, 0.003, -0.002, 0.01, 0.02, -0.01, 0.005],
    "SIMPLE_RADIAL_FISHEYE": [0.03],
    "RADIAL_FISHEYE": [0.03, -0.01],
    "OPENCV_FISHEYE": [0.03, -0.01, 0.004, -0.001],
    "THIN_PRISM_FISHEYE": [0.03, -0.01, 0.002, -0.003, 0.004, -0.001, 0.002, -0.004],
    "RAD_TAN_THIN_PRISM_FISHEYE": [0.03, -0.01, 0.004, -0.001, 0.002, -0.001, 0.002, -0.003, 0.002, -0.004, 0.001, 0.003],
    "FOV": [0.7],
    "SIMPLE_DIVISION": [-0.1],
    "DIVISION": [-0.1],
    "EUCM": [0.6, 1.1],
}
NAMES = [name for name in MODELS if name in CAMERA_MODELS]


def camera(model: str):
    focals = [510.0, 495.0][: MODELS[model][0]]
    return make_camera(model, 640, 480, [*focals, 323.1, 237.4, *COEFFICIENTS.get(model, [])])


def points(count: int = 200) -> np.ndarray:
    random = np.random.default_rng(0)
    xyz = np.column_stack([random.uniform(-0.7, 0.7, (count, 2)), np.ones(count)]) * random.uniform(0.2, 9, (count, 1))
    xyz[0, :2] = 0  # the optical axis
    xyz[1, :2] = 1e-9
    return xyz


@pytest.mark.parametrize("model", NAMES)
def test_projection_equals_colmap(model):
    own = camera(model)
    expected = pixels_from_colmap(np.asarray(own.img_from_cam(points())))
    projected = project_points(model, torch.tensor(np.array(own.params)), torch.tensor(points())).numpy()
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(projected, expected, rtol=0, atol=1e-9)


def test_every_model_of_colmap_is_supported():
    assert set(NAMES) == set(CAMERA_MODELS)


@pytest.mark.parametrize("model", NAMES)
def test_gradients_are_right(model):
    xyz = torch.tensor(points(6)[1:], requires_grad=True)
    params = torch.tensor(np.array(camera(model).params), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, p: project_points(model, p, x), (xyz, params), eps=1e-7, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere(model, dtype):
    random = np.random.default_rng(1)
    hard = np.concatenate([random.normal(0, 5, (200, 3)), [[0, 0, 0], [0, 0, -1], [0, 0, 5], [3, 0, 0], [1e-20, 0, 1]]])
    xyz = torch.tensor(hard, dtype=dtype, requires_grad=True)
    pixels = project_points(model, torch.tensor(np.array(camera(model).params), dtype=dtype), xyz)
    pixels.sum().backward()
    assert torch.isfinite(pixels).all() and torch.isfinite(xyz.grad).all()


def test_fov_without_distortion_is_a_pinhole():
    own = torch.tensor([500.0, 500.0, 320.0, 240.0, 0.0], dtype=torch.float64)
    xyz = torch.tensor([[0.1, 0.2, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    expected = project_points("PINHOLE", own[:4], xyz)
    torch.testing.assert_close(project_points("FOV", own, xyz), expected)


def test_unknown_model_is_named_with_those_supported():
    with pytest.raises(InputError, match="EQUIRECTANGULAR.*SIMPLE_PINHOLE"):
        project_points("EQUIRECTANGULAR", torch.zeros(2), torch.zeros(1, 3))


def test_wrong_number_of_parameters():
    with pytest.raises(InputError, match="takes 3 parameters, not 4"):
        project_points("SIMPLE_PINHOLE", torch.zeros(4), torch.zeros(1, 3))


@pytest.mark.parametrize("models", [["SIMPLE_RADIAL"] * 3, NAMES])
def test_batch_equals_single_projections(models):
    cameras = [camera(model) for model in models]
    for i, own in enumerate(cameras):
        own.params = np.array(own.params) + np.eye(len(own.params))[0] * i
    batch = TorchCameras(cameras, dtype=torch.float64)
    index = torch.tensor([2, 0, 1, 2, len(cameras) - 1])
    xyz = torch.tensor(points(50)).reshape(5, 10, 3).requires_grad_()
    pixels = batch.project(index, xyz)
    for row, i in enumerate(index.tolist()):
        expected = project_points(models[i], torch.tensor(np.array(cameras[i].params)), xyz[row])
        torch.testing.assert_close(pixels[row], expected, rtol=0, atol=1e-9)
    pixels.sum().backward()
    assert (xyz.grad.abs().sum(-1) > 0).all()


def test_batch_in_single_precision_is_accurate():
    own = camera("OPENCV")
    pixels = TorchCameras([own]).project(torch.zeros(1, dtype=torch.long), torch.tensor(points()[None], dtype=torch.float32))
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0].numpy(), pixels_from_colmap(np.asarray(own.img_from_cam(points()))), atol=2e-3)


def test_no_cameras():
    with pytest.raises(InputError, match="at least one camera"):
        TorchCameras([])
