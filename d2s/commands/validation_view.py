"""Keeping what a validation makes of one image, for people who watch the training."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.evaluation.pictures import draw_keypoints
from d2s.features.images import read_image
from d2s.geometry import pose
from d2s.localization.result import LocalizationResult
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.validation_view import ValidationView, spread

logger = logging.getLogger(__name__)

JPEG_QUALITY = 80


class ViewWriter:
    """Writes `path` for an image and its result; `mapped` (N, 3) are the points that the network learns."""

    def __init__(self, path: Path, scene: Scene, mapped: NDArray[np.float32]) -> None:
        self.path, self.scene = path, scene
        self._mapped = _without_stray(spread(mapped)) if len(mapped) else mapped

    def __call__(self, image: SceneImage, result: LocalizationResult) -> None:
        """Write. A view is for the eye: a disk that refuses it must not stop the training."""
        rows = spread(np.flatnonzero(result.used))
        view = ValidationView(
            image=image.name,
            unit="m" if self.scene.units == "metres" else "scene units",
            picture=_jpeg(draw_keypoints(self._pixels(image), result)),
            predicted=np.asarray(result.xyz[rows], np.float32),
            inlier=result.inliers[rows],
            mapped=self._mapped,
            centers=_centers(image, result),
            kept=result.kept,
            extracted=result.extracted,
        )
        try:
            view.save(self.path)
        except OSError as error:
            logger.warning("%s could not be written (%s).", self.path, error.strerror)

    def _pixels(self, image: SceneImage) -> NDArray[np.uint8]:
        """The photo, or darkness where it cannot be read: training needs features only."""
        try:
            return read_image(self.scene.path(image))
        except InputError:
            camera = self.scene.camera(image)
            return np.zeros((camera.height, camera.width, 3), np.uint8)


def _without_stray(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Points in the box that holds 98 % of them along each axis, and a tenth around it."""
    low, high = np.percentile(points, [1, 99], axis=0)
    margin = 0.1 * (high - low)
    return points[((points >= low - margin) & (points <= high + margin)).all(axis=1)]


def _centers(image: SceneImage, result: LocalizationResult) -> NDArray[np.float32]:
    """Where the camera is and where it was localized (2, 3); NaN for what is not known."""
    centers = np.full((2, 3), np.nan, np.float32)
    if image.cam_from_world is not None:
        centers[0] = pose.center(image.cam_from_world)
    if result.center is not None:
        centers[1] = result.center
    return centers


def _jpeg(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(data, np.uint8).ravel()
