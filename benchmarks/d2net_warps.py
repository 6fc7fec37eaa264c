"""Views of a photo under known warps and in other light, for `d2net_mma.py`.

Images are rendered from finer pixels and averaged down, so that a view is what a camera there would have seen, not a resampled image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SHARE = 0.6  # of the photo in an image, so that turned images have content everywhere
FINER = 2  # images are rendered this much larger and averaged down: no aliasing
CELLS = (8.0, -16.0)  # whole cells of all levels of the pyramid, the coarsest of which are 8 px
BETWEEN_CELLS = (4.75, -3.25)

Image = NDArray[np.uint8]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What was done to the first image, in words; the homography (3, 3) from there to here; the picture."""

    name: str
    matrix: Matrix
    picture: Image


def views(image: Image, rng: np.random.Generator) -> Iterator[View]:
    """Every other view; `image` is as `for_rendering` gives it."""
    for gamma, slope in ((0.6, 0.4), (1.6, -0.4)):
        yield View("light", np.eye(3), other_light(rng, render(image, np.eye(3)), gamma, slope))
    for name, by in (("light, whole cells", CELLS), ("light, between cells", BETWEEN_CELLS)):
        moved = shift(np.array(by))
        yield View(name, moved, other_light(rng, render(image, moved), 0.6, 0.4))
    center = shift((np.array(output_size(image)) - 1) / 2)
    for name, matrix in warps(rng):
        around = center @ matrix @ np.linalg.inv(center)
        yield View(name, around, render(image, around))


def warps(rng: np.random.Generator) -> Iterator[tuple[str, Matrix]]:
    """Around the middle of the image."""
    tilt = np.eye(3)
    tilt[2, :2] = rng.choice([-1, 1], 2) * 6e-4
    for by in ((6.5, -9.25), (-17.75, 3.5)):
        yield "shift", shift(np.array(by))
    for scale in (0.7, 1.4):
        yield f"scale {scale}", similarity(scale, 0)
    for degrees in (20, -35):
        yield f"turn {degrees}", similarity(1, degrees)
    yield "tilt 1.2", tilt @ similarity(1.2, 10)
    yield "tilt 0.8", np.linalg.inv(tilt) @ similarity(0.8, -15)


def similarity(scale: float, degrees: float) -> Matrix:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def shift(by: Matrix) -> Matrix:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def for_rendering(photo: Image, longest: int) -> Image:
    """The photo at the size from which images of that longer side are rendered."""
    factor = longest / SHARE * FINER / max(photo.shape[:2])
    resized = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return np.asarray(resized, np.uint8)


def output_size(image: Image) -> tuple[int, int]:
    """Width and height of the rendered images."""
    return round(image.shape[1] / FINER * SHARE), round(image.shape[0] / FINER * SHARE)


def render(image: Image, matrix: Matrix) -> Image:
    """The view in which pixels of the first image, the middle of `image`, are taken by `matrix`; averaged from finer pixels."""
    width, height = output_size(image)
    fine = (width * FINER, height * FINER)
    half = shift(np.full(2, 0.5))
    finer = np.linalg.inv(half) @ np.diag([FINER, FINER, 1.0]) @ half  # edges on each other
    first = np.floor((np.array(image.shape[1::-1]) - fine) / 2)
    to_view = finer @ matrix @ np.linalg.inv(finer) @ shift(-first)
    view = cv2.warpPerspective(image, to_view, fine, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def other_light(rng: np.random.Generator, image: Image, gamma: float, slope: float) -> Image:
    """Another exposure, brighter on one side, with noise."""
    ramp = 1 + slope * np.linspace(-1, 1, image.shape[1])[None, :, None]
    lit = 255 * (image / 255) ** gamma * ramp + rng.normal(0, 3, image.shape)
    return np.clip(lit, 0, 255).round().astype(np.uint8)
