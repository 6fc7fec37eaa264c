"""Images that were never taken, made from images that were: what a turned, zoomed or cropped camera at the same place would see.

A camera that turns and zooms but does not move sees the same rays, so its image follows from the source image alone, pixel by pixel, for
every camera model with its distortion: `CameraView` is exact, and so are its camera and pose. A general homography has neither.
Pixels have the top-left pixel centre at (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.geometry.camera import project, unproject
from d2s.geometry.image import Array, Size, prefilter

OUTSIDE = -1e4
"""Where OpenCV looks for pixels that no ray of the source reaches: far outside, which gives black."""

BLOCK = 1 << 18
"""Pixels whose origins are computed at once."""


class View(Protocol):
    """A change of an image that moves its pixels, and the way back."""

    def apply_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the source image in the new one; NaN where it does not show them."""
        ...

    def invert_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the new image in the source image; NaN where there is no such ray. They may lie outside the image."""
        ...

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The new image, black where the source ends."""
        ...


@dataclass(frozen=True)
class CameraView:
    """What `target`, turned by `rotation` (3, 3; target camera from source camera), sees from the place of `source`."""

    source: pycolmap.Camera
    target: pycolmap.Camera
    rotation: Array

    def apply_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the source image in the new one; NaN behind the camera."""
        return _through(self.source, self.target, self.rotation, pixels)

    def invert_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the new image in the source image."""
        return _through(self.target, self.source, self.rotation.T, pixels)

    def apply_pose(self, cam_from_world: ArrayLike) -> Array:
        """cam_from_world (3, 4) of the new image: the camera turns last, so its rotation multiplies from the left."""
        return np.asarray(self.rotation @ np.asarray(cam_from_world, dtype=np.float64))

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The new image (H, W) or (H, W, 3)."""
        _require_size(image, (self.source.width, self.source.height))
        scale = self.target.mean_focal_length() / self.source.mean_focal_length()
        size = (self.target.width, self.target.height)
        return _remap(prefilter(image, (scale, scale)), _origin(self, size))


@dataclass(frozen=True)
class Homography:
    """Pixels x' ~ matrix @ (x, y, 1) at the same image size: as a photo of a plane looks from elsewhere, so there is no camera for it."""

    size: Size
    matrix: Array

    def apply_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the source image in the new one; NaN beyond the horizon."""
        return _homography(self.matrix, pixels)

    def invert_points(self, pixels: ArrayLike) -> Array:
        """Pixels (N, 2) of the new image in the source image."""
        return _homography(np.asarray(np.linalg.inv(self.matrix), dtype=np.float64), pixels)

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The new image (H, W) or (H, W, 3)."""
        _require_size(image, self.size)
        scale = float(np.sqrt(abs(np.linalg.det(self.matrix))))
        return _remap(prefilter(image, (scale, scale)), _origin(self, self.size))

    @staticmethod
    def from_corners(size: Size, corners: ArrayLike) -> Homography:
        """The homography that takes the quadrilateral `corners` (4, 2) of the source, clockwise from top left, to the image's corners."""
        width, height = size[0] - 1.0, size[1] - 1.0
        target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        matrix = cv2.getPerspectiveTransform(np.asarray(corners, np.float32), target)
        return Homography(size, np.asarray(matrix, dtype=np.float64))


def _through(source: pycolmap.Camera, target: pycolmap.Camera, rotation: Array, pixels: ArrayLike) -> Array:
    rays = unproject(source, pixels)
    known = np.isfinite(rays).all(axis=1)
    result = np.full(rays.shape, np.nan)
    result[known] = project(target, np.column_stack([rays[known], np.ones(int(known.sum()))]) @ rotation.T)[0]
    return result


def _homography(matrix: Array, pixels: ArrayLike) -> Array:
    pixels = np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ matrix.T
    sign = np.sign(matrix[2, 2]) or 1.0
    ahead = rays[:, 2] * sign > 1e-9
    return np.where(ahead[:, None], rays[:, :2] / np.where(ahead, rays[:, 2], 1.0)[:, None], np.nan)


def _origin(view: View, size: Size) -> NDArray[np.float32]:
    """Where in the source image each pixel of the new one lies, (H, W, 2); some rows at a time, as photos may be large."""
    width, height = size
    origin = np.empty((height, width, 2), np.float32)
    step = max(1, BLOCK // width)
    for top in range(0, height, step):
        rows = np.arange(top, min(top + step, height), dtype=np.float64)
        pixels = np.stack(np.meshgrid(np.arange(width, dtype=np.float64), rows), axis=-1).reshape(-1, 2)
        origin[top : top + step] = np.nan_to_num(view.invert_points(pixels), nan=OUTSIDE).reshape(-1, width, 2)
    return origin


def _remap(image: NDArray[Any], origin: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(cv2.remap(image, origin, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0))


def _require_size(image: NDArray[Any], size: Size) -> None:
    if (image.shape[1], image.shape[0]) != size:
        raise InputError(f"This view is of images of {size} pixels, not {(image.shape[1], image.shape[0])}.")
