"""Resizing, cropping and rotating images together with their points and cameras.

Every warp maps pixels of the source image to pixels of the result, acts alike on images, points and cameras, and is exact for all camera
models: projecting with the warped camera gives the warped projection. Pixels have the top-left pixel centre at (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.geometry.camera import colmap_from_pixels, make_camera, pixels_from_colmap

Array = NDArray[np.float64]
Size = tuple[int, int]

TWO_FOCALS: dict[str, tuple[str, int]] = {
    "SIMPLE_PINHOLE": ("PINHOLE", 0),
    "SIMPLE_RADIAL": ("OPENCV", 3),
    "RADIAL": ("OPENCV", 2),
    "SIMPLE_FISHEYE": ("FISHEYE", 0),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", 3),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", 2),
    "SIMPLE_DIVISION": ("DIVISION", 0),
}
"""Models with one focal length -> the model with two that contains them, and how many zero coefficients to append."""

SYMMETRIC = ("PINHOLE", "FISHEYE", "DIVISION", *TWO_FOCALS)
"""Models that know no direction: with equal focal lengths, rotating the image rotates nothing but the principal point."""


@dataclass(frozen=True)
class ImageWarp:
    """Scale, then crop: with the pixel's corner at 0, x' = x * scale - offset.

    `source_size` and `size` are (width, height) before and after; `scale` and `offset` are (x, y), offset in pixels of the result.
    """

    source_size: Size
    size: Size
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if min(*self.source_size, *self.size) < 1 or min(self.scale) <= 0:
            raise InputError(f"An image of {self.source_size} pixels cannot be warped to {self.size} with scale {self.scale}.")

    def then(self, after: ImageWarp) -> ImageWarp:
        """This warp followed by another one, as one."""
        if after.source_size != self.size:
            raise InputError(f"A warp of images of {after.source_size} pixels cannot follow one that gives {self.size}.")
        (sx, sy), (tx, ty) = self.scale, after.scale
        offset = (self.offset[0] * tx + after.offset[0], self.offset[1] * ty + after.offset[1])
        return ImageWarp(self.source_size, after.size, (sx * tx, sy * ty), offset)

    def apply_points(self, pixels: Any) -> Any:
        """Pixels (..., 2) of the source image in the result; numpy array or torch tensor."""
        return pixels_from_colmap(colmap_from_pixels(pixels) * _like(self.scale, pixels) - _like(self.offset, pixels))

    def invert_points(self, pixels: Any) -> Any:
        """Pixels (..., 2) of the result in the source image; numpy array or torch tensor."""
        return pixels_from_colmap((colmap_from_pixels(pixels) + _like(self.offset, pixels)) / _like(self.scale, pixels))

    def apply_image(self, image: NDArray[Any]) -> NDArray[Any]:
        """The warped image (H', W') or (H', W', C); black where the source ends. Shrinking averages, so that nothing aliases."""
        if (image.shape[1], image.shape[0]) != self.source_size:
            raise InputError(f"This warp is for images of {self.source_size} pixels, not {(image.shape[1], image.shape[0])}.")
        if self.scale == (1.0, 1.0) and all(float(o).is_integer() for o in self.offset):
            return _crop(image, (int(self.offset[0]), int(self.offset[1])), self.size)
        if self.offset == (0.0, 0.0) and np.allclose(np.multiply(self.source_size, self.scale), self.size, rtol=0, atol=1e-6):
            return resample(image, self.size)
        blurred = prefilter(image, self.scale)
        origin = self.apply_points(np.zeros(2))
        matrix = np.array([[self.scale[0], 0, origin[0]], [0, self.scale[1], origin[1]]])
        return np.asarray(cv2.warpAffine(blurred, matrix, self.size, flags=cv2.INTER_LINEAR))

    def apply_camera(self, camera: pycolmap.Camera) -> pycolmap.Camera:
        """The camera of the warped image. A model with one focal length becomes its sibling with two where the axes scale differently."""
        if (camera.width, camera.height) != self.source_size:
            raise InputError(f"This warp is for images of {self.source_size} pixels, not {(camera.width, camera.height)}.")
        if abs(self.scale[0] / self.scale[1] - 1) > 1e-12:
            camera = with_two_focals(camera)
        params = np.array(camera.params)
        params[list(camera.focal_length_idxs())] *= np.resize(self.scale, len(camera.focal_length_idxs()))
        principal = list(camera.principal_point_idxs())
        params[principal] = params[principal] * self.scale - self.offset
        return make_camera(camera.model.name, *self.size, params, camera.camera_id)


def resize(source_size: Size, size: Size) -> ImageWarp:
    """Resizing to exactly `size` (width, height)."""
    return ImageWarp(source_size, size, (size[0] / source_size[0], size[1] / source_size[1]))


def resize_to_max_side(source_size: Size, max_side: int, enlarge: bool = False) -> ImageWarp:
    """Resizing that makes the longer side `max_side` pixels long; smaller images stay as they are unless `enlarge`."""
    longest = max(source_size)
    if longest <= max_side and not enlarge:
        return ImageWarp(source_size, source_size)
    width, height = (max(1, round(side * max_side / longest)) for side in source_size)
    return resize(source_size, (width, height))


def crop(source_size: Size, left: int, top: int, size: Size) -> ImageWarp:
    """The part of `size` (width, height) whose top-left pixel is (left, top); it may reach beyond the image."""
    return ImageWarp(source_size, size, (1.0, 1.0), (float(left), float(top)))


def resample(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """The image at another size (width, height), pixel centres in place: area averages where it shrinks, bilinear where it grows."""
    shrinks = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def with_two_focals(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The same camera in a model that has a focal length per axis; unchanged where it has already."""
    if camera.model.name not in TWO_FOCALS:
        return camera
    model, zeros = TWO_FOCALS[camera.model.name]
    f, *rest = camera.params
    return make_camera(model, camera.width, camera.height, [f, f, *rest, *[0.0] * zeros], camera.camera_id)


