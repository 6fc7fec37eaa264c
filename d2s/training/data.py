"""The training set in memory: descriptors, labels, poses and cameras of a scene and of its extra images, and the batches drawn from them.

Extra images (augmented copies, pseudo-labelled images) come after the real ones. A batch takes a fixed share of them
(`training.extra_fraction`), however many there are, spread evenly: what they are for is to help the real images, not to outvote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s.errors import FormatError, InputError
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.extra_images import extra_folder
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from d2s.scene.refined_map import RefinedMap, refined_folder
from d2s.training.extras import Extras

FEATURES, LABELS = "features.h5", "labels.h5"


@dataclass(frozen=True)
class Batch:
    """B images with N keypoints each: descriptors (B, N, D), keypoints (B, N, 2) pixels, mask (B, N) real rows, xyz (B, N, 3), valid
    (B, N) rows with a label, point (B, N) index of the label's SfM point or -1, weight (B, N) how much a row counts, cam_from_world
    (B, 3, 4), has_pose (B,) False where that and the camera mean nothing, camera (B,) index into the cameras.
    """

    descriptors: Tensor
    keypoints: Tensor
    mask: Tensor
    xyz: Tensor
    valid: Tensor
    point: Tensor
    weight: Tensor
    cam_from_world: Tensor
    has_pose: Tensor
    camera: Tensor


@dataclass(frozen=True)
class TrainingSet:
    """All labelled images of a scene, padded to one number of rows: M images, K rows, D descriptor channels; the first `num_real` are the
    scene's own and those that extend its map, the others extra ones.

    Descriptors are kept in float16 as stored: 700 images of 2048 128-d descriptors take 370 MB.
    """

    names: tuple[str, ...]
    descriptors: Tensor
    keypoints: Tensor
    mask: Tensor
    xyz: Tensor
    valid: Tensor
    point: Tensor
    weight: Tensor
    cam_from_world: Tensor
    has_pose: Tensor
    camera: Tensor
    cameras: tuple[pycolmap.Camera, ...]
    num_real: int

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_extra(self) -> int:
        """Images that are not the scene's own."""
        return len(self.names) - self.num_real

    @property
    def num_points(self) -> int:
        """SfM points that the labels speak of."""
        return int(self.point.max()) + 1

    @property
    def descriptor_dim(self) -> int:
        """Channels of a descriptor."""
        return int(self.descriptors.shape[2])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Centre (3,) and scale () of the scene's labelled points: their median, and the median distance from it (robust to stray ones)."""
        points = self.xyz[: self.num_real][self.valid[: self.num_real]]
        center = points.median(dim=0).values
        return center, (points - center).norm(dim=1).median().clamp(min=1e-6)

    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Corners of the box that holds 98 % of the labelled points along each axis."""
        points = self.xyz[: self.num_real][self.valid[: self.num_real]]
        low, high = np.percentile(points.numpy(), [1, 99], axis=0).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def batch(self, images: Tensor, count: int, labelled_fraction: float, generator: torch.Generator) -> Batch:
        """The given images (B,) with `count` rows drawn from each without replacement (all rows, in order, when count is 0)."""
        if count <= 0 or count >= self.mask.shape[1]:
            return self._gather(images, None)
        rows = torch.stack([self._draw(int(image), count, labelled_fraction, generator) for image in images])
        return self._gather(images, rows)

    def _draw(self, image: int, count: int, labelled_fraction: float, generator: torch.Generator) -> Tensor:
        """Rows of one image: a random order of its real rows, cut so that enough of them have a label; rows that count nothing come late,
        padding last.
        """
        order = torch.randperm(self.mask.shape[1], generator=generator)
        labelled = self.valid[image, order]
        wanted = labelled & (labelled.cumsum(0) <= round(count * labelled_fraction))
        mask, counts = self.mask[image, order], self.weight[image, order] > 0
        rank = torch.where(wanted, 0, torch.where(mask, torch.where(counts, 1, 2), 3))
        return order[torch.argsort(rank, stable=True)[:count]]

    def _gather(self, images: Tensor, rows: Tensor | None) -> Batch:
        index = (images,) if rows is None else (images[:, None], rows)
        return Batch(
            self.descriptors[index], self.keypoints[index], self.mask[index], self.xyz[index], self.valid[index],
            self.point[index], self.weight[index], self.cam_from_world[images], self.has_pose[images], self.camera[images],
        )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One image on its way into the set: its name there and in its files, pose and camera where they are known."""

    label: str
    name: str
    camera: pycolmap.Camera | None
    cam_from_world: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Source:
    """Images with the folders of their features and of their labels."""

    features: Path
    labels: Path
    rows: Sequence[_Row]


