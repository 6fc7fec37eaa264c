"""Query images with their keypoints, as small JPEG pictures."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.evaluation.report_data import Marked

MAX_SIDE = 560
QUALITY = 72
FINER = 3  # dots are drawn on a finer canvas: OpenCV's own small circles are diamonds
GREEN, RED = (44, 214, 88), (240, 60, 44)  # RGB


def draw_keypoints(image: NDArray[np.uint8], result: Marked) -> NDArray[np.uint8]:
    """The image (H, W) or (H, W, 3) RGB, at most `MAX_SIDE` wide or high, with keypoints on it.

    Red dots: rejected as unreliable. Green circles: reliable, but not explained by the pose. Green dots: inliers of the pose.
    """
    shrunk, scale = shrink(image, MAX_SIDE)
    size = shrunk.shape[1], shrunk.shape[0]
    small = (0.82 * shrunk).astype(np.uint8)  # a little darker, so that the dots stand out
    canvas = cv2.resize(small, (size[0] * FINER, size[1] * FINER), interpolation=cv2.INTER_LINEAR)
    places = np.rint(((result.keypoints + 0.5) * scale) * FINER - 0.5).astype(int)
    _circles(canvas, places[~result.used], 1.7, RED)
    _circles(canvas, places[result.used & ~result.inliers], 2.6, GREEN, thickness=FINER)
    _circles(canvas, places[result.inliers], 2.2, GREEN)
    return np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def shrink(image: NDArray[np.uint8], max_side: int) -> tuple[NDArray[np.uint8], float]:
    """The image (H, W) or (H, W, 3) as RGB, at most `max_side` wide or high, and its scale."""
    rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    scale = min(1.0, max_side / max(rgb.shape[:2]))
    size = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), scale


def _circles(
    canvas: NDArray[np.uint8], places: NDArray[np.int_], radius: float, color: tuple[int, int, int], thickness: int = cv2.FILLED
) -> None:
    for x, y in places:
        cv2.circle(canvas, (int(x), int(y)), round(radius * FINER), color, thickness)


def jpeg_uri(rgb: NDArray[np.uint8]) -> str:
    """A data: address of the picture."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
