"""Query images with their keypoints, as small JPEG pictures."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.localization.result import LocalizationResult

MAX_SIDE = 560
QUALITY = 72
GREEN, RED, WHITE = (44, 214, 88), (240, 60, 44), (255, 255, 255)  # RGB
SHIFT = 4  # OpenCV draws at 1/16 pixel


def draw_keypoints(image: NDArray[np.uint8], result: LocalizationResult) -> NDArray[np.uint8]:
    """The image (H, W) or (H, W, 3) RGB, at most `MAX_SIDE` wide or high, with keypoints on it.

    Red dots: rejected as unreliable. Green circles: reliable, but not explained by the pose. Green dots: inliers of the pose.
    """
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    scale = min(1.0, MAX_SIDE / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    canvas = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    canvas = np.ascontiguousarray((0.82 * canvas).astype(np.uint8))  # a little darker, so that the dots stand out
    places = (result.keypoints + 0.5) * scale - 0.5
    for place in places[~result.used]:
        _dot(canvas, place, 1.6, RED)
    for place in places[result.used & ~result.inliers]:
        _ring(canvas, place, 2.6, GREEN)
    for place in places[result.inliers]:
        _dot(canvas, place, 2.2, GREEN)
    return canvas


def _dot(canvas: NDArray[np.uint8], place: NDArray[np.floating], radius: float, color: tuple[int, int, int]) -> None:  # type: ignore[type-arg]
    cv2.circle(canvas, _fixed(place), round(radius * 2**SHIFT), color, -1, cv2.LINE_AA, SHIFT)


def _ring(canvas: NDArray[np.uint8], place: NDArray[np.floating], radius: float, color: tuple[int, int, int]) -> None:  # type: ignore[type-arg]
    cv2.circle(canvas, _fixed(place), round(radius * 2**SHIFT), color, 1, cv2.LINE_AA, SHIFT)


def _fixed(place: NDArray[np.floating]) -> tuple[int, int]:  # type: ignore[type-arg]
    x, y = (round(float(value) * 2**SHIFT) for value in place)
    return x, y


def jpeg_uri(rgb: NDArray[np.uint8]) -> str:
    """A data: address of the picture."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
