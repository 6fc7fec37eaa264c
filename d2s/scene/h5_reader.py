"""Reading HDF5 files that hold one group per image name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import h5py

from d2s.errors import FormatError, MissingFileError

Reader = TypeVar("Reader", bound="H5Reader")

REMEDY = "Run: d2s preprocess --overwrite."


class H5Reader:
    """Read access to a file whose image groups have the dataset `KEY`; use it as a context manager."""

    KEY = ""
    CONTENT = ""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFileError(f"{self.path} does not exist.", "Run: d2s preprocess.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise FormatError(f"{self.path} is not a readable HDF5 file ({error}).", REMEDY) from None

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file and self.KEY in self._file[name]

    def names(self) -> list[str]:
        """Names of all images in the file."""
        found: list[str] = []
        self._file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Group) and self.KEY in item else None)
        return found

    def _arrays(self, name: str, *keys: str) -> list[Any]:
        """Datasets of one image. Raises MissingFileError for an unknown image, FormatError where a dataset is missing or damaged."""
        if name not in self:
            raise MissingFileError(f"{self.path} has no {self.CONTENT} of image {name}.", REMEDY)
        try:
            return [self._file[name][key][()] for key in keys]
        except (KeyError, OSError) as error:
            raise FormatError(f"{self.path}: the {self.CONTENT} of image {name} are damaged ({error}).", REMEDY) from None
