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

from d2s.errors import FormatError, MissingFileError
from d2s.scene.atomic import atomic_path


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


class LabelReader:
    """Read access to a label file; use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFileError(f"{self.path} does not exist.", "Run: d2s preprocess.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise FormatError(f"{self.path} is not a readable HDF5 file ({error}).", "Run: d2s preprocess --overwrite.") from None

    def __enter__(self) -> LabelReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file and "xyz" in self._file[name]

    def read(self, name: str) -> Labels:
        """Labels of one image."""
        if name not in self:
            raise MissingFileError(f"{self.path} has no labels of image {name}.", "Run: d2s preprocess --overwrite.")
        group = self._file[name]
        return Labels(group["xyz"][()], group["valid"][()].astype(bool), group["track_length"][()], group["error"][()])