@dataclass(frozen=True)
class ImageRotation:
    """Rotation in the image plane about the pixel `center`, at the same size. Positive angles turn x towards y: clockwise to the eye."""

    size: Size
    angle_deg: float
    center: tuple[float, float]

    @property
    def rotation(self) -> Array:
        """(2, 2): x' - center = rotation @ (x - center)."""
        c, s = np.cos(np.radians(self.angle_deg)), np.sin(np.radians(self.angle_deg))
        return np.array([[c, -s], [s, c]])

    def apply_points(self, pixels: Any) -> Any:
        """Pixels (..., 2) of the source image in the result; numpy array or torch tensor."""
        return (pixels - _like(self.center, pixels)) @ _like(self.rotation.T, pixels) + _like(self.center, pixels)

    def invert_points(self, pixels: Any) -> Any:
        """Pixels (..., 2) of the result in the source image: with these, any camera model goes on unchanged."""
        return (pixels - _like(self.center, pixels)) @ _like(self.rotation, pixels) + _like(self.center, pixels)

    def apply_image(self, image: NDArray[Any]) -> NDArray[Any]:
        """The rotated image (H, W) or (H, W, C), black where the source ends."""
        matrix = np.column_stack([self.rotation, self.apply_points(np.zeros(2))])
        return np.asarray(cv2.warpAffine(image, matrix, self.size, flags=cv2.INTER_LINEAR))

    def apply_camera(self, camera: pycolmap.Camera) -> pycolmap.Camera:
        """The camera of the rotated image: its principal point rotates too.

        Raises InputError for models that know a direction (tangential distortion, unequal focal lengths); use `invert_points` for those.
        """
        focals = np.array(camera.params)[list(camera.focal_length_idxs())]
        if camera.model.name not in SYMMETRIC or np.ptp(focals) > 1e-9 * focals[0]:
            raise InputError(
                f"A rotated image has no {camera.model.name} camera with focal lengths {focals.tolist()}.",
                f"Rotate images of models {', '.join(SYMMETRIC)} with equal focal lengths, or map the points back.",
            )
        params = np.array(camera.params)
        principal = list(camera.principal_point_idxs())
        params[principal] = colmap_from_pixels(self.apply_points(pixels_from_colmap(params[principal])))
        return make_camera(camera.model.name, camera.width, camera.height, params, camera.camera_id)

    def apply_pose(self, cam_from_world: ArrayLike) -> Array:
        """cam_from_world (3, 4) of the rotated camera: the rotation about the optical axis comes last, so it multiplies from the left."""
        about_axis = np.eye(3)
        about_axis[:2, :2] = self.rotation
        return about_axis @ np.asarray(cam_from_world, dtype=np.float64)


def _like(values: Any, other: Any) -> Any:
    """The values as a tensor of the same type and device as `other` where that is one, else as a float64 array."""
    return other.new_tensor(values) if isinstance(other, torch.Tensor) else np.asarray(values, dtype=np.float64)


def _crop(image: NDArray[Any], corner: tuple[int, int], size: Size) -> NDArray[Any]:
    """The part of an image, zeros where it reaches beyond."""
    result = np.zeros((size[1], size[0], *image.shape[2:]), dtype=image.dtype)
    (x0, y0), (x1, y1) = (max(c, 0) for c in corner), (min(c + s, n) for c, s, n in zip(corner, size, image.shape[1::-1], strict=True))
    if x1 > x0 and y1 > y0:
        result[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]] = image[y0:y1, x0:x1]
    return result


def prefilter(image: NDArray[Any], scale: tuple[float, float]) -> NDArray[Any]:
    """Blur away what a coarser grid cannot hold."""
    sigma = [0.5 * np.sqrt(max(1 / s**2 - 1, 0.0)) for s in scale]
    if max(sigma) < 0.1:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma[0], 1e-3), sigmaY=max(sigma[1], 1e-3)))
