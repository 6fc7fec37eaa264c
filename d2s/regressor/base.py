"""What localization needs of a trained network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from d2s.features.base import LocalFeatures
from d2s.geometry.pose_field import PoseField
from d2s.regressor.landmark_map import LandmarkMap
from d2s.regressor.views import Views

EXIF_FOCAL, CAMERA_GAIN = "exif_focal", "camera_gain"


@dataclass(frozen=True)
class ModelInfo:
    """What `model.json` says beside the network itself.

    `features`: settings of the extractor that the network was trained with (`d2s.features.table.extractor_from_settings` rebuilds it).
    `reliability_threshold`: keypoints with a reliability above it go to PnP. `max_error`: RANSAC inlier threshold in pixels of the
    original image. `cameras`: the camera strings of the mapping images. `bounds`: (2, 3) minimum and maximum of the mapped points.
    `pose_field`: from the map's frame to that of the given poses, where the map was made at refined ones; in a file of its own.
    `views`: the mapping images of a model with landmarks, in a file of its own; None in models of earlier versions.
    `trust`: what the validation images say of poses here (`d2s.localization.trust.Calibration`); empty where nothing was measured.
    `extra[CAMERA_GAIN]`: how well the cameras fit the mapping images, see `d2s.localization.misfit.gain`.
    `extra[EXIF_FOCAL]`: camera string -> focal length in pixels in the EXIF data of its photos, of the cameras whose photos have one.
    """

    dataset: str
    scene: str
    units: str
    features: dict[str, Any]
    num_keypoints: int
    reliability_threshold: float = 0.5
    max_error: float = 12.0
    cameras: tuple[str, ...] = ()
    bounds: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    train_seconds: float = 0.0
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    pose_field: PoseField | None = field(default=None, repr=False, compare=False)
    views: Views | None = field(default=None, repr=False, compare=False)
    trust: dict[str, Any] = field(default_factory=dict)


class SceneRegressor(Protocol):
    """A network that knows one place."""

    info: ModelInfo

    def predict(self, features: LocalFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scene coordinates (N, 3) in the scene's unit and reliabilities (N,) in [0, 1] of the features of one image."""
        ...


@runtime_checkable
class HasLandmarks(Protocol):
    """A network that may know more landmarks than it compares every keypoint with."""

    def landmark_map(self) -> LandmarkMap | None:
        """Landmarks to look for where a first pose predicts them; None for a network without such."""
        ...
