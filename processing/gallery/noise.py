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


PALETTES = (
    ((25, 0.75, 0.25), (18, 0.70, 0.50), (200, 0.35, 0.45), (30, 0.60, 0.75), (42, 0.45, 0.92), (45, 0.12, 0.97)),
    ((215, 0.75, 0.22), (205, 0.65, 0.42), (190, 0.50, 0.60), (35, 0.70, 0.88), (170, 0.25, 0.82), (50, 0.10, 0.97)),
    ((350, 0.70, 0.25), (8, 0.80, 0.55), (95, 0.40, 0.45), (22, 0.85, 0.80), (40, 0.70, 0.93), (55, 0.15, 0.96)),
    ((235, 0.60, 0.15), (225, 0.60, 0.35), (10, 0.65, 0.70), (215, 0.45, 0.62), (45, 0.60, 0.85), (60, 0.08, 0.95)),
    ((130, 0.50, 0.18), (110, 0.45, 0.36), (20, 0.60, 0.60), (80, 0.50, 0.55), (60, 0.45, 0.78), (48, 0.15, 0.95)),
    ((320, 0.35, 0.20), (340, 0.45, 0.45), (190, 0.40, 0.50), (350, 0.40, 0.72), (20, 0.35, 0.90), (30, 0.08, 0.97)),
    ((210, 0.30, 0.18), (205, 0.25, 0.40), (0, 0.70, 0.72), (200, 0.15, 0.65), (40, 0.60, 0.88), (40, 0.05, 0.96)),
    ((260, 0.30, 0.20), (280, 0.25, 0.40), (15, 0.70, 0.60), (175, 0.40, 0.50), (45, 0.80, 0.75), (40, 0.50, 0.92)),
)
"""Colours that go together, dark to light: hue in degrees, saturation and value 0..1."""


def palette(rng: Rng, count: int) -> Float32:
    """`count` colours (count, 3), 0..255, dark to light, of one of the palettes, each time a little different."""
    base = np.array(PALETTES[rng.integers(len(PALETTES))])
    hsv = base + rng.normal(0, 1, base.shape) * (7, 0.05, 0.03)
    hsv = np.stack([hsv[:, 0] % 360, np.clip(hsv[:, 1], 0, 1), np.clip(hsv[:, 2], 0, 1)], axis=-1).astype(np.float32)
    rgb = 255 * cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    places = np.linspace(0, len(rgb) - 1, count)
    return np.stack([np.interp(places, np.arange(len(rgb)), rgb[:, i]) for i in range(3)], axis=-1).astype(np.float32)


def colourize(value: Float32, colours: Float32) -> Image:
    """Map values 0..1 (H, W) to a smooth ramp of colours (n, 3)."""
    ramp = np.stack([np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(colours)), colours[:, i]) for i in range(3)], axis=-1)
    return ramp.astype(np.uint8)[np.clip(value * 255, 0, 255).astype(np.uint8)]


def to_image(values: Float32) -> Image:
    """Clip to 0..255."""
    return np.clip(values, 0, 255).astype(np.uint8)
