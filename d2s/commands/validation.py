"""Validation while training: localize the scene's validation images from their stored features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import TrainedModel
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import FEATURES
from d2s.training.networks import Network
from d2s.training.trainer import Validation

MAX_IMAGES = 60
"""Validation images used at each validation, spread evenly: a few seconds on two cores."""


WORST = 1e9
"""What an infinite median counts as in a score, which is stored as JSON."""


Watch = Callable[[SceneImage, LocalizationResult], None]


def make_validation(folder: Path, scene: Scene, info: ModelInfo, watch: Watch | None = None) -> Validation | None:
    """A function from network to numbers, or None when the scene has no validation images; `watch` is shown the one in the middle."""
    images = [image for image in scene.split("val") if image.cam_from_world is not None]
    if not images:
        return None
    images = images[:: max(1, -(-len(images) // MAX_IMAGES))]
    with FeatureReader(folder / FEATURES) as reader:
        features = [reader.read(image.name) for image in images]
    tolerance, name, unit = _tolerance(scene)

    def validate(network: Network) -> dict[str, Any]:
        device = next(network.parameters()).device
        localizer = Localizer(TrainedModel(network, info, device), min_confidence=0.0)
        results = [localizer.localize_features(f, scene.camera(image)) for image, f in zip(images, features, strict=True)]
        if watch is not None:
            watch(images[len(images) // 2], results[len(images) // 2])
        errors = np.array(
            [
                pose.pose_error(result.cam_from_world, image.cam_from_world) if result.success else (np.inf, 180.0)  # type: ignore[arg-type]
                for image, result in zip(images, results, strict=True)
            ]
        )
        recall = float(((errors[:, 0] <= tolerance) & (errors[:, 1] <= 5)).mean())
        median_t, median_r = _medians(errors)
        return {
            "score": [recall, -WORST if median_t is None else -median_t], "median_t": median_t, "median_r_deg": median_r, "unit": unit,
            "recall": recall, "recall_name": name, "n_failed": int(np.isinf(errors[:, 0]).sum()), "n": len(images),
        }  # fmt: skip

    return validate


def _medians(errors: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Median distance and angle of errors (N, 2), where failures are infinite; None for an infinite median, which JSON cannot hold."""
    median_t, median_r = np.median(errors, axis=0).tolist()
    return (median_t, median_r) if np.isfinite(median_t) else (None, None)


def _tolerance(scene: Scene) -> tuple[float, str, str]:
    """Distance that counts as localized, its name, and the name of the unit: 5 cm, or 1 % of the camera path's extent without a scale."""
    if scene.units == "metres":
        return 0.05, "5 cm/5 deg", "m"
    centers = pose.center(np.stack([image.cam_from_world for image in scene.images if image.cam_from_world is not None]))
    return 0.01 * float(np.linalg.norm(np.ptp(centers, axis=0))), "1 % of the scene/5 deg", "scene units"
