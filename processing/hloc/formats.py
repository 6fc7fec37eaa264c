"""hloc's files: local features, matches, pairs, query lists and SfM models, in the spellings of its old and new versions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.features.base import LocalFeatures
from d2s.geometry.camera import parse_camera
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.h5_reader import H5Reader

SCORES = ("scores", "keypoint_scores")
"""hloc's wrappers of DISK and ALIKED write the second."""


@dataclass(frozen=True)
class RawFeatures:
    """One image's features as the file holds them, row by row.

    keypoints (N, 2) in the file's own type (hloc halves them unless told otherwise), pixels with the top-left centre at 0; scores (N,)
    or None where the file has none; scales (N,) or None; descriptors (D, N); image_size: (width, height).
    """

    keypoints: NDArray[Any]
    scores: NDArray[Any] | None
    scales: NDArray[Any] | None
    descriptors: NDArray[Any]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)

    def best(self, count: int) -> NDArray[np.int64]:
        """Rows of the `count` best keypoints, best first; never "the first rows", which are the top of the image.

        By score; by scale (as COLMAP does) where all scores are equal, as in hloc's SIFT; ties keep the file's order.
        """
        order = np.arange(len(self))
        for values in (self.scores, self.scales):
            if values is not None and len(values) and values.min() < values.max():
                order = np.argsort(-values.astype(np.float64), kind="stable")
                break
        return order[:count]

    def take(self, rows: NDArray[np.int64], keypoints: NDArray[Any] | None = None) -> LocalFeatures:
        """The given rows as our features. `keypoints` (N, 2) of all rows replaces the file's (where their precision was restored)."""
        scores = np.ones(len(self)) if self.scores is None else self.scores
        places = self.keypoints if keypoints is None else keypoints
        columns = np.ascontiguousarray(self.descriptors[:, rows].T)
        return LocalFeatures(places[rows].astype(np.float32), scores[rows].astype(np.float32), columns, self.image_size)


class HlocFeatures(H5Reader):
    """hloc's file of local features: one group per image name, `/` making nested groups. Use it as a context manager."""

    KEY, CONTENT = "keypoints", "features"

    def count(self, name: str) -> int:
        """Number of keypoints, without reading them."""
        return int(self._file[name]["keypoints"].shape[0])

    def image_size(self, name: str) -> tuple[int, int]:
        """(width, height) of the image that the features were extracted from."""
        width, height = self._arrays(name, "image_size")[0]
        return int(width), int(height)

    def keypoints(self, name: str) -> NDArray[Any]:
        """Keypoints (N, 2) in the file's own type."""
        return np.asarray(self._arrays(name, "keypoints")[0])

    def read(self, name: str) -> RawFeatures:
        """Features of one image. Raises FormatError where they are incomplete or do not belong together."""
        keypoints, descriptors, (width, height) = self._arrays(name, "keypoints", "descriptors", "image_size")
        scores, scales = self._optional(name, *SCORES), self._optional(name, "scales")
        n = len(keypoints)
        if keypoints.shape != (n, 2) or descriptors.ndim != 2 or descriptors.shape[1] != n or (scores is not None and len(scores) != n):
            raise FormatError(
                f"{self.path}: the features of image {name} are keypoints {keypoints.shape} and descriptors {descriptors.shape}, "
                f"not (N, 2) and (D, N).",
                "Extract them again (hloc: overwrite=True).",
            )
        return RawFeatures(keypoints, scores, scales, descriptors, (int(width), int(height)))

    def places(self, name: str) -> RawFeatures:
        """The same as `read` without descriptors (0, N), which take the time."""
        keypoints, (width, height) = self._arrays(name, "keypoints", "image_size")
        empty = np.zeros((0, len(keypoints)), np.float16)
        scores, scales = self._optional(name, *SCORES), self._optional(name, "scales")
        return RawFeatures(keypoints, scores, scales, empty, (int(width), int(height)))

    def _optional(self, name: str, *keys: str) -> NDArray[Any] | None:
        key = next((key for key in keys if key in self._file[name]), None)
        return None if key is None else np.asarray(self._file[name][key][()])


class HlocMatches:
    """hloc's file of matches. Pairs are named `n0/n1` with `-` for `/` in the names, `n0_n1` in older files, in either order."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingFileError(f"{self.path} does not exist.", "Run hloc's match_features, or d2s preprocess --sfm hloc.")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise FormatError(f"{self.path} is not a readable HDF5 file ({error}).", "Match again (hloc: overwrite=True).") from None

    def __enter__(self) -> HlocMatches:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return self._find(*pair) is not None

    def read(self, name0: str, name1: str) -> NDArray[np.int32]:
        """Matching rows (K, 2) of the two images. Raises MissingFileError for a pair that was not matched."""
        found = self._find(name0, name1)
        if found is None:
            raise MissingFileError(f"{self.path} has no matches of {name0} and {name1}.", "Match the pairs again.")
        key, reverse = found
        other = np.asarray(self._file[key]["matches0"][()]).astype(np.int32)
        rows = np.flatnonzero(other >= 0).astype(np.int32)
        columns = (other[rows], rows) if reverse else (rows, other[rows])
        return np.stack(columns, axis=1)

    def _find(self, name0: str, name1: str) -> tuple[str, bool] | None:
        """Key of the pair in the file, and whether it is stored the other way round."""
        flat0, flat1 = name0.replace("/", "-"), name1.replace("/", "-")
        spelled = ((f"{flat0}/{flat1}", False), (f"{flat1}/{flat0}", True), (f"{flat0}_{flat1}", False), (f"{flat1}_{flat0}", True))
        return next(((key, reverse) for key, reverse in spelled if f"{key}/matches0" in self._file), None)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Image pairs of a file with `name0 name1` per line (query first where it comes from retrieval)."""
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            raise FormatError(f"{path}:{number} has {len(fields)} names, not 2.", "Each line names two images, whose names have no blanks.")
        pairs.append((fields[0], fields[1]))
    return pairs


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Write a pairs file as hloc does: no newline at its end."""
    path.write_text("\n".join(f"{a} {b}" for a, b in pairs), encoding="utf-8")


def read_queries(path: Path) -> dict[str, pycolmap.Camera]:
    """Cameras of the images in a list of lines `name MODEL W H p0 p1 …`. Raises FormatError naming the line."""
    cameras: dict[str, pycolmap.Camera] = {}
    for number, line in enumerate(_lines(path), start=1):
        name, _, camera = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        try:
            cameras[name] = parse_camera(camera)
        except InputError as error:
            raise FormatError(f"{path}:{number}: {error.problem}", "Each line must be: name MODEL WIDTH HEIGHT p0 p1 …") from None
    return cameras


def _lines(path: Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise FormatError(f"{path} is not a text file.") from None


def read_sfm(folder: Path) -> pycolmap.Reconstruction:
    """An SfM model, binary or text, with or without rigs and frames. Raises FormatError naming the folder."""
    try:
        with quiet_colmap():
            return pycolmap.Reconstruction(str(folder))
    except (ValueError, IndexError, RuntimeError, MemoryError) as error:  # what pycolmap's readers raise for missing and damaged files
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"hloc's SfM model {folder} cannot be read ({reason}).", "Run hloc's triangulation again.") from None
