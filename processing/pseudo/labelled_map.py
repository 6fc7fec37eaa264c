"""The map as its labels tell it: 3D points, and which keypoint of which mapping image shows which point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.scene.label_store import LabelReader, Labels


@dataclass(frozen=True)
class LabelledMap:
    """Points xyz (P, 3) float32 with the very bits of the labels, their track_length (P,) and error (P,) pixels, and for every mapping
    image the point (K,) of each of its keypoints, -1 for none.
    """

    xyz: NDArray[np.float32]
    track_length: NDArray[np.int32]
    error: NDArray[np.float32]
    point_of_row: dict[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.xyz)

    def labels(self, point: NDArray[np.int64], weight: NDArray[np.float32], votes: NDArray[np.int32]) -> Labels:
        """Labels of an image whose keypoints (K,) show the given points (-1: none)."""
        valid = point >= 0
        xyz, length, error = np.zeros((len(point), 3), np.float32), np.zeros(len(point), np.int32), np.zeros(len(point), np.float32)
        xyz[valid], length[valid], error[valid] = self.xyz[point[valid]], self.track_length[point[valid]], self.error[point[valid]]
        return Labels(xyz, valid, length, error, weight, votes)


def read_map(path: Path, names: Sequence[str]) -> LabelledMap:
    """The map in a label file. Labels of one point have the same coordinates to the last bit: that is what makes them one point.

    Raises InputError when no image has a label.
    """
    with LabelReader(path) as reader:
        labels = {name: reader.read(name) for name in names if name in reader}
    if not any(one.valid.any() for one in labels.values()):
        raise InputError(f"{path} has no labels to transfer.", "See report.json of the scene.")
    xyz = np.concatenate([one.xyz[one.valid] for one in labels.values()])
    keys = np.ascontiguousarray(xyz).view(np.dtype((np.void, 12))).ravel()
    _, first, point = np.unique(keys, return_index=True, return_inverse=True)
    return LabelledMap(
        xyz=xyz[first],
        track_length=np.concatenate([one.track_length[one.valid] for one in labels.values()])[first],
        error=np.concatenate([one.error[one.valid] for one in labels.values()])[first],
        point_of_row=_scatter(labels, point.reshape(-1)),
    )


def _scatter(labels: dict[str, Labels], point: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
    """The points of the labelled rows of all images, one after the other, as one array (K,) per image."""
    ends = np.cumsum([int(one.valid.sum()) for one in labels.values()])
    rows = {}
    for (name, one), part in zip(labels.items(), np.split(point, ends[:-1]), strict=True):
        rows[name] = np.full(len(one), -1, np.int64)
        rows[name][one.valid] = part
    return rows
