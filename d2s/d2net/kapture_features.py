"""Features in kapture trees: keypoints or descriptors of one type.

They are in `reconstruction/KIND/TYPE/`: the config in `KIND.txt`, and for each image a file `IMAGE.kpt` or `IMAGE.desc` of rows of
little-endian numbers; or all of these in one `KIND.tar`.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.d2net.kapture_tables import VERSION_LINE, read_table
from d2s.d2net.kapture_tar import AppendableTar
from d2s.errors import FormatError, MissingFileError
from d2s.scene.atomic import atomic_path, write_text

DTYPES = ("float32", "float64", "float16", "int32", "uint8")
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


@dataclass(frozen=True)
class KeypointsConfig:
    """The row of `keypoints.txt`: the detector's name, the type of its numbers, and how many of them a keypoint has."""

    name: str
    dtype: str
    dsize: int


@dataclass(frozen=True)
class DescriptorsConfig(KeypointsConfig):
    """The row of `descriptors.txt`; `keypoints_type`: the keypoints whose rows these are, `metric_type`: how to compare them."""

    keypoints_type: str
    metric_type: str


# Folder and name of the config file -> ending of the files of images, config
KINDS: dict[str, tuple[str, type[KeypointsConfig]]] = {
    "keypoints": (".kpt", KeypointsConfig),
    "descriptors": (".desc", DescriptorsConfig),
}


class FeatureFolder:
    """Features of one type: an array (N, dsize) per image, in files of their own, or in a tar archive where there is one."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.suffix, self._config_type = KINDS[kind]
        archive = folder / f"{kind}.tar"
        self._tar = AppendableTar(archive) if archive.is_file() else None
        self.config = self._read_config()

    def __enter__(self) -> FeatureFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Finish the archive, if there is one."""
        if self._tar is not None:
            self._tar.close()

    @property
    def _config_path(self) -> Path:
        return self.folder / f"{self.kind}.txt"

    def _read_config(self) -> Any:
        """The config, None where there is none yet."""
        if not self._config_path.is_file():
            return None
        names = [field.name for field in fields(self._config_type)]
        rows = read_table(self._config_path, len(names))
        if len(rows) != 1 or rows[0][1] not in DTYPES or not rows[0][2].isdecimal() or int(rows[0][2]) < 1:
            raise FormatError(f"{self._config_path} must hold one row {', '.join(names)} with a dtype of {', '.join(DTYPES)}.")
        name, dtype, dsize, *more = rows[0]
        return self._config_type(name, dtype, int(dsize), *more)

    def write_config(self, config: KeypointsConfig) -> None:
        """Say what the arrays are; before the first of them."""
        header = ", ".join(field.name for field in fields(config))
        row = ", ".join(str(value) for value in astuple(config))
        write_text(self._config_path, f"{VERSION_LINE}\n# {header}\n{row}\n")
        self.config = config

    def names(self) -> set[str]:
        """Images that have an array here."""
        if self._tar is not None:
            files = self._tar.names()
        else:
            files = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob(f"*{self.suffix}")}
        return {name.removesuffix(self.suffix) for name in files if name.endswith(self.suffix)}

    def rows(self, name: str) -> int | None:
        """Rows of an image's array; None when it has none, or its size is not a whole number of rows."""
        if self._tar is not None:
            size = self._tar.size(name + self.suffix)
        else:
            path = self.folder / (name + self.suffix)
            size = path.stat().st_size if path.is_file() else None
        row = self._dtype().itemsize * self.config.dsize
        return None if size is None or size % row else size // row

    def read(self, name: str) -> NDArray[Any]:
        """The array (N, dsize) of an image. Raises MissingFileError or FormatError."""
        rows = self.rows(name)
        where = f"{self.folder / (name + self.suffix)}" if self._tar is None else f"{name + self.suffix} in {self._tar.path}"
        if name not in self.names():
            raise MissingFileError(f"{where} does not exist.")
        if rows is None:
            raise FormatError(f"{where} does not hold rows of {self.config.dsize} {self.config.dtype}.", "Delete it.")
        data = self._tar.read(name + self.suffix) if self._tar is not None else (self.folder / (name + self.suffix)).read_bytes()
        return np.frombuffer(data, self._dtype()).reshape(rows, self.config.dsize)

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Store the array (N, dsize) of an image, unless that is what is stored already."""
        if array.ndim != 2 or array.shape[1] != self.config.dsize or array.dtype != np.dtype(self.config.dtype):
            raise FormatError(f"{self.kind} must be (N, {self.config.dsize}) {self.config.dtype}, not {array.shape} {array.dtype}.")
        if self.rows(name) == len(array) and np.array_equal(self.read(name), array):
            return  # an archive would keep both
        data = np.ascontiguousarray(array, self._dtype()).tobytes()
        if self._tar is not None:
            self._tar.append(name + self.suffix, data)
            return
        with atomic_path(self.folder / (name + self.suffix)) as temporary:
            temporary.write_bytes(data)

    def repair(self) -> None:
        """Delete what a killed process could not rename, and finish the archive that it appended to."""
        if self._tar is not None:
            self._tar.repair()
        for path in self.folder.rglob(".*.tmp"):
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.config.dtype).newbyteorder("<")
