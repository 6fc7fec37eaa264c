"""Other light, another exposure, another sensor: changes of an image that leave its pixels in place."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

DARKER, BRIGHTER = (0.5, 0.85), (1.15, 1.5)
"""Factors of the brightness, as published: every copy is clearly darker or clearly brighter."""

CONTRAST, GAMMA, NOISE, BLUR = (0.75, 1.25), (0.8, 1.25), (1.0, 8.0), (0.4, 1.2)
"""Contrast about the mean; exponent; standard deviation of the sensor's noise (of 255); that of the blur (pixels)."""

CHANCE = 0.5
"""Of each of these four to take part."""


def generator_of(*parts: object) -> np.random.Generator:
    """A generator that depends on its arguments only: what one image gets depends on no other image and no order."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def change_light(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The image (H, W) or (H, W, 3) in other light.

    All channels change alike, so that colours stay what they are, and what becomes too bright or too dark is clipped, once, at the end.
    The draws do not depend on the image.
    """
    brightness = random.uniform(*(DARKER if random.random() < 0.5 else BRIGHTER))
    contrast = _maybe(random, CONTRAST, neutral=1.0)
    gamma = float(np.exp(_maybe(random, (float(np.log(GAMMA[0])), float(np.log(GAMMA[1]))), neutral=0.0)))
    noise, blur = _maybe(random, NOISE, neutral=0.0), _maybe(random, BLUR, neutral=0.0)
    values = image.astype(np.float32) / 255
    values = brightness * values**gamma
    values = values.mean() + contrast * (values - values.mean())
    if blur:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), blur))
    if noise:
        values = values + (noise / 255) * random.standard_normal(image.shape[:2], dtype=np.float32).reshape(
            *image.shape[:2], *[1] * (image.ndim - 2)
        )
    return np.asarray(np.round(255 * values.clip(0, 1)), dtype=np.uint8)


def _maybe(random: np.random.Generator, bounds: tuple[float, float], neutral: float) -> float:
    """A number between the bounds, or the one that changes nothing; both are drawn, so that what follows does not depend on the coin."""
    takes_part, value = random.random() < CHANCE, float(random.uniform(*bounds))
    return value if takes_part else neutral
