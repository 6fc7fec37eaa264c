"""`features.h5`: local features in hloc's layout, written in parts that survive a kill.

One HDF5 group per image name holds `keypoints` (N, 2) float32 in pixels (top-left pixel centre at 0), `scores` (N,) float32,
`descriptors` (D, N) float16 and `image_size` (width, height). The root carries the settings that made the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from d2s.errors import SettingsMismatchError
from d2s.features.base import LocalFeatures, settings_hash
from d2s.scene.atomic import atomic_path, read_json, write_json
from d2s.scene.h5_reader import H5Reader


class FeatureReader(H5Reader):
    """Read access to a feature file; use it as a context manager."""

    KEY, CONTENT = "keypoints", "features"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that made the file; empty when another program wrote it."""
        return dict(json.loads(self._file.attrs.get("settings", "{}")))

    def count(self, name: str) -> int:
        """Number of keypoints of one image."""
        return len(self.keypoints(name))

    def keypoints(self, name: str) -> NDArray[np.float32]:
        """Keypoints (N, 2) of one image, without its descriptors, which take the time."""
        return np.asarray(self._arrays(name, "keypoints")[0], dtype=np.float32)

    def read(self, name: str) -> LocalFeatures:
        """Features of one image, in the order of the file's rows; scores are 1 where the file has none."""
        keypoints, descriptors, (width, height) = self._arrays(name, "keypoints", "descriptors", "image_size")
        scores = self._arrays(name, "scores")[0] if "scores" in self._file[name] else np.ones(len(keypoints))
        columns = np.ascontiguousarray(descriptors.T)
        return LocalFeatures(keypoints.astype(np.float32), scores.astype(np.float32), columns, (int(width), int(height)))


class FeatureWriter:
    """Collects features in small parts beside the final file, so that a killed extraction goes on where it stopped.

    Parts are published by rename; `finish` merges them into the final file, by rename too. Parts made with other settings are refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = Path(path), settings
        self.parts = self.path.with_suffix(".parts")
        self.parts.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        self._names = self._names_in_parts()

    def _check_settings(self) -> None:
        record = self.parts / "settings.json"
        if not record.is_file():
            write_json(record, self.settings)
        elif read_json(record) != self.settings:
            raise SettingsMismatchError(
                f"{self.parts} holds features of an unfinished run with other settings.", "Finish that run, or start anew with --overwrite."
            )

    def _names_in_parts(self) -> dict[str, Path]:
        return {name: part for part in sorted(self.parts.glob("*.h5")) for name in _part_names(part)}

    @property
    def done(self) -> set[str]:
        """Names that are already stored."""
        return set(self._names)

    def write(self, items: Iterable[tuple[str, LocalFeatures]]) -> None:
        """Store the features of some images as one new part."""
        items = list(items)
        if not items:
            return
        part = self.parts / f"{len(list(self.parts.glob('*.h5'))):06d}.h5"
        with atomic_path(part) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["names"] = json.dumps([name for name, _ in items])
            for name, features in items:
                _write_group(file, name, features)
        self._names.update({name: part for name, _ in items})

    def finish(self, names: Iterable[str]) -> None:
        """Merge the parts of the given images, in that order, into the final file and remove them."""
        with atomic_path(self.path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["settings"] = json.dumps(self.settings, sort_keys=True)
            file.attrs["settings_hash"] = settings_hash(self.settings)
            for part, group in _grouped(names, self._names):
                with h5py.File(part, "r") as source:
                    for name in group:
                        parent = file.require_group(str(Path(name).parent))
                        source.copy(name, parent, name=Path(name).name)
        shutil.rmtree(self.parts)


def _part_names(part: Path) -> list[str]:
    with h5py.File(part, "r") as file:
        return list(json.loads(file.attrs["names"]))


def _grouped(names: Iterable[str], part_of: dict[str, Path]) -> Iterator[tuple[Path, list[str]]]:
    """Names by the part that holds them, parts in the order of their first name."""
    groups: dict[Path, list[str]] = {}
    for name in names:
        groups.setdefault(part_of[name], []).append(name)
    yield from groups.items()


def _write_group(file: h5py.File, name: str, features: LocalFeatures) -> None:
    group = file.create_group(name)
    group.create_dataset("keypoints", data=features.keypoints.astype(np.float32))
    group.create_dataset("scores", data=features.scores.astype(np.float32))
    group.create_dataset("descriptors", data=np.ascontiguousarray(features.descriptors.T).astype(np.float16))
    group.create_dataset("image_size", data=np.array(features.image_size, dtype=np.int64))
