"""Kapture trees (format 1.1) without the kapture package: the list of images, and local or global features of every type.

Images are `sensors/records_data/IMAGE`, listed in `sensors/records_camera.txt`. Features of a kind are in `reconstruction/KIND/TYPE/`: the
config in `KIND.txt`, and for each image a file `IMAGE.kpt`, `IMAGE.desc` or `IMAGE.gfeat` of rows of little-endian numbers; or all of these
in one `KIND.tar`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.d2net.kapture_tar import AppendableTar
from d2s.errors import FormatError, InputError, MissingFileError
from d2s.scene.atomic import atomic_path, write_text

VERSION = "1.1"
VERSION_LINE = f"# kapture format: {VERSION}"
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


@dataclass(frozen=True)
class GlobalFeaturesConfig(KeypointsConfig):
    """The row of `global_features.txt`."""

    metric_type: str


Config = KeypointsConfig | DescriptorsConfig | GlobalFeaturesConfig

# Folder and name of the config file -> ending of the files of images, config
KINDS: dict[str, tuple[str, type[KeypointsConfig]]] = {
    "keypoints": (".kpt", KeypointsConfig),
    "descriptors": (".desc", DescriptorsConfig),
    "global_features": (".gfeat", GlobalFeaturesConfig),
}


class KaptureTree:
    """A kapture folder. Raises MissingFileError or FormatError when it is none of version 1.1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        sensors = root / "sensors" / "sensors.txt"
        first = _lines(sensors)[:1]
        version = re.match(r"#\s*kapture format\s*:\s*(\S+)", first[0]) if first else None
        if version is None or version[1] != VERSION:
            raise FormatError(
                f"{sensors} is of kapture format {version[1] if version else 'unknown'}, not {VERSION}.",
                "Convert the tree with kapture's own tools.",
            )

    def images(self) -> list[str]:
        """Names of all camera images, relative to `sensors/records_data`, in the order of `records_camera.txt`, each once."""
        path = self.root / "sensors" / "records_camera.txt"
        names = [posixpath.normpath(row[2]) for row in read_table(path, 3)]
        for name in names:
            _require_inside(name, f"Image path in {path}")
        return list(dict.fromkeys(names))

    def image_path(self, name: str) -> Path:
        """The file of an image."""
        return self.root / "sensors" / "records_data" / name

    def features(self, kind: str, type_name: str) -> FeatureFolder:
        """The features of a kind (a key of KINDS) and a type, whether there are any or not."""
        _require_inside(type_name, f"Type of {kind}")
        return FeatureFolder(self.root / "reconstruction" / kind / type_name, kind)


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

    def write_config(self, config: Config) -> None:
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


def read_table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a text file of kapture: comma separated, `#` and blank lines left out. Raises FormatError naming the line."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = [value.strip() for value in line.split(",")]
        if len(row) != columns:
            raise FormatError(f"{path}, line {number}: {columns} values separated by commas are needed, not {len(row)}.")
        rows.append(row)
    return rows


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist.", "Give the root folder of a kapture tree.") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not a text file in UTF-8.") from None


def _require_inside(name: str, what: str) -> None:
    """Raises InputError for a name that would lead out of its folder."""
    if not name or name.startswith("/") or ".." in posixpath.normpath(name).split("/") or name in (".", "./"):
        raise InputError(f"{what} must be relative and stay inside its folder, not {name!r}.")


def feature_types(root: Path, kind: str) -> Iterator[str]:
    """The types of a kind that a tree has, in alphabetical order."""
    folder = root / "reconstruction" / kind
    for path in sorted(folder.rglob(f"{kind}.txt")):
        yield path.parent.relative_to(folder).as_posix()
