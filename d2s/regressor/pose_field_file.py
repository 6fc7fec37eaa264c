"""`pose_field.safetensors`: how a model brings its poses into the frame of the given ones, see `d2s.geometry.pose_field`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from d2s.errors import FormatError
from d2s.geometry.pose_field import PoseField

SHAPES = {"anchors": (-1, 3, 4), "weights": (-1, 6), "mean": (6,), "reach": (2,), "noise": (1,), "spread": (2,)}


def save_pose_field(path: Path, field: PoseField) -> None:
    """Single precision, except the mean: an anchor only says how near a pose is."""
    save_file(
        {
            "anchors": field.anchors.astype(np.float32),
            "weights": field.weights.astype(np.float32),
            "mean": field.mean,
            "reach": np.array([field.length, field.angle_deg]),
            "noise": np.array([field.noise]),
            "spread": np.array(field.spread),
        },
        path,
    )


def load_pose_field(path: Path) -> PoseField:
    """Raises FormatError for a file that is not one."""
    try:
        arrays = {name: values.astype(np.float64).reshape(SHAPES[name]) for name, values in load_file(path).items() if name in SHAPES}
        length, angle_deg = arrays["reach"].tolist()
        field = PoseField(arrays["anchors"], arrays["weights"], arrays["mean"], length, angle_deg)
        if "spread" not in arrays:  # files of earlier versions do not say how sure they are
            return field
        turned, moved = arrays["spread"].tolist()
        return replace(field, noise=float(arrays["noise"][0]), spread=(turned, moved))
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({' '.join(str(error).split())[:200]}).", "Copy the model again, or train again.") from None