def load_training_set(folder: Path, scene: Scene, extras: Sequence[Extras] = (), refined: RefinedMap | None = None) -> TrainingSet:
    """Read features and labels of a scene's training images, and of extra ones, into memory. Images without any label are left out.

    With `refined`, labels and poses are those of the scene's refined map.
    """
    poses = {image.name: image.cam_from_world for image in scene.split("train")} if refined is None else refined.cam_from_map
    real = [_Row(image.name, image.name, scene.camera(image), poses.get(image.name)) for image in scene.split("train")]
    sources = [_Source(folder, folder if refined is None else refined_folder(folder), real)]
    extras = sorted(extras, key=lambda extra: not extra.extends)
    for extra in extras:
        rows = [_Row(f"{extra.kind}/{image.name}", image.name, image.camera, image.cam_from_world) for image in extra.images]
        where = extra_folder(folder, extra.kind)
        sources.append(_Source(where, where, rows))
    sources = [replace(source, rows=_labelled(source.labels, source.rows)) for source in sources]
    if not sources[0].rows:
        raise InputError(f"{folder} has no labelled training image.", "See report.json there, and preprocess again with --overwrite.")
    arrays = _read(sources)
    point = _point_index(arrays["xyz"], arrays["valid"])
    num_real = sum(len(source.rows) for source in sources[: 1 + sum(extra.extends for extra in extras)])
    if len(sources) > 1:
        _require_known_points(point, num_real, folder, extras)
    every = [row for source in sources for row in source.rows]
    index, cameras = _cameras(every)
    matrices = [np.eye(3, 4) if row.cam_from_world is None else row.cam_from_world for row in every]
    return TrainingSet(
        names=tuple(row.label for row in every),
        cam_from_world=torch.from_numpy(np.array(matrices, dtype=np.float32)),
        has_pose=torch.tensor([row.cam_from_world is not None for row in every]),
        point=point,
        camera=torch.tensor(index),
        cameras=cameras,
        num_real=num_real,
        **arrays,
    )


def _labelled(where: Path, rows: Sequence[_Row]) -> list[_Row]:
    with LabelReader(where / LABELS) as labels:
        return [row for row in rows if row.name in labels and labels.read(row.name).valid.any()]


def _read(sources: Sequence[_Source]) -> dict[str, Tensor]:
    """The padded arrays of all images, folder by folder."""
    with ExitStack() as stack:
        readers = [
            (stack.enter_context(FeatureReader(s.features / FEATURES)), stack.enter_context(LabelReader(s.labels / LABELS)), s.rows)
            for s in sources
        ]
        count = max(len(labels.read(row.name)) for _, labels, rows in readers for row in rows)
        dimension = readers[0][0].read(readers[0][2][0].name).descriptors.shape[1]
        arrays = _empty(sum(len(rows) for _, _, rows in readers), count, dimension)
        places = ((features, labels, row.name) for features, labels, rows in readers for row in rows)
        for index, (features, labels, name) in enumerate(places):
            _fill(arrays, index, features, labels, name)
    return arrays


def _cameras(rows: Sequence[_Row]) -> tuple[list[int], tuple[pycolmap.Camera, ...]]:
    """For every image the index of its camera (0 where it has none), and the cameras, each once."""
    texts = [None if row.camera is None else format_camera(row.camera) for row in rows]
    known = list(dict.fromkeys(text for text in texts if text is not None))
    position = {text: index for index, text in enumerate(known)}
    return [0 if text is None else position[text] for text in texts], tuple(parse_camera(text) for text in known)


def _require_known_points(point: Tensor, num_real: int, folder: Path, extras: Sequence[Extras]) -> None:
    """Extra labels are copies of the scene's labels, to the last bit: others were made from another version of the scene."""
    known = torch.zeros(int(point.max()) + 1, dtype=torch.bool)
    known[point[:num_real][point[:num_real] >= 0]] = True
    if not bool(known.all()):
        kinds = ", ".join(str(extra_folder(folder, extra.kind)) for extra in extras)
        raise FormatError(
            f"Extra images ({kinds}) have labels of {int((~known).sum())} points that the scene does not have.",
            "They were made from another version of it: remove those folders and make them anew with d2s preprocess.",
        )


def _point_index(xyz: Tensor, valid: Tensor) -> Tensor:
    """For every row the number of its SfM point, -1 without label: labels of one point have the same coordinates to the last bit."""
    coordinates = np.ascontiguousarray(xyz[valid].numpy()).view(np.dtype((np.void, 12))).ravel()
    index = torch.full(valid.shape, -1, dtype=torch.long)
    index[valid] = torch.from_numpy(np.unique(coordinates, return_inverse=True)[1].reshape(-1).astype(np.int64))
    return index


def _empty(images: int, rows: int, dimension: int) -> dict[str, Tensor]:
    return {
        "descriptors": torch.zeros(images, rows, dimension, dtype=torch.float16),
        "keypoints": torch.zeros(images, rows, 2),
        "mask": torch.zeros(images, rows, dtype=torch.bool),
        "xyz": torch.zeros(images, rows, 3),
        "valid": torch.zeros(images, rows, dtype=torch.bool),
        "weight": torch.zeros(images, rows),
    }


def _fill(arrays: dict[str, Tensor], index: int, features: FeatureReader, labels: LabelReader, name: str) -> None:
    feature, label = features.read(name), labels.read(name)
    if len(feature) != len(label):
        raise FormatError(
            f"Image {name} has {len(feature)} features but {len(label)} labels: they are not of one run.", "Preprocess with --overwrite."
        )
    for what, values in (("features", feature.descriptors), ("labels", label.xyz)):
        if not np.isfinite(values).all():
            raise FormatError(f"The {what} of image {name} are damaged: not all are finite numbers.", "Preprocess with --overwrite.")
    count = len(feature)
    arrays["descriptors"][index, :count] = torch.from_numpy(feature.descriptors.astype(np.float16))
    arrays["keypoints"][index, :count] = torch.from_numpy(feature.keypoints)
    arrays["mask"][index, :count] = True
    arrays["xyz"][index, :count] = torch.from_numpy(label.xyz)
    arrays["valid"][index, :count] = torch.from_numpy(label.valid)
    arrays["weight"][index, :count] = torch.from_numpy(label.weights().astype(np.float32))
