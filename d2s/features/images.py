"""Photos as arrays. Images are used as stored: EXIF orientation is ignored, as hloc and COLMAP do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from d2s.errors import FormatError, InputError, MissingFileError

REMEDY = "Replace the file or leave it out."
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2")


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The image (H, W, 3) RGB uint8; gray images get three equal channels, 16 bit are reduced to 8, transparency is dropped.

    Raises InputError naming the file when it is missing, empty, truncated or no image.
    """
    return decode_image(_read_bytes(Path(path)), str(path))


def decode_image(data: bytes, name: str) -> NDArray[np.uint8]:
    """The image of a file's bytes, as `read_image`; `name` is how an error calls it."""
    if not _is_complete(data):
        raise FormatError(f"Image {name} is truncated ({len(data)} bytes).", REMEDY)
    with quiet_opencv():
        try:
            bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error as error:  # for example more pixels than OpenCV accepts
            raise FormatError(f"Image {name} cannot be decoded: {error.err}.", REMEDY) from None
    if bgr is None:
        raise FormatError(f"Image {name} cannot be decoded: it is corrupt or not an image.", REMEDY)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) as stored, read from the header alone."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large photos are no attack here, and damaged EXIF data does not matter
            with Image.open(path) as image:
                return int(image.width), int(image.height)
    except FileNotFoundError:
        raise MissingFileError(f"Image {path} does not exist.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError, OSError) as error:
        if isinstance(error, IsADirectoryError | PermissionError):
            raise InputError(f"Image {path} cannot be read: {error.strerror}.") from None
        raise FormatError(f"Image {path} is not an image that can be read.", REMEDY) from None


def to_gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W) of an RGB image (H, W, 3), weighted as BT.601; a gray image is returned as it is."""
    if image.ndim == 2:
        return image
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image (H, W, 3) of a gray image (H, W); an RGB image is returned as it is."""
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def check_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` if it is (H, W) or (H, W, 3) uint8 and not empty; (H, W, 1) loses its last axis. Raises InputError otherwise."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or image.size == 0:
        raise InputError(f"An image must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}.", "Convert it before.")
    return image


def shrink(image: NDArray[Any], max_side: int | None) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The image with its longer side at most `max_side` pixels, and the scale (2,) of x and y back to the original image.

    Area averaging, never enlarged, in the type that the image has (uint8, float32). A point p of the smaller image lies at
    `to_original(p, scale)`.
    """
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return image, np.ones(2, np.float32)
    factor = max_side / max(height, width)
    new_width, new_height = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=image.dtype), np.array([width / new_width, height / new_height], np.float32)


def to_original(points: NDArray[np.floating], scale: NDArray[np.float32]) -> NDArray[np.float32]:  # type: ignore[type-arg]
    """Pixels (N, 2) of the original image for pixels of a resized one; edges coincide, pixel centres are at whole numbers."""
    return np.asarray((points + 0.5) * scale - 0.5, dtype=np.float32)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"Image {path} does not exist.") from None
    except OSError as error:
        raise InputError(f"Image {path} cannot be read: {error.strerror}.") from None
    if not data:
        raise FormatError(f"Image {path} is empty (0 bytes).", REMEDY)
    return data


def _is_complete(data: bytes) -> bool:
    """Whether a JPEG or PNG has its end mark. Some decoders paint the missing part gray and report success."""
    if data.startswith(b"\xff\xd8"):
        start = _first_scan(data)
        return start < 0 or data.find(b"\xff\xd9", start) >= 0  # no scan at all: the decoder will say so
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data
    return True


def _first_scan(data: bytes) -> int:
    """Offset of the first scan of a JPEG file, past the metadata (a thumbnail there has scans and an end mark of its own); -1 if none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        elif data[position + 1] == 0xDA:
            return position
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return -1 if position + 4 <= len(data) else len(data)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """OpenCV prints several lines of its own about a corrupt file or a lost stream; whoever reads it says one."""
    control: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4 and 5
    level = control.getLogLevel()
    try:
        control.setLogLevel(0)
        yield
    finally:
        control.setLogLevel(level)
