"""Convolutions out of a `.caffemodel`, the format in which Oxford published VGG16, without Caffe.

The file is a protocol buffer (`NetParameter`): fields of a number, a type and a value. Only those that lead to the weights are looked at:
layers with their name and blobs, in the format of today (field 100) and in that of 2014 (field 2).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2s.errors import WeightsError
from d2s.features.d2net.checkpoints import CONVOLUTIONS

SUFFIX = ".caffemodel"
# Field of the layers -> fields of a layer's name and blobs
LAYERS = {100: (1, 7), 2: (4, 6)}
SHAPE, DATA, OLD_SHAPE = 7, 5, (1, 2, 3, 4)
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, Any]


def read_caffemodel(path: Path) -> dict[str, Tensor]:
    """`conv1_1.weight` and so on, of the convolutions up to conv4_3. Raises WeightsError when the file is none or lacks them."""
    tensors: dict[str, Tensor] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, _, layer in _fields(data, 0, len(data)):
                if number in LAYERS:
                    tensors.update(_layer(data, layer, *LAYERS[number]))
    except (ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"Weights {path} are no caffemodel: {error}.", "Give the file of another address.") from None
    missing = [name for name in CONVOLUTIONS if f"{name}.weight" not in tensors or f"{name}.bias" not in tensors]
    if missing:
        raise WeightsError(f"Weights {path} lack {missing[0]}.", "Give a caffemodel of VGG16.")
    return tensors


def _layer(data: Any, span: slice, name_field: int, blobs_field: int) -> dict[str, Tensor]:
    """Weight and bias of one layer; nothing for layers that D2-Net does not have."""
    fields = list(_fields(data, span.start, span.stop))
    name = next((data[value].decode() for number, kind, value in fields if number == name_field and kind == BYTES), "")
    if name not in CONVOLUTIONS:
        return {}
    blobs = [_blob(data, value) for number, _, value in fields if number == blobs_field]
    return {f"{name}.weight": blobs[0], f"{name}.bias": blobs[1].flatten()}


def _blob(data: Any, span: slice) -> Tensor:
    shape: list[int] = []
    old: dict[int, int] = {}
    parts = []
    for number, kind, value in _fields(data, span.start, span.stop):
        if number == SHAPE:
            shape = list(_dimensions(data, value))
        elif number in OLD_SHAPE and kind == VARINT:
            old[number] = value
        elif number == DATA and kind == BYTES:
            parts.append(data[value])
        elif number == DATA and kind == FIXED32:
            parts.append(value)
    shape = shape or [old[number] for number in OLD_SHAPE if number in old]
    values = np.frombuffer(b"".join(parts), "<f4")
    if math.prod(shape) != len(values):
        raise ValueError(f"a blob of shape {shape} has {len(values)} values")
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def _dimensions(data: Any, span: slice) -> Iterator[int]:
    """The numbers of a `BlobShape`, packed or one by one."""
    for number, kind, value in _fields(data, span.start, span.stop):
        if number == 1 and kind == VARINT:
            yield value
        elif number == 1:
            position = value.start
            while position < value.stop:
                size, position = _varint(data, position)
                yield size


def _fields(data: Any, position: int, end: int) -> Iterator[Field]:
    """(number, type, value) of every field of a message; the value of a field of bytes is where they are."""
    while position < end:
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = _varint(data, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            length, position = _varint(data, position)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"a field of unknown type {kind} at byte {position}")
        if position + length > end:
            raise ValueError(f"a field at byte {position} is longer than the file")
        span = slice(position, position + length)
        yield number, kind, span if kind == BYTES else data[span]
        position += length


def _varint(data: Any, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError(f"a number at byte {position} is too long")
