"""What a network has learnt of a place, as points: the landmarks of model 3, or the scene coordinates that models 1 and 2 predict."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2s.errors import InputError
from d2s.export.content import Content, Points, View, once, view_of
from d2s.geometry.reprojection import reprojection_errors
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene
from d2s.scene.refined_map import RefinedMap

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
SECONDS_BETWEEN_LINES = 5.0
VOXELS = 500
"""Without a given size, a voxel is this part of the diagonal of the mapped box."""


@dataclass(frozen=True)
class _Seen:
    """Reliable predictions of all views: view (V,), row of the keypoint (V,), xyz (V, 3), reliability (V,), error (V,) in pixels."""

    view: NDArray[np.int64]
    row: NDArray[np.int64]
    xyz: NDArray[np.float32]
    reliability: NDArray[np.float32]
    error: Array


def landmark_content(model: TrainedModel) -> Content:
    """The landmarks alone, for a model whose scene is not at hand. Raises InputError for models 1 and 2, which have none."""
    if not isinstance(model.network, LandmarkNet):
        raise InputError(
            f"The map of model {model.network.config.model} is what it predicts for the mapping images, so their features are needed.",
            "Say where the preprocessed scene is: --data_dir, --dataset, --scene.",
        )
    return Content({}, (), Points.gray(model.network.xyz.cpu().numpy().astype(np.float64)), model.info.units)


def map_content(model: TrainedModel, scene: Scene, folder: Path, threshold: float | None = None, voxel: float | None = None) -> Content:
    """The mapping images and the map that a model has of them, each point with the keypoints that show it.

    Model 3: its landmarks. Models 1 and 2: coordinates predicted for the mapping images, merged where they fall into one voxel (`voxel`:
    its side in the scene's unit). A prediction counts when its reliability is above `threshold` (None: the model's own) and it lies within
    the model's `max_error` of its keypoint in that image.
    """
    views = _views(scene, folder, model)
    with FeatureReader(folder / "features.h5") as reader:
        views = [replace(view, keypoints=reader.read(view.name).top(model.info.num_keypoints).keypoints) for view in views]
        seen = _gather(_predictions(model, scene, views, reader, model.info.reliability_threshold if threshold is None else threshold))
    if isinstance(model.network, LandmarkNet):
        xyz = model.network.xyz.cpu().numpy()
        number = _nearest(xyz, seen.xyz)
    else:
        xyz, number = merge(seen.xyz, seen.reliability, voxel or _voxel(model))
    points = Points.gray(xyz.astype(np.float64), _mean_errors(number, seen.error, len(xyz)))
    return Content(scene.cameras, tuple(_with_points(views, seen, number)), points, scene.units)


def _views(scene: Scene, folder: Path, model: TrainedModel) -> list[View]:
    """The mapping images in the frame of the model's map."""
    refined = RefinedMap.load(folder) if model.info.pose_field is not None else None
    poses = {i.name: i.cam_from_world for i in scene.split("train")} if refined is None else refined.cam_from_map
    found = ((image, poses.get(image.name)) for image in scene.split("train"))
    return [view_of(scene, image, pose) for image, pose in found if pose is not None]


def _predictions(
    model: TrainedModel, scene: Scene, views: list[View], reader: FeatureReader, threshold: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], Array]]:
    """Of each view the keypoints that count, their coordinates, reliabilities and errors."""
    said = time.monotonic()
    for done, view in enumerate(views):
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logger.info("%d of %d mapping images", done, len(views))
        xyz, reliability = model.predict(reader.read(view.name).top(model.info.num_keypoints))
        errors = reprojection_errors(scene.cameras[view.camera_id], view.cam_from_world, xyz, view.keypoints)
        rows = np.flatnonzero((reliability > threshold) & (errors <= model.info.max_error))
        yield rows, xyz[rows], reliability[rows], errors[rows]


def _gather(found: Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], Array]]) -> _Seen:
    entries = list(found)
    rows, xyz, reliability, errors = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [], [], [])
    view = [np.full(len(row), index, dtype=np.int64) for index, row in enumerate(rows)]
    return _Seen(
        np.concatenate([np.zeros(0, np.int64), *view]),
        np.concatenate([np.zeros(0, np.int64), *rows]),
        np.concatenate([np.zeros((0, 3), np.float32), *xyz]),
        np.concatenate([np.zeros(0, np.float32), *reliability]),
        np.concatenate([np.zeros(0), *errors]),
    )


def _nearest(landmarks: NDArray[np.float32], xyz: NDArray[np.float32]) -> NDArray[np.int64]:
    """The landmark (V,) at each coordinate: predictions of model 3 are coordinates of landmarks."""
    return np.asarray(cKDTree(landmarks).query(xyz)[1], dtype=np.int64).reshape(-1)


def _voxel(model: TrainedModel) -> float:
    low, high = model.info.bounds
    return float(np.linalg.norm(np.subtract(high, low))) / VOXELS or 1.0


def merge(xyz: NDArray[np.float32], weight: NDArray[np.float32], voxel: float) -> tuple[Array, NDArray[np.int64]]:
    """Weighted means (P, 3) of the points (V, 3) in each voxel, and the number (V,) of the mean that each point went into."""
    if len(xyz) == 0:
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    cells = np.floor(xyz.astype(np.float64) / voxel).astype(np.int64)
    number = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    weights = weight.astype(np.float64)
    total = np.bincount(number, weights)
    means = [np.bincount(number, weights * xyz[:, axis]) / total for axis in range(3)]
    return np.column_stack(means), number


def _mean_errors(number: NDArray[np.int64], error: Array, points: int) -> Array:
    count = np.bincount(number, minlength=points)
    total = np.bincount(number, error, minlength=points)
    return np.where(count > 0, total / np.maximum(count, 1), -1.0)


def _with_points(views: list[View], seen: _Seen, number: NDArray[np.int64]) -> Iterator[View]:
    starts = np.searchsorted(seen.view, np.arange(len(views) + 1))
    for index, view in enumerate(views):
        mine = slice(starts[index], starts[index + 1])
        point = np.full(len(view.keypoints), -1, dtype=np.int64)
        point[seen.row[mine]] = number[mine]
        yield replace(view, point=once(point))
