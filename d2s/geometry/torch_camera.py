"""Differentiable projection with COLMAP's camera models, for the reprojection loss (paper, section III-D).

The models' formulas are those of COLMAP; the parameters are COLMAP's, in its order and convention. The pixels that come out are ours
(top-left pixel centre at 0): `d2s.geometry.camera` converts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pycolmap
import torch
from torch import Tensor

from d2s.errors import InputError, unknown_choice
from d2s.geometry.camera import pixels_from_colmap

Distortion = Callable[[Sequence[Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]
"""(coefficients, u, v) -> distorted (u, v), on the plane z = 1."""

SMALL = 1e-10  # squared radius below which the limit of theta / r is used


def _none(_: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return u, v


def _polynomial(coefficients: Sequence[Tensor], square: Tensor) -> Tensor:
    """1 + k1 s + k2 s^2 + ..., by Horner's rule."""
    value = torch.zeros_like(square)
    for k in reversed(coefficients):
        value = (value + k) * square
    return 1 + value


def _radial(k: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scale = _polynomial(k, u * u + v * v)
    return u * scale, v * scale


def _tangential(p1: Tensor, p2: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    uv, square = 2 * u * v, u * u + v * v
    return p1 * uv + p2 * (square + 2 * u * u), p2 * uv + p1 * (square + 2 * v * v)


def _opencv(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x, y = _radial(c[:2], u, v)
    dx, dy = _tangential(c[2], c[3], u, v)
    return x + dx, y + dy


def _full_opencv(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    k1, k2, p1, p2, k3, k4, k5, k6 = c
    square = u * u + v * v
    scale = _polynomial((k1, k2, k3), square) / _away_from_zero(_polynomial((k4, k5, k6), square))
    dx, dy = _tangential(p1, p2, u, v)
    return u * scale + dx, v * scale + dy


def _away_from_zero(value: Tensor) -> Tensor:
    return torch.where(value.abs() < 1e-6, torch.full_like(value, 1e-6), value)


def _equidistant(_: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Radius becomes the angle from the optical axis; smooth at the centre."""
    square = u * u + v * v
    small = square < SMALL
    radius = torch.where(small, torch.ones_like(square), square).sqrt()
    scale = torch.where(small, 1 - square / 3, torch.atan(radius) / radius)
    return u * scale, v * scale


def _radial_fisheye(k: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return _radial(k, *_equidistant((), u, v))


def _thin_prism_fisheye(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    k1, k2, p1, p2, k3, k4, sx, sy = c
    u, v = _equidistant((), u, v)
    square = u * u + v * v
    x, y = _radial((k1, k2, k3, k4), u, v)
    dx, dy = _tangential(p1, p2, u, v)
    return x + dx + sx * square, y + dy + sy * square


def _rad_tan_thin_prism_fisheye(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    p0, p1, s0, s1, s2, s3 = c[6:]
    u, v = _radial_fisheye(c[:6], u, v)
    square = u * u + v * v
    dx, dy = _tangential(p1, p0, u, v)
    return u + dx + (s0 + s1 * square) * square, v + dy + (s2 + s3 * square) * square


def _fov(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Devernay and Faugeras: the radius is the tangent of an angle; both limits (no distortion, no radius) are smooth."""
    omega = c[0]
    tangent = 2 * torch.tan(omega / 2)
    square = (u * u + v * v) * tangent * tangent
    small = square < SMALL
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    limit = tangent / torch.where(omega.abs() < 1e-6, torch.ones_like(omega), omega)
    limit = torch.where(omega.abs() < 1e-6, torch.ones_like(omega), limit)
    scale = limit * torch.where(small, 1 - square / 3, torch.atan(angle) / angle)
    return u * scale, v * scale


def _division(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of u = x / (1 + k |x|^2), on the branch through the centre."""
    scale = 2 / (1 + (1 - 4 * c[0] * (u * u + v * v)).clamp(min=1e-6).sqrt())
    return u * scale, v * scale


def _eucm(c: Sequence[Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    alpha, beta = c
    depth = _away_from_zero(alpha * (beta * (u * u + v * v) + 1).clamp(min=1e-12).sqrt() + 1 - alpha)
    return u / depth, v / depth


MODELS: dict[str, tuple[int, int, Distortion]] = {
    "SIMPLE_PINHOLE": (1, 0, _none),
    "PINHOLE": (2, 0, _none),
    "SIMPLE_RADIAL": (1, 1, _radial),
    "RADIAL": (1, 2, _radial),
    "OPENCV": (2, 4, _opencv),
    "FULL_OPENCV": (2, 8, _full_opencv),
    "SIMPLE_FISHEYE": (1, 0, _equidistant),
    "FISHEYE": (2, 0, _equidistant),
    "SIMPLE_RADIAL_FISHEYE": (1, 1, _radial_fisheye),
    "RADIAL_FISHEYE": (1, 2, _radial_fisheye),
    "OPENCV_FISHEYE": (2, 4, _radial_fisheye),
    "THIN_PRISM_FISHEYE": (2, 8, _thin_prism_fisheye),
    "RAD_TAN_THIN_PRISM_FISHEYE": (2, 12, _rad_tan_thin_prism_fisheye),
    "FOV": (2, 1, _fov),
    "SIMPLE_DIVISION": (1, 1, _division),
    "DIVISION": (2, 1, _division),
    "EUCM": (2, 2, _eucm),
}
"""Model name -> (number of focal lengths, number of coefficients, distortion)."""


def project_points(model: str, params: Tensor, points_cam: Tensor, min_depth: float = 0.1) -> Tensor:
    """Our pixels (..., 2) of points (..., 3) in the camera frame.

    `params` is (P,), or (..., P) with leading dimensions that broadcast against those of the points. Depths below `min_depth` (scene units)
    count as `min_depth`, so that values and gradients are finite everywhere; the caller masks such points.
    Raises InputError for a model that is not in `MODELS`, or for a wrong number of parameters.
    """
    if model not in MODELS:
        raise unknown_choice("camera model for differentiable projection", model, MODELS)
    focals, coefficients, distort = MODELS[model]
    if params.shape[-1] != focals + 2 + coefficients:
        raise InputError(f"Camera model {model} takes {focals + 2 + coefficients} parameters, not {params.shape[-1]}.")
    x, y, z = points_cam.unbind(-1)
    depth = z.clamp(min=min_depth)
    values = params.unbind(-1)
    u, v = distort(values[focals + 2 :], x / depth, y / depth)
    return pixels_from_colmap(torch.stack([values[0] * u + values[focals], values[focals - 1] * v + values[focals + 1]], dim=-1))


class TorchCameras:
    """Cameras of any models as tensors, for projecting batches in which every image has its own camera."""

    def __init__(self, cameras: Sequence[pycolmap.Camera], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Camera i of the list has index i in `project`. Raises InputError where there is none, or a model is not supported."""
        names = [camera.model.name for camera in cameras]
        for name in names:
            if name not in MODELS:
                raise unknown_choice("camera model for differentiable projection", name, MODELS)
        if not names:
            raise InputError("Projection needs at least one camera, and there is none.")
        self.models = tuple(sorted(set(names)))
        self.params = torch.zeros(len(names), max(len(camera.params) for camera in cameras), dtype=dtype)
        for i, camera in enumerate(cameras):
            self.params[i, : len(camera.params)] = torch.as_tensor(camera.params, dtype=dtype)
        self.model_index = torch.tensor([self.models.index(name) for name in names])
        self.to(device)

    def __len__(self) -> int:
        return len(self.params)

    def to(self, device: torch.device | str) -> TorchCameras:
        """Move to a device; returns self."""
        self.params, self.model_index = self.params.to(device), self.model_index.to(device)
        return self

    def project(self, camera_index: Tensor, points_cam: Tensor, min_depth: float = 0.1) -> Tensor:
        """Pixels (B, N, 2) of points (B, N, 3) in the camera frames; row b is seen by camera `camera_index[b]`. See `project_points`."""
        params = self.params[camera_index]
        if len(self.models) == 1:
            return self._project(self.models[0], params, points_cam, min_depth)
        model_index = self.model_index[camera_index]
        pixels = points_cam.new_zeros(*points_cam.shape[:-1], 2)
        for i, model in enumerate(self.models):
            rows = torch.nonzero(model_index == i).squeeze(1)
            pixels = pixels.index_copy(0, rows, self._project(model, params[rows], points_cam[rows], min_depth))
        return pixels

    @staticmethod
    def _project(model: str, params: Tensor, points_cam: Tensor, min_depth: float) -> Tensor:
        focals, coefficients, _ = MODELS[model]
        own = params[:, None, : focals + 2 + coefficients].to(points_cam.dtype)
        return project_points(model, own, points_cam, min_depth)
