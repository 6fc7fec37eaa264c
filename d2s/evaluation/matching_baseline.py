"""What a map has to beat: matching a query against the mapping images, with the same features, labels and pose estimator.

It is what hloc does: the mapping images that look most like the query (VLAD of the local features), mutual nearest neighbours with each,
lifted to the SfM points, PnP. It keeps all descriptors of all mapping images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from d2s.errors import InputError
from d2s.evaluation.predict import predict, stored
from d2s.features.base import LocalFeatures
from d2s.features.extraction import extract_all
from d2s.features.images import read_image
from d2s.features.table import extractor_from_settings, is_foreign
from d2s.localization.base import PoseEstimate, PoseEstimator
from d2s.localization.result import LocalizationResult
from d2s.localization.table import make_estimator
from d2s.matching.retrieval import learn_codebook
from d2s.matching.table import Matcher
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import FEATURES, TrainingSet, load_training_set

logger = logging.getLogger(__name__)

NEIGHBOURS = 10
MAX_ERROR = 12.0
Correspondences = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Rows (K,) of a query's features and the scene points (K, 3) that they should show; a row may come with several points."""


class MatchingLocalizer:
    """Localizes against the images of a training set. `neighbours`: how many of them each query is matched with. `matcher`: what matches it
    with one of them, LightGlue for instance (None: mutual nearest neighbours, without a ratio).
    """

    def __init__(
        self, data: TrainingSet, estimator: PoseEstimator | None = None, neighbours: int = NEIGHBOURS, matcher: Matcher | None = None
    ) -> None:
        self._data, self._neighbours, self._matcher = data, neighbours, matcher
        self.estimator = estimator or make_estimator(max_error=MAX_ERROR)
        self._mapped = [unit(data.descriptors[i][data.mask[i]]) for i in range(len(data))]
        self._codebook = learn_codebook([d.numpy() for d in self._mapped])
        self._index = np.stack([self._codebook.describe(d.numpy()) for d in self._mapped])
        self._xyz = points_of(data)

    @property
    def map_bytes(self) -> int:
        """What this keeps on disk, see `matching_bytes`."""
        return matching_bytes(self._data)

    def correspond(self, features: LocalFeatures) -> Correspondences:
        """Retrieval, matching, and lifting to the SfM points."""
        query = unit(features.descriptors)
        alike = np.argsort(-(self._index @ self._codebook.describe(query.numpy())), kind="stable")[: self._neighbours]
        pairs: set[tuple[int, int]] = set()
        for image in alike.tolist():
            rows, columns = self._match(features, query, image)
            known = self._data.valid[image][columns]
            pairs |= set(zip(rows[known].tolist(), self._data.point[image][columns[known]].tolist(), strict=True))
        found = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
        return found[:, 0], self._xyz[found[:, 1]]

    def _match(self, features: LocalFeatures, query: Tensor, image: int) -> tuple[Tensor, Tensor]:
        if self._matcher is None:
            return mutual(query @ self._mapped[image].T)
        found = torch.from_numpy(self._matcher(features, self._features(image)).astype(np.int64))
        return found[:, 0], found[:, 1]

    def _features(self, image: int) -> LocalFeatures:
        """What is stored of a mapping image; its keypoints' scores are not, and no matcher asks for them."""
        keypoints = self._data.keypoints[image][self._data.mask[image]].numpy()
        camera = self._data.cameras[int(self._data.camera[image])]
        scores = np.ones(len(keypoints), np.float32)
        return LocalFeatures(keypoints, scores, self._mapped[image].numpy(), (camera.width, camera.height))

    def localize_features(self, features: LocalFeatures, camera: pycolmap.Camera) -> LocalizationResult:
        """Pose of an image with known features; its times are those of matching ("regressor", the map's part) and of PnP."""
        start = time.perf_counter()
        rows, xyz = self.correspond(features) if len(features) else (np.zeros(0, np.int64), np.zeros((0, 3)))
        matched = time.perf_counter()
        found = self.estimator.estimate(features.keypoints[rows], xyz, camera)
        end = time.perf_counter()
        ms = {"regressor": 1e3 * (matched - start), "pnp": 1e3 * (end - matched), "total": 1e3 * (end - start)}
        return _result(found, features, rows, xyz, ms)


def _result(
    found: PoseEstimate, features: LocalFeatures, rows: NDArray[np.int64], xyz: NDArray[np.float64], ms: dict[str, float]
) -> LocalizationResult:
    points, used, inliers = np.zeros((len(features), 3), np.float32), np.zeros(len(features), bool), np.zeros(len(features), bool)
    points[rows], used[rows] = xyz, True
    points[rows[found.inliers]], inliers[rows[found.inliers]] = xyz[found.inliers], True  # of several points, one that agrees
    reliability = used.astype(np.float32)
    return LocalizationResult(
        found.success, found.cam_from_world, found.reason, ms, features.keypoints, points, reliability, used, inliers, found.cam_from_world
    )


def matching_results(
    folder: Path,
    scene: Scene,
    images: Sequence[SceneImage],
    cache: Path,
    estimator: PoseEstimator | None = None,
    weights: Path | None = None,
) -> tuple[dict[str, LocalizationResult], int]:
    """Results by image name, and the bytes of the map, for images of a preprocessed scene.

    The queries' features are kept in `cache`; where only another program can extract them, those of the scene's feature file are used.
    An image that cannot be read is a failed query. `weights`: file of the feature network, where it is not found by itself.
    """
    localizer = MatchingLocalizer(load_training_set(folder, scene), estimator)
    if is_foreign(scene.features["settings"]):
        cache = folder / FEATURES
    else:
        extract_queries(scene, [image for image in images if _is_readable(scene.path(image))], cache, weights)
    with FeatureReader(cache) as queries:
        return predict(images, stored(localizer, scene, queries)), localizer.map_bytes


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
        return True
    except InputError:
        return False


def extract_queries(scene: Scene, images: Sequence[SceneImage], cache: Path, weights: Path | None = None) -> None:
    """Features of the images, with the settings of the scene, unless `cache` is there."""
    if cache.is_file():
        return
    settings = scene.features["settings"]
    writer = FeatureWriter(cache, settings)
    writer.write(extract_all(extractor_from_settings(settings, weights=weights), [(image.name, scene.path(image)) for image in images]))
    writer.finish([image.name for image in images])


def matching_bytes(data: TrainingSet) -> int:
    """What matching keeps on disk: descriptors in half precision, keypoints, the point of every keypoint, and the points."""
    return int(data.mask.sum()) * (2 * data.descriptor_dim + 8 + 4) + 12 * data.num_points


def points_of(data: TrainingSet) -> NDArray[np.float64]:
    """Coordinates (P, 3) of the SfM points."""
    xyz = np.zeros((data.num_points, 3))
    xyz[data.point[data.valid].numpy()] = data.xyz[data.valid].numpy()
    return xyz


def unit(descriptors: Any) -> Tensor:
    """Unit descriptors (N, D) in single precision."""
    return functional.normalize(torch.as_tensor(np.asarray(descriptors, dtype=np.float32)), dim=-1)


def mutual(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (K,), (K,) that are each other's best."""
    best = similarity.argmax(dim=1)
    back = similarity.T.contiguous().argmax(dim=1)
    rows = torch.nonzero(back[best] == torch.arange(len(best))).ravel()
    return rows, best[rows]
