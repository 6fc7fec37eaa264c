"""What half precision cost hloc's keypoints, and how to get it back.

hloc stores float32 arrays as float16 unless told otherwise, keypoints too: from x = 1024 on only whole pixels are left. SuperPoint's
and DISK's keypoints lie on the pixel grid of the shrunk image, so that the exact place follows from the rounded one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WORTH_SAYING_PX = 0.25


def is_half(keypoints: NDArray[Any]) -> bool:
    """Whether keypoints were stored in half precision."""
    return bool(keypoints.dtype == np.float16)


def spacing(keypoints: NDArray[Any]) -> NDArray[np.float64]:
    """Distance in pixels, for each coordinate (N, 2), from one number that float16 has to the next."""
    return np.asarray(np.spacing(np.abs(keypoints).astype(np.float16)), dtype=np.float64)


def largest_loss(keypoints: NDArray[Any]) -> float:
    """The most, in pixels, that half precision may have moved a coordinate; 0 for keypoints stored otherwise."""
    if not is_half(keypoints) or keypoints.size == 0:
        return 0.0
    return float(spacing(keypoints).max() / 2)


def tolerance(keypoints: NDArray[Any]) -> NDArray[np.float64]:
    """How far (N, 2) a model's coordinate may be from the file's: hloc adds half a pixel in the type that it read."""
    if not is_half(keypoints):
        return np.full(keypoints.shape, 0.02)
    return spacing(keypoints.astype(np.float64) + 0.5) + 0.02


def restored(keypoints: NDArray[Any], image_size: tuple[int, int], max_side: int) -> NDArray[np.float32] | None:
    """Exact keypoints (N, 2) of a detector that finds whole pixels of an image shrunk to `max_side`, from halved ones.

    None when the halved keypoints are not those of such a grid.
    """
    size = np.array(image_size, dtype=np.float64)
    factor = min(1.0, max_side / size.max())
    scale = size / np.round(size * factor)
    places = keypoints.astype(np.float64)
    exact = (np.round((places + 0.5) / scale - 0.5) + 0.5) * scale - 0.5
    on_grid = np.abs(exact - places) <= 0.5 * spacing(places) + 1e-3
    return exact.astype(np.float32) if on_grid.all() else None
