"""What clients send, looked at before anything large is made of it."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from d2s.errors import InputError
from d2s.features.images import decode_image
from d2s.geometry.camera import parse_camera
from d2s.localization.prior import as_prior
from d2s.service.refusal import Refused

FORMATS = ("JPEG", "PNG", "WEBP")
"""What is decoded. Few on purpose: every decoder more is one more to attack."""

MAX_SCANS = 100
"""Progressive JPEGs have about ten scans; thousands of empty ones keep a decoder busy for minutes."""

MAX_FIELD_CHARACTERS = 1000
FOCAL_RANGE = (0.02, 200.0)  # of the longer side: from a fisheye to a telescope
MAX_PARAMETER = 1e6
MAX_PRIOR = 1e9
PRIOR_FORMS = (
    '\'qw qx qy qz tx ty tz\' (world to camera), {"qvec": [w, x, y, z], "tvec": [x, y, z]} or {"cam_from_world": [[4 numbers] x 3]}'
)


def check_header(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(width, height) as the header says. Raises Refused for what is no image (400), too many pixels (413), a trap (400)."""
    if not data:
        raise Refused(400, "The image is empty (0 bytes).", "Send a photo.")
    width, height = _header_size(data)
    if width < 1 or height < 1:
        raise Refused(400, f"The image says that it has {width}x{height} pixels.")
    if width * height > max_pixels:
        raise Refused(413, f"The image has {width}x{height} pixels; {max_pixels} are allowed.", "Send a smaller one, with its camera.")
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise Refused(400, f"The JPEG has more than {MAX_SCANS} scans.", "Save it anew.")
    return width, height


def _header_size(data: bytes) -> tuple[int, int]:
    """Pillow reads the header alone here; damaged headers make it raise all kinds of errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return int(image.width), int(image.height)
    except Image.DecompressionBombError:
        raise Refused(413, "The image has far too many pixels.", "Send a smaller one, with its camera.") from None
    except Exception as error:  # noqa: BLE001  # whatever the parser of a hostile file raises, the file is to blame
        if isinstance(error, MemoryError):
            raise
        raise Refused(
            400, f"The image is not one that can be read ({', '.join(FORMATS)}).", "Send a photo in one of these formats."
        ) from None


def decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image (H, W, 3) RGB uint8. Raises Refused (400) when it is damaged or not what its header says."""
    try:
        image = decode_image(data, "that was sent")
    except InputError as error:
        raise Refused(400, error.problem, "Send it again.") from None
    if (image.shape[1], image.shape[0]) != size:
        raise Refused(400, f"The image has {image.shape[1]}x{image.shape[0]} pixels, but its header says {size[0]}x{size[1]}.")
    return image


def read_camera(text: str) -> pycolmap.Camera:
    """The camera of a line `MODEL W H p0 …`. Raises Refused (400) for what is not the camera of a lens."""
    if len(text) > MAX_FIELD_CHARACTERS:
        raise Refused(400, f"The camera has {len(text)} characters; {MAX_FIELD_CHARACTERS} are allowed.")
    try:
        camera = parse_camera(text)
    except InputError as error:
        raise Refused(400, error.problem, error.remedy) from None
    except (OverflowError, ValueError, TypeError, RuntimeError):  # a width of 400 digits, for example
        raise Refused(400, "The camera cannot be read.", "Write it as 'MODEL WIDTH HEIGHT p0 p1 …'.") from None
    _require_plausible(camera)
    return camera


def _require_plausible(camera: pycolmap.Camera) -> None:
    """Solvers give NaN, or no end, for parameters that no lens has."""
    values, side = np.abs(np.array(camera.params)), max(camera.width, camera.height)
    focals = values[list(camera.focal_length_idxs())] / side
    if (values > MAX_PARAMETER).any() or (focals < FOCAL_RANGE[0]).any() or (focals > FOCAL_RANGE[1]).any():
        raise Refused(
            400, f"The camera {camera.params_info} = {list(camera.params)} is not one of a lens.", "Give focal lengths in pixels."
        )


def camera_for(size: tuple[int, int], text: str | None) -> pycolmap.Camera | None:
    """The camera that was sent, None where none was. Raises Refused (400) when it does not fit the image."""
    if text is None or not text.strip():
        return None
    camera = read_camera(text)
    if (camera.width, camera.height) == size:
        return camera
    sizes = f"The image is {size[0]}x{size[1]} pixels but its camera is for {camera.width}x{camera.height}."
    raise Refused(400, sizes, "Give the camera of this image at this size.")


def prior_for(text: str | None) -> NDArray[np.float64] | None:
    """The pose prior that was sent, cam_from_world (3, 4); None where none was. Raises Refused (400) for what is no pose."""
    if text is None or not text.strip():
        return None
    try:
        values = _prior_values(text)
        if not (np.abs(values) <= MAX_PRIOR).all():  # NaN is not, either
            raise InputError("it has numbers that no place has")
        return as_prior(values)
    except InputError as error:
        raise Refused(400, f"The prior is not a pose: {error.problem.rstrip('.')}.", f"Write {PRIOR_FORMS}.") from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise Refused(400, "The prior cannot be read.", f"Write {PRIOR_FORMS}.") from None


def _prior_values(text: str) -> NDArray[np.float64]:
    """The numbers of a prior in one of the `PRIOR_FORMS`. Raises ValueError, TypeError, KeyError, OverflowError or RecursionError."""
    if not text.lstrip().startswith("{"):
        return np.array([float(word) for word in text.split()])
    named = json.loads(text)
    if set(named) == {"qvec", "tvec"}:
        return np.concatenate([_numbers(named["qvec"]).reshape(4), _numbers(named["tvec"]).reshape(3)])
    if set(named) == {"cam_from_world"}:
        return _numbers(named["cam_from_world"])
    raise KeyError(text)


def _numbers(value: object) -> NDArray[np.float64]:
    """An array of a JSON value, which must not hold texts that look like numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "if":
        raise TypeError(array.dtype)
    return array.astype(np.float64)
