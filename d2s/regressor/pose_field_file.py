"""`pose_field.safetensors`: how a model brings its poses into the frame of the given ones, see `d2s.geometry.pose_field`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from d2s.errors import FormatError
from d2s.geometry.pose_field import KERNELS, PoseField, Reach

SHAPES = {"anchors": (-1, 3, 4), "weights": (-1, 6), "mean": (6,), "reach": (-1,), "noise": (-1,), "spread": (2,)}
"""Noise and spread are not in every file of earlier versions: these do not say how sure they are."""


def save_pose_field(path: Path, field: PoseField) -> None:
    """Single precision, except the mean: an anchor only says how near a pose is."""
    save_file(
        {
            "anchors": field.anchors.astype(np.float32),
            "weights": field.weights.astype(np.float32),
            "mean": field.mean,
            "reach": np.array([[reach.length, reach.angle_deg, [*KERNELS].index(reach.kernel)] for reach in field.reach]),
            "noise": np.array([reach.noise for reach in field.reach]),
            "spread": np.array(field.spread),
        },
        path,
    )


def load_pose_field(path: Path) -> PoseField:
    """Raises FormatError for a file that is not one."""
    try:
        arrays = {name: values.astype(np.float64).reshape(SHAPES[name]) for name, values in load_file(path).items() if name in SHAPES}
        spread = tuple(arrays["spread"].tolist()) if "spread" in arrays else (0.0, 0.0)
        _check(arrays)
        reach = _reaches(arrays["reach"], arrays.get("noise", np.ones(1)))
        return PoseField(arrays["anchors"], arrays["weights"], arrays["mean"], reach, spread)
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise FormatError(f"{path} is damaged ({' '.join(str(error).split())[:200]}).", "Copy the model again, or train again.") from None


def _check(arrays: dict[str, NDArray[np.float64]]) -> None:
    """Raises ValueError for numbers that answers would be silently wrong with, or that only fail with the first photo."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    if len(arrays["anchors"]) != len(arrays["weights"]):
        raise ValueError(f"{len(arrays['anchors'])} anchors, but {len(arrays['weights'])} rows of weights")
    if not (arrays.get("noise", np.ones(1)) > 0).all() or arrays.get("noise", np.ones(1)).size not in (1, 2):
        raise ValueError("noise must be one or two positive numbers")
    reach = arrays["reach"]
    kernel = reach.reshape(-1, 3)[:, 2] if len(reach) == 6 else np.zeros(1)
    if len(reach) not in (2, 6) or not np.isin(kernel, np.arange(len(KERNELS))).all():
        raise ValueError(f"reach is none: {reach.tolist()}")


def _reaches(reach: NDArray[np.float64], noise: NDArray[np.float64]) -> tuple[Reach, Reach]:
    """For rotation and translation. Earlier versions have one for both, of a Gaussian kernel."""
    rows = np.resize(np.r_[reach, 0] if len(reach) == 2 else reach, (2, 3)).tolist()
    turned, moved = (
        Reach(length, angle_deg, share, [*KERNELS][int(kernel)])
        for (length, angle_deg, kernel), share in zip(rows, np.resize(noise, 2).tolist(), strict=True)
    )
    return turned, moved
