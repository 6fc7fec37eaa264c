"""Which 3D point each keypoint shows, read from COLMAP's images.bin as arrays: a Python object per observation takes most of labelling."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError

HEADER = struct.Struct("<I7dI")  # image id, quaternion, translation, camera id; then the name, ended by a zero byte
COUNT = struct.Struct("<Q")
OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])
NO_POINT = np.uint64(2**64 - 1)


def observed_points(folder: Path) -> dict[str, NDArray[np.int64]]:
    """For every image of a binary model the id of the point (N,) that each of its keypoints shows, -1 for none.

    Raises FormatError when images.bin is damaged.
    """
    path = Path(folder) / "images.bin"
    try:
        return _parse(path.read_bytes())
    except (OSError, struct.error, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}).", "Start anew with --overwrite.") from None


def _parse(data: bytes) -> dict[str, NDArray[np.int64]]:
    found: dict[str, NDArray[np.int64]] = {}
    position = COUNT.size
    for _ in range(COUNT.unpack_from(data)[0]):
        start = position + HEADER.size
        end = data.index(b"\0", start)
        (count,) = COUNT.unpack_from(data, end + 1)
        position = end + 1 + COUNT.size
        points = np.frombuffer(data, OBSERVATION, count, position)["point"]
        found[data[start:end].decode("utf-8")] = np.where(points == NO_POINT, -1, points.astype(np.int64))
        position += count * OBSERVATION.itemsize
    return found
