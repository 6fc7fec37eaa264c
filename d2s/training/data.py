"""The training set in memory: descriptors, labels, poses and cameras of a scene, and the batches drawn from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import torch
from torch import Tensor

from d2s.errors import FormatError, InputError
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene

FEATURES, LABELS = "features.h5", "labels.h5"


@dataclass(frozen=True)
class Batch:
    """B images with N keypoints each: descriptors (B, N, D), keypoints (B, N, 2) pixels, mask (B, N) real rows, xyz (B, N, 3), valid
    (B, N) rows with a label, point (B, N) index of the label's SfM point or -1, cam_from_world (B, 3, 4), camera (B,) index into
    the cameras.
    """

    descriptors: Tensor
    keypoints: Tensor
    mask: Tensor
    xyz: Tensor
    valid: Tensor
    point: Tensor
    cam_from_world: Tensor
    camera: Tensor


@dataclass(frozen=True)
class TrainingSet:
    """All labelled images of a scene, padded to one number of rows: M images, K rows, D descriptor channels.

    Descriptors are kept in float16 as stored: 700 images of 2048 128-d descriptors take 370 MB.
    """

    names: tuple[str, ...]
    descriptors: Tensor
    keypoints: Tensor
    mask: Tensor
    xyz: Tensor
    valid: Tensor
    point: Tensor
    cam_from_world: Tensor
    camera: Tensor
    cameras: tuple[pycolmap.Camera, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_points(self) -> int:
        """SfM points that the labels speak of."""
        return int(self.point.max()) + 1

    @property
    def descriptor_dim(self) -> int:
        """Channels of a descriptor."""
        return int(self.descriptors.shape[2])

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Centre (3,) and scale () of the labelled points: their median, and the median distance from it (robust to stray points)."""
        points = self.xyz[self.valid]
        center = points.median(dim=0).values
        return center, (points - center).norm(dim=1).median().clamp(min=1e-6)

    def bounds(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Corners of the box that holds 98 % of the labelled points along each axis."""
        low, high = np.percentile(self.xyz[self.valid].numpy(), [1, 99], axis=0).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def batch(self, images: Tensor, count: int, labelled_fraction: float, generator: torch.Generator) -> Batch:
        """The given images (B,) with `count` rows drawn from each without replacement (all rows, in order, when count is 0)."""
        if count <= 0 or count >= self.mask.shape[1]:
            return self._gather(images, None)
        rows = torch.stack([self._draw(int(image), count, labelled_fraction, generator) for image in images])
        return self._gather(images, rows)

    def _draw(self, image: int, count: int, labelled_fraction: float, generator: torch.Generator) -> Tensor:
        """Rows of one image: a random order of its real rows, cut so that enough of them have a label; padding comes last."""
        order = torch.randperm(self.mask.shape[1], generator=generator)
        labelled = self.valid[image, order]
        wanted = labelled & (labelled.cumsum(0) <= round(count * labelled_fraction))
        rank = torch.where(wanted, 0, torch.where(self.mask[image, order], 1, 2))
        return order[torch.argsort(rank, stable=True)[:count]]

    def _gather(self, images: Tensor, rows: Tensor | None) -> Batch:
        index = (images,) if rows is None else (images[:, None], rows)
        return Batch(
            self.descriptors[index], self.keypoints[index], self.mask[index], self.xyz[index], self.valid[index],
            self.point[index], self.cam_from_world[images], self.camera[images],
        )  # fmt: skip


def load_training_set(folder: Path, scene: Scene) -> TrainingSet:
    """Read features and labels of a scene's training images into memory. Images without any label are left out."""
    with FeatureReader(folder / FEATURES) as features, LabelReader(folder / LABELS) as labels:
        images = [image for image in scene.split("train") if image.name in labels and labels.read(image.name).valid.any()]
        if not images:
            raise InputError(f"{folder} has no labelled training image.", "See report.json there, and preprocess again with --overwrite.")
        rows = max(len(labels.read(image.name)) for image in images)
        dimension = features.read(images[0].name).descriptors.shape[1]
        arrays = _empty(len(images), rows, dimension)
        for index, image in enumerate(images):
            _fill(arrays, index, features, labels, image.name)
    camera_ids = sorted({image.camera_id for image in images})
    return TrainingSet(
        names=tuple(image.name for image in images),
        cam_from_world=torch.from_numpy(np.array([image.cam_from_world for image in images], dtype=np.float32)),
        point=_point_index(arrays["xyz"], arrays["valid"]),
        camera=torch.tensor([camera_ids.index(image.camera_id) for image in images]),
        cameras=tuple(scene.cameras[i] for i in camera_ids),
        **arrays,
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


def step_generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator that depends on seed, purpose and step only: a resumed run draws what the uninterrupted one would have drawn."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
