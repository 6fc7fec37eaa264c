"""`labels.h5`: for every keypoint of an image in the feature file, row by row, the scene coordinate that it shows.

One HDF5 group per image name holds `xyz` (K, 3) float32 in the scene's unit, `valid` (K,) bool, `track_length` (K,) int32 and `error`
(K,) float32, the mean reprojection error of the 3D point in pixels. Rows without a 3D point stay, with valid = False: they are the
negatives of the reliability head (paper, section III-B). Extra training images may add `weight` (K,) float32, how much a row counts in
training (1 where absent), and `votes` (K,) int32, how many mapping images agreed on its label.
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
from d2s.scene.h5_reader import REMEDY, H5Reader

OPTIONAL = {"weight": np.float32, "votes": np.int32}
"""Arrays that an image's labels may have, with their types in the file."""


@dataclass(frozen=True)
class Labels:
    """Labels of one image, row-aligned with its features: xyz (K, 3), valid (K,), track_length (K,), error (K,) pixels.

    `weight` (K,) >= 0 says how much a row counts in training, labelled or not; None: each counts 1. `votes` (K,) is for the record.
    """

    xyz: NDArray[np.float32]
    valid: NDArray[np.bool_]
    track_length: NDArray[np.int32]
    error: NDArray[np.float32]
    weight: NDArray[np.float32] | None = None
    votes: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        k = len(self.xyz)
        rows = [self.valid, self.track_length, self.error, *(a for a in (self.weight, self.votes) if a is not None)]
        if self.xyz.shape != (k, 3) or any(a.shape != (k,) for a in rows):
            raise FormatError(f"Labels must be row-aligned: xyz {self.xyz.shape}, others {[a.shape for a in rows]}.")
        if self.weight is not None and not (np.isfinite(self.weight) & (self.weight >= 0)).all():
            raise FormatError("Weights of labels must be finite and at least 0.")

    def __len__(self) -> int:
        return len(self.xyz)

    def weights(self) -> NDArray[np.float32]:
        """How much each row (K,) counts in training."""
        return np.ones(len(self), np.float32) if self.weight is None else self.weight


def write_labels(path: Path, items: Iterable[tuple[str, Labels]]) -> None:
    """Write the label file of a scene, by rename."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, labels in items:
            group = file.create_group(name)
            group.create_dataset("xyz", data=labels.xyz.astype(np.float32))
            group.create_dataset("valid", data=labels.valid.astype(bool))
            group.create_dataset("track_length", data=labels.track_length.astype(np.int32))
            group.create_dataset("error", data=labels.error.astype(np.float32))
            for key, kind in OPTIONAL.items():
                if (values := getattr(labels, key)) is not None:
                    group.create_dataset(key, data=values.astype(kind))


class LabelReader(H5Reader):
    """Read access to a label file; use it as a context manager."""

    KEY, CONTENT = "xyz", "labels"

    def read(self, name: str) -> Labels:
        """Labels of one image."""
        xyz, valid, track_length, error = self._arrays(name, "xyz", "valid", "track_length", "error")
        optional = {key: self._arrays(name, key)[0] for key in OPTIONAL if key in self._file[name]}
        try:
            return Labels(xyz, valid.astype(bool), track_length, error, **optional)
        except FormatError as damage:
            raise FormatError(f"{self.path}: the labels of image {name} are damaged. {damage.problem}", REMEDY) from None
