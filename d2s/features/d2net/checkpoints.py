"""Weights of D2-Net: its own checkpoints, and VGG16 trained on ImageNet as a start.

Every layout ends as the names of `D2Net.state_dict()`. What belongs to layers that D2-Net does not have is left out by name; any other
name is an error, so that no file loads by half.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

PREFIX = "dense_feature_extraction.model."
CONVOLUTIONS = {
    "conv1_1": 0,
    "conv1_2": 2,
    "conv2_1": 5,
    "conv2_2": 7,
    "conv3_1": 10,
    "conv3_2": 12,
    "conv3_3": 14,
    "conv4_1": 17,
    "conv4_2": 19,
    "conv4_3": 21,
}
"""Caffe's names of the convolutions, and their places in torchvision's VGG16, which are those in D2-Net's checkpoints."""
BEYOND = ("features.24.", "features.26.", "features.28.", "classifier.", "conv5_1.", "conv5_2.", "conv5_3.", "fc6.", "fc7.", "fc8.")
"""What VGG16 has after conv4_3."""

PUBLISHED = {"d2_tf.pth": "d2net", "d2_ots.pth": "d2net-ots", "d2_tf_no_phototourism.pth": "d2net-no-phototourism"}
"""Published files and their names in `d2s.features.weights`."""


def normalise(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of D2-Net (entry `model`) or of VGG16 (torchvision's names or Caffe's) under D2-Net's names.

    Raises KeyError for names that belong to neither.
    """
    tensors = state.get("model", state)
    if not isinstance(tensors, Mapping):
        raise KeyError(f"entry 'model' is a {type(tensors).__name__}, not tensors by name")
    if any(key.startswith(PREFIX) for key in tensors):
        return dict(tensors)
    return {PREFIX + name: tensor for key, tensor in tensors.items() if (name := _place(key))}


def _place(key: str) -> str:
    """`10.weight` for `features.10.weight` and for `conv3_1.weight`; empty for what VGG16 has after conv4_3."""
    if key.startswith(BEYOND):
        return ""
    layer, _, kind = key.rpartition(".")
    place = CONVOLUTIONS.get(layer)
    if place is None and layer.startswith("features."):
        number = layer.removeprefix("features.")
        place = int(number) if number.isdecimal() and int(number) in CONVOLUTIONS.values() else None
    if place is None:
        raise KeyError(f"{key} is neither of D2-Net nor of VGG16")
    return f"{place}.{kind}"


@contextmanager
def harmless_types() -> Iterator[None]:
    """Lets `torch.load(weights_only=True)` read checkpoints of the published training.

    They hold the arguments of the run and numbers of NumPy. None of these types can execute anything when it is loaded.
    """
    if not hasattr(torch.serialization, "safe_globals"):  # torch < 2.5
        yield
        return
    core = getattr(np, "_core", None) or np.core
    numbers = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    scalar = core.multiarray.scalar  # its module has moved with NumPy 2; files name the old place or the new one
    names: list[Any] = [(scalar, f"numpy.{place}.multiarray.scalar") for place in ("core", "_core")]
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype, *names, *numbers]):
        yield


def published_name(path: Path) -> str | None:
    """The entry of `d2s.features.weights` that a path names which does not exist: `d2_tf.pth`, `models/d2_ots.pth`; else None."""
    return None if path.is_file() else PUBLISHED.get(path.name)
