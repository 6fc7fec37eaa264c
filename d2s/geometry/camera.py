"""COLMAP cameras and the two pixel conventions.

In memory and in our files the centre of the top-left pixel is (0, 0). In COLMAP, in its camera parameters and in its models, that point
is (0.5, 0.5). A `pycolmap.Camera` always keeps COLMAP's convention; the functions here take and return our pixels and convert inside.
Nothing else in the project adds or subtracts half a pixel.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError

Array = NDArray[np.float64]
Numeric = TypeVar("Numeric")  # numpy array or torch tensor

CAMERA_MODELS = tuple(name for name in pycolmap.CameraModelId.__members__ if name not in ("INVALID", "EQUIRECTANGULAR"))


def colmap_from_pixels(pixels: Numeric) -> Numeric:
    """COLMAP image coordinates (top-left pixel centre at 0.5) of our pixels (at 0)."""
    return pixels + 0.5  # type: ignore[operator, return-value]


def pixels_from_colmap(points: Numeric) -> Numeric:
    """Our pixels of COLMAP image coordinates."""
    return points - 0.5  # type: ignore[operator, return-value]


def make_camera(model: str, width: int, height: int, params: ArrayLike, camera_id: int = 1) -> pycolmap.Camera:
    """A checked COLMAP camera. Raises InputError naming the wrong value and what the model needs."""
    if model not in CAMERA_MODELS:
        raise InputError(f"Unknown camera model {model!r}.", f"Choose one of: {', '.join(CAMERA_MODELS)}.")
    values = np.asarray(params, dtype=np.float64).ravel()
    if width < 1 or height < 1:
        raise InputError(f"A camera needs a positive image size, not {width}x{height}.")
    camera = pycolmap.Camera(model=model, width=int(width), height=int(height), params=np.zeros(_num_params(model)), camera_id=camera_id)
    if len(values) != len(camera.params) or not np.isfinite(values).all():
        raise InputError(
            f"Camera model {model} takes {len(camera.params)} finite parameters ({camera.params_info}), not {values.tolist()}."
        )
    camera.params = values
    if (values[list(camera.focal_length_idxs())] <= 0).any():
        raise InputError(f"The focal length of a {model} camera must be positive: {values.tolist()} ({camera.params_info}, pixels).")
    return camera


def _num_params(model: str) -> int:
    if hasattr(pycolmap.Camera, "create_from_model_name"):
        return len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 1, 1).params)
    return len(pycolmap.Camera.create(1, getattr(pycolmap.CameraModelId, model), 1.0, 1, 1).params)  # pycolmap 3.13


def parse_camera(text: str) -> pycolmap.Camera:
    """The camera of a line `MODEL WIDTH HEIGHT p0 p1 …` (COLMAP names and parameter order, pixels)."""
    fields = text.split()
    usage = "Write it as 'MODEL WIDTH HEIGHT p0 p1 …', for example 'SIMPLE_PINHOLE 640 480 525 320 240'."
    if len(fields) < 4:
        raise InputError(f"Camera {text!r} is incomplete.", usage)
    try:
        width, height = int(fields[1]), int(fields[2])
        params = [float(field) for field in fields[3:]]
    except ValueError:
        raise InputError(f"Camera {text!r} has a field that is not a number.", usage) from None
    return make_camera(fields[0], width, height, params)


def format_camera(camera: pycolmap.Camera) -> str:
    """`MODEL WIDTH HEIGHT p0 p1 …`, exact: `parse_camera` gives the same camera back."""
    return " ".join([camera.model.name, str(camera.width), str(camera.height), *(repr(float(p)) for p in camera.params)])


def project(camera: pycolmap.Camera, points_cam: ArrayLike, min_depth: float = 1e-6) -> tuple[Array, NDArray[np.bool_]]:
    """Pixels (N, 2) of points (N, 3) in the camera frame, and which of them lie in front of the camera.

    Pixels of points that are not in front, or outside the domain of the distortion model, are NaN.
    """
    points_cam = np.asarray(points_cam, dtype=np.float64).reshape(-1, 3)
    in_front = points_cam[:, 2] > min_depth
    if in_front.all():
        return pixels_from_colmap(np.asarray(camera.img_from_cam(points_cam), dtype=np.float64)).reshape(-1, 2), in_front
    pixels = np.full((len(points_cam), 2), np.nan)
    if in_front.any():
        pixels[in_front] = pixels_from_colmap(np.asarray(camera.img_from_cam(points_cam[in_front]), dtype=np.float64))
    return pixels, in_front


def unproject(camera: pycolmap.Camera, pixels: ArrayLike) -> Array:
    """Undistorted normalised coordinates (N, 2), i.e. points on the plane z = 1 of the camera frame; NaN outside the model's domain."""
    pixels = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
    return np.asarray(camera.cam_from_img(colmap_from_pixels(pixels)), dtype=np.float64).reshape(-1, 2)
