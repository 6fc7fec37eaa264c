"""Focal lengths in pixels from what a camera wrote into its photo."""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from d2s.features.images import image_size

logger = logging.getLogger(__name__)

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
MILLIMETRES_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
"""Exif FocalPlaneResolutionUnit: inch, centimetre, millimetre, micrometre."""
PLAUSIBLE_FOCAL = (0.2, 30.0)
"""Focal lengths per longer image side, from fisheye to telephoto; what lies outside is a wrong tag."""
MAX_ASPECT_CHANGE = 0.01


@dataclass(frozen=True)
class PhotoInfo:
    """Size of the stored pixels, focal length in pixels (None when the photo does not say), and the device that took it."""

    width: int
    height: int
    focal: float | None
    device: str


def read_photo(path: Path) -> PhotoInfo:
    """Read a photo's header. Pixels are taken as stored: the orientation tag is ignored. Raises an InputError naming an unreadable file."""
    width, height = image_size(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF data is said below, in our own words
        with Image.open(path) as image:
            tags = _tags(image)
    device = " ".join(str(tags.get(tag, "")).strip("\0 ") for tag in (ExifTags.Base.Make, ExifTags.Base.Model)).strip()
    return PhotoInfo(width, height, focal_pixels(tags, width, height), device)


def read_focal(photo: str | os.PathLike[str] | bytes, size: tuple[int, int]) -> float | None:
    """Focal length in pixels that a photo of `size` (width, height), a file or its bytes, names; None where it does not or is damaged."""
    source = io.BytesIO(photo) if isinstance(photo, bytes) else Path(photo)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source) as image:
                exif = image.getexif()
                return focal_pixels({**dict(exif), **dict(exif.get_ifd(ExifTags.IFD.Exif))}, *size)
    except Exception:  # noqa: BLE001  # whatever the parser of a damaged or hostile file raises: then it names none
        return None


def _tags(image: Image.Image) -> dict[int, Any]:
    """The photo's tags; none where they are damaged, which is common and no reason to refuse the photo."""
    try:
        exif = image.getexif()
        return {**dict(exif), **dict(exif.get_ifd(ExifTags.IFD.Exif))}
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error) as error:
        logger.warning("The EXIF data of %s is damaged (%s); its focal length is guessed.", getattr(image, "filename", "a photo"), error)
        return {}


def focal_pixels(tags: dict[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels of the stored image, or None where the tags do not give one that can be trusted.

    A photo whose sides have another ratio than the camera recorded was cropped: its tags no longer describe it. One with the same ratio
    was at most resized. Sides are compared longer to shorter, so turned photos count as what they are.
    """
    recorded = _recorded_sides(tags)
    if recorded is not None and abs(recorded[0] / recorded[1] / (max(width, height) / min(width, height)) - 1) > MAX_ASPECT_CHANGE:
        return None
    longer = max(width, height)
    original = recorded[0] if recorded is not None else longer
    for focal in (_from_equivalent(tags, math.hypot(width, height)), _from_sensor(tags, longer / original)):
        if focal is not None and PLAUSIBLE_FOCAL[0] <= focal / longer <= PLAUSIBLE_FOCAL[1]:
            return focal
    return None


def _recorded_sides(tags: dict[int, Any]) -> tuple[float, float] | None:
    """(longer, shorter) side of the photo when it was taken."""
    sides = [_positive(tags.get(tag)) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    known = sorted((side for side in sides if side is not None), reverse=True)
    return (known[0], known[1]) if len(known) == 2 else None


def _from_equivalent(tags: dict[int, Any], diagonal: float) -> float | None:
    """From the 35 mm equivalent, which (CIPA DCG-001) compares diagonals: sensors are rarely 3:2 like film."""
    equivalent = _positive(tags.get(ExifTags.Base.FocalLengthIn35mmFilm))
    return None if equivalent is None else equivalent / FULL_FRAME_DIAGONAL_MM * diagonal


def _from_sensor(tags: dict[int, Any], scale: float) -> float | None:
    """From the true focal length and the sensor's pixels per unit of length, for a photo resized by `scale`."""
    focal, resolution = (_positive(tags.get(tag)) for tag in (ExifTags.Base.FocalLength, ExifTags.Base.FocalPlaneXResolution))
    unit = MILLIMETRES_PER_UNIT.get(tags.get(ExifTags.Base.FocalPlaneResolutionUnit, 2))
    return None if focal is None or resolution is None or unit is None else focal * resolution / unit * scale


def _positive(value: Any) -> float | None:
    """A finite positive number, or None for anything else (missing tags, 0, and rationals like 0/0 occur in real photos)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > 0 else None
