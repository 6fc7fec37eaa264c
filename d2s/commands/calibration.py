"""The record of trust that a training ends with: what the validation images say of the poses that the new model finds."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from d2s.evaluation.reliability import right_within
from d2s.evaluation.score import scene_extent
from d2s.localization.calibration import Observation, calibrate
from d2s.localization.covariance import pose_difference
from d2s.localization.localizer import Localizer
from d2s.localization.trust import Calibration
from d2s.regressor.base import SceneRegressor
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import FEATURES

logger = logging.getLogger(__name__)
MAX_IMAGES = 60


def measure_trust(folder: Path, scene: Scene, model: SceneRegressor) -> Calibration:
    """The record of a model of a preprocessed scene; without validation images, only its tolerance."""
    tolerance = right_within(scene.units, scene_extent(scene))
    images = [image for image in scene.split("val") if image.cam_from_world is not None]
    images = images[:: max(1, -(-len(images) // MAX_IMAGES))]
    localizer = Localizer(model, min_confidence=0.0)
    with FeatureReader(folder / FEATURES) as reader:
        observations = [_observation(localizer, scene, image, reader) for image in images]
    record = calibrate(observations, *tolerance)
    logger.debug("Trust from %d validation images: %s.", len(images), record)
    return record


def _observation(localizer: Localizer, scene: Scene, image: SceneImage, reader: FeatureReader) -> Observation:
    camera = scene.camera(image)
    result = localizer.localize_features(reader.read(image.name), camera)
    if result.cam_from_world is None or image.cam_from_world is None:
        return Observation(-math.inf, None, None)
    weighed = localizer.judge.weigh(result, camera, localizer.estimator.max_error)
    difference = pose_difference(result.cam_from_world, image.cam_from_world)
    return Observation(weighed.score, difference, weighed.known_covariance, weighed.residual)
