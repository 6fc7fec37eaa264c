"""Random fields from which the gallery's textures are made. All take a generator and give the same picture for the same state."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Image = NDArray[np.uint8]
Rng = np.random.Generator


def smooth_noise(rng: Rng, height: int, width: int, cell: float, channels: int = 1) -> Float32:
    """Values about 0..1 that vary over `cell` pixels; (H, W) or (H, W, channels)."""
    shape = (int(height / cell) + 2, int(width / cell) + 2, channels)
    grid = rng.random(shape, dtype=np.float32)
    field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field, dtype=np.float32)


def fractal_noise(rng: Rng, height: int, width: int, coarse: float, octaves: int, fade: float = 0.6) -> Float32:
    """Sum of noises at halving scales, from `coarse` pixels down, mean about 0.5, (H, W)."""
    total = np.zeros((height, width), dtype=np.float32)
    weights = [fade**i for i in range(octaves)]
    for i, weight in enumerate(weights):
        total += np.float32(weight / sum(weights)) * smooth_noise(rng, height, width, max(coarse / 2**i, 1.0))
    return total


def palette(rng: Rng, count: int) -> Float32:
    """`count` colours (count, 3), 0..255, that go together: a few hues, spread in brightness."""
    hues = (rng.random() * 180 + rng.choice([0, 25, 90, 120], count) + rng.normal(0, 7, count)) % 180
    hsv = np.stack([hues, rng.uniform(60, 220, count), np.linspace(50, 245, count)], axis=-1)
    rgb: Float32 = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0].astype(np.float32)
    return rgb


def colourize(value: Float32, colours: Float32) -> Image:
    """Map values 0..1 (H, W) to a smooth ramp of colours (n, 3)."""
    ramp = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(colours)), colours[:, i]) for i in range(3)], axis=-1)
    return ramp.astype(np.uint8)[np.clip(value * 255, 0, 255).astype(np.uint8)]


def to_image(values: Float32) -> Image:
    """Clip to 0..255."""
    return np.clip(values, 0, 255).astype(np.uint8)
