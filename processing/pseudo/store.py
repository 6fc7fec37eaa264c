"""Pseudo-labels on their way to the label file: in parts, so that a killed run goes on where it stopped.

`provenance.h5` keeps for every labelled photo, beside what `labels.h5` holds, which neighbours agreed: dataset `voters` (K, k) bool, and
the names of the k neighbours in the attribute `neighbours` (JSON). `records.json` tells of every photo how it was placed, or why not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from d2s.scene.atomic import atomic_path, read_json, write_json
from d2s.scene.label_store import LabelReader, Labels, write_labels

PROVENANCE, RECORDS = "provenance.h5", "records.json"


@dataclass(frozen=True)
class LabelledPhoto:
    """What is known of one photo: `record` (JSON values, for the report) and, where it was placed, labels and voters (K, k)."""

    name: str
    record: dict[str, Any]
    labels: Labels | None
    voters: NDArray[np.bool_]


class PartStore:
    """Photos in parts beside the final files: each part is a folder with records.json, labels.h5 and voters.h5."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = folder / "labels.parts"
        self.parts.mkdir(parents=True, exist_ok=True)
        self.records: dict[str, dict[str, Any]] = {}
        self._part_of: dict[str, Path] = {}
        for part in sorted(self.parts.glob("[0-9]*")):
            self._note(part, read_json(part / "records.json"))

    def _note(self, part: Path, records: dict[str, dict[str, Any]]) -> None:
        self.records.update(records)
        self._part_of.update(dict.fromkeys(records, part))

    def write(self, photos: Sequence[LabelledPhoto]) -> None:
        """Store some photos as one new part."""
        path = self.parts / f"{len(set(self._part_of.values())):06d}"
        records = {photo.name: photo.record for photo in photos}
        with atomic_path(path) as part:
            part.mkdir()
            write_json(part / "records.json", records)
            write_labels(part / "labels.h5", ((photo.name, photo.labels) for photo in photos if photo.labels is not None))
            with h5py.File(part / "voters.h5", "w") as file:
                for photo in photos:
                    file.create_group(photo.name).create_dataset("voters", data=photo.voters, compression="gzip", compression_opts=1)
        self._note(path, records)

    def finish(self, names: Sequence[str], labels: str) -> None:
        """Write the files of the given photos, in that order; those without labels are in the records only. The parts stay.

        `labels` is the name of the label file.
        """
        labelled = [name for name in names if self.records[name]["labels"]]
        write_labels(self.folder / labels, self._labels(labelled))
        with atomic_path(self.folder / PROVENANCE) as temporary, h5py.File(temporary, "w") as file:
            for name in labelled:
                group = file.require_group(name)
                with h5py.File(self._part_of[name] / "voters.h5", "r") as part:
                    part.copy(part[name]["voters"], group, name="voters")
                group.attrs["neighbours"] = json.dumps([neighbour["name"] for neighbour in self.records[name]["neighbours"]])

        write_json(self.folder / RECORDS, {name: self.records[name] for name in names})

    def _labels(self, names: Sequence[str]) -> Iterator[tuple[str, Labels]]:
        for name in names:
            with LabelReader(self._part_of[name] / "labels.h5") as reader:
                yield name, reader.read(name)

    def remove(self) -> None:
        """Remove the parts."""
        shutil.rmtree(self.parts)
