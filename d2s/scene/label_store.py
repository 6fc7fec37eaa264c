"""`labels.h5`: for every keypoint of an image in the feature file, row by row, the scene coordinate that it shows.

One HDF5 group per image name holds `xyz` (K, 3) float32 in the scene's unit, `valid` (K,) bool, `track_length` (K,) int32 and `error`
(K,) float32, the mean reprojection error of the 3D point in pixels. Rows without a 3D point stay, with valid = False: they are the
negatives of the reliability head (paper, section III-B).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError
from d2s.scene.atomic import atomic_path
from d2s.scene.h5_reader import H5Reader


@dataclass(frozen=True)
class Labels:
    """Labels of one image, row-aligned with its features: xyz (K, 3), valid (K,), track_length (K,), error (K,) pixels."""

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    track_length: NDArray[np.int32]
    error: NDArray[np.float32]

    def __post_init__(self) -> None:
        k = len(self.xyz)
        if self.xyz.shape != (k, 3) or any(a.shape != (k,) for a in (self.valid, self.track_length, self.error)):
            raise FormatError(f"Labels must be row-aligned: xyz {self.xyz.shape}, valid {self.valid.shape}.")

    def __len__(self) -> int:
        return len(self.xyz)


def write_labels(path: Path, items: Iterable[tuple[str, Labels]]) -> None:
    """Write the label file of a scene, by rename."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, labels in items:
            group = file.create_group(name)
            group.create_dataset("xyz", data=labels.xyz.astype(np.float32))
            group.create_dataset("valid", data=labels.valid.astype(bool))
            group.create_dataset("track_length", data=labels.track_length.astype(np.int32))
            group.create_dataset("error", data=labels.error.astype(np.float32))


class LabelReader(H5Reader):
    """Read access to a label file; use it as a context manager."""

    KEY, CONTENT = "xyz", "labels"

    def read(self, name: str) -> Labels:
        """Labels of one image."""
        xyz, valid, track_length, error = self._arrays(name, "xyz", "valid", "track_length", "error")
        return Labels(xyz, valid.astype(bool), track_length, error)
