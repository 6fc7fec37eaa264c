"""What a map has to beat, on the same features, labels and queries: matching against images, and landmarks without any learning.

`matching` is `d2s.evaluation.matching_baseline`: what hloc does. `landmarks` is one mean descriptor per SfM point, as many as fit into so
many MB, mutual nearest neighbours of the query against all of them, PnP. All share our pose estimator. Times are matching and PnP, features
excluded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from torch.nn import functional

from d2s.evaluation.matching_baseline import MatchingLocalizer, extract_queries, matching_bytes, mutual, points_of, unit
from d2s.evaluation.score import scene_extent, score_images, summarize
from d2s.features.base import LocalFeatures
from d2s.localization.base import PoseEstimate
from d2s.localization.localizer import Localizer
from d2s.localization.table import make_estimator
from d2s.regressor.landmarks import select_landmarks
from d2s.regressor.model_files import model_bytes
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene
from d2s.training.data import TrainingSet, load_training_set

MAX_ERROR = 12.0
LANDMARK_MB = (1.3, 5.0, 10.0)
Correspond = Callable[[LocalFeatures], tuple[NDArray[np.int64], NDArray[np.float64]]]
"""Rows (K,) of a query's features and the scene points (K, 3) that they should show."""


def measure(folder: Path, cache: Path) -> dict[str, Any]:
    """Metrics of every baseline on the test images of a preprocessed scene; the queries' features are kept in `cache`."""
    scene = Scene.load(folder)
    data = load_training_set(folder, scene)
    images = [image for image in scene.split("test") if image.cam_from_world is not None]
    extract_queries(scene, scene.split("test"), cache)
    rows: dict[str, Any] = {}
    with FeatureReader(cache) as queries:
        matching = (lambda: MatchingLocalizer(data).correspond), matching_bytes(data)
        methods: dict[str, tuple[Callable[[], Correspond], int]] = {"matching": matching}
        for megabytes in LANDMARK_MB:
            count = int(megabytes * 1e6 / (2 * data.descriptor_dim + 12))
            size = min(count, data.num_points) * (2 * data.descriptor_dim + 12)
            methods[f"landmarks {megabytes:g} MB"] = (lambda count=count: landmarks(data, count), size)  # type: ignore[misc]
        for name, (make, size) in methods.items():
            correspond = make()
            found = {image.name: localize(queries.read(image.name), scene.camera(image), correspond) for image in images}
            records = {name: {"ms": {"total": ms}, "inliers": estimate.num_inliers} for name, (estimate, ms) in found.items()}
            rows[name] = _scored(scene, {name: estimate.cam_from_world for name, (estimate, _) in found.items()}, records, size)
    return rows


def measure_model(folder: Path, cache: Path, model: Path) -> dict[str, Any]:
    """Metrics of a trained model on the test images of its scene, from the features in `cache`."""
    scene, localizer = Scene.load(folder), Localizer.load(model)
    images = [image for image in scene.split("test") if image.cam_from_world is not None]
    extract_queries(scene, scene.split("test"), cache)
    with FeatureReader(cache) as queries:
        found = {image.name: localizer.localize_features(queries.read(image.name), scene.camera(image)) for image in images}
    records = {name: {"ms": result.ms, "inliers": result.num_inliers} for name, result in found.items()}
    return _scored(scene, {name: result.cam_from_world for name, result in found.items()}, records, model_bytes(model))


def _scored(
    scene: Scene, poses: Mapping[str, NDArray[np.float64] | None], records: Mapping[str, Mapping[str, Any]], size: int
) -> dict[str, Any]:
    found = {name: cam_from_world for name, cam_from_world in poses.items() if cam_from_world is not None}
    images = [image for image in scene.split("test") if image.name in poses]
    return {**summarize(score_images(images, found, records), scene.units, scene_extent(scene)), "map_bytes": size}


def localize(features: LocalFeatures, camera: pycolmap.Camera, correspond: Correspond, seed: int = 0) -> tuple[PoseEstimate, float]:
    """Pose of a query, and milliseconds of matching and PnP."""
    start = time.perf_counter()
    rows, xyz = correspond(features)
    estimate = make_estimator(max_error=MAX_ERROR, seed=seed).estimate(features.keypoints[rows], xyz, camera)
    return estimate, 1e3 * (time.perf_counter() - start)


def landmarks(data: TrainingSet, count: int) -> Correspond:
    """The `count` points with the longest tracks that cover all images, one mean descriptor each."""
    image, row = torch.nonzero(data.valid, as_tuple=True)
    chosen = torch.from_numpy(select_landmarks(image.numpy(), data.point[image, row].numpy(), len(data), data.num_points, count))
    place = torch.full((data.num_points,), -1, dtype=torch.long)
    place[chosen] = torch.arange(len(chosen))
    total = torch.zeros(len(chosen), data.descriptor_dim)
    for i in range(len(data)):
        landmark = torch.where(data.valid[i], place[data.point[i].clamp(min=0)], -1)
        total.index_add_(0, landmark[landmark >= 0], functional.normalize(data.descriptors[i, landmark >= 0].float(), dim=-1))
    mean, xyz = functional.normalize(total, dim=-1), points_of(data)[chosen.numpy()]

    def correspond(features: LocalFeatures) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        rows, columns = mutual(unit(features.descriptors) @ mean.T)
        return rows.numpy(), xyz[columns.numpy()]

    return correspond
