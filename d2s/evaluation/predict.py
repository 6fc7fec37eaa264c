"""Localize the images of a scene and put on disk what came out; scoring is another step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pycolmap

from d2s.errors import InputError, MissingFileError
from d2s.evaluation.pose_files import PREDICTIONS, RESULTS, write_predictions, write_results
from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.features.upright import quarter_turns
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage

logger = logging.getLogger(__name__)

Locate = Callable[[SceneImage], LocalizationResult]
SECONDS_BETWEEN_LINES = 5.0


def live(localizer: Localizer, scene: Scene) -> Locate:
    """Localize from the image file, as a user would: the times include everything but reading the file.

    An image that cannot be read is a failed query with its reason; it must not end the evaluation of the others.
    """
    if not scene.image_dir.is_dir():
        raise MissingFileError(f"The scene's image folder {scene.image_dir} does not exist.", "Put it back, or run d2s preprocess again.")
    localizer.prepare()

    def locate(image: SceneImage) -> LocalizationResult:
        try:
            pixels = read_image(scene.path(image))
            return localizer.localize(pixels, scene.camera(image), turns=quarter_turns(scene.path(image)))
        except InputError as error:
            return failed(str(error))

    return locate


class LocalizesFeatures(Protocol):
    """Whatever finds a pose from features that are known already."""

    def localize_features(self, features: LocalFeatures, camera: pycolmap.Camera, /) -> LocalizationResult:
        """Pose of the image that they are of."""
        ...


def stored(localizer: LocalizesFeatures, scene: Scene, reader: FeatureReader) -> Locate:
    """Localize from the scene's feature file; an image that it lacks is a failed query."""

    def locate(image: SceneImage) -> LocalizationResult:
        if image.name not in reader:
            return failed(f"{reader.path} has no features of this image")
        return localizer.localize_features(reader.read(image.name), scene.camera(image))

    return locate


def failed(reason: str) -> LocalizationResult:
    """The result of an image that never reached the network."""
    nothing = np.zeros(0, dtype=bool)
    points = np.zeros((0, 3), np.float32)
    return LocalizationResult(False, None, reason, {}, points[:, :2], points, points[:, 0], nothing, nothing)


def predict(images: Sequence[SceneImage], locate: Locate) -> dict[str, LocalizationResult]:
    """Results by image name, in the order of the images, with a line of progress every few seconds."""
    results: dict[str, LocalizationResult] = {}
    said = time.perf_counter()
    for image in images:
        results[image.name] = locate(image)
        if time.perf_counter() - said > SECONDS_BETWEEN_LINES:
            said = time.perf_counter()
            localized = sum(result.success for result in results.values())
            logger.info("%d of %d images, %d localized", len(results), len(images), localized)
    _refuse_when_none_was_read(results)
    return results


def _refuse_when_none_was_read(results: dict[str, LocalizationResult]) -> None:
    """One unreadable image is a failed query; when all are, it is the folder or the camera that is wrong."""
    if results and not any(result.ms for result in results.values()):
        raise InputError(f"None of the {len(results)} images could be localized: {next(iter(results.values())).reason}")


def save(folder: Path, results: dict[str, LocalizationResult]) -> None:
    """Write `results.txt` (successes) and `predictions.jsonl` (all images)."""
    write_results(folder / RESULTS, {name: r.cam_from_world for name, r in results.items() if r.cam_from_world is not None})
    write_predictions(folder / PREDICTIONS, _lines(results))


def _lines(results: dict[str, LocalizationResult]) -> Iterable[dict[str, object]]:
    return (result.to_json(name) for name, result in results.items())
