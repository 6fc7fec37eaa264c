"""Features of photos that were taken with a turned camera.

A phone stores a portrait photo as a landscape one with a note (EXIF orientation) on how to turn it. Learned features do not match across a
quarter turn, so they are computed on the upright image; their keypoints are pixels of the stored one, like every pixel in this project.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from d2s.features.base import Extractor, LocalFeatures

QUARTER_TURNS = {3: 2, 6: 3, 8: 1}
"""EXIF orientation -> counter-clockwise quarter turns that make the stored image upright. Mirrored ones (2, 4, 5, 7) no camera writes."""


def quarter_turns(photo: str | os.PathLike[str] | bytes) -> int:
    """Counter-clockwise quarter turns (0 to 3) that make a photo upright, by its EXIF data; 0 where it does not say or cannot be read."""
    source = io.BytesIO(photo) if isinstance(photo, bytes) else Path(photo)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF data, large photos: neither matters here
            with Image.open(source) as image:
                return QUARTER_TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), 0)
    except Exception:  # noqa: BLE001  # whatever the parser of a damaged or hostile file raises: without the note it is not turned
        return 0


def extract_upright(extractor: Extractor, images: Sequence[NDArray[np.uint8]], turns: Sequence[int]) -> list[LocalFeatures]:
    """Features of images as stored, (H, W) or (H, W, 3), each looked at after its number of counter-clockwise quarter turns."""
    upright = [image if turn == 0 else np.ascontiguousarray(np.rot90(image, turn)) for image, turn in zip(images, turns, strict=True)]
    found = extractor.extract(upright)
    return [turned_back(features, turn) for features, turn in zip(found, turns, strict=True)]


def turned_back(features: LocalFeatures, turns: int) -> LocalFeatures:
    """Features of an image that was turned counter-clockwise by a number of quarters, in pixels of the image before that."""
    turns %= 4
    if turns == 0:
        return features
    x, y = features.keypoints.T
    width, height = features.image_size if turns == 2 else features.image_size[::-1]
    stored = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[turns]
    return replace(features, keypoints=np.stack(stored, axis=1).astype(np.float32), image_size=(width, height))
