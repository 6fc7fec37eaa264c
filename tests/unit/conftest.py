"""A hall of two storeys that look alike, walked through in a straight line: what priors, sequences and streams are tested on."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.localization.localizer import Localizer
from d2s.localization.table import make_estimator
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmark_map import LandmarkMap

CAMERA = "SIMPLE_PINHOLE 160 120 130 80 60"
STOREY = np.array([0.0, 20.0, 0.0])
COMMON, OWN, CHANNELS = 900, 150, 32
FRAMES = 24


@dataclass
class Hall:
    """The lower storey's landmarks, the upper one's, which look the same but for a few, and a camera that walks through the lower one.

    The network takes the images `misled` for the upper storey and sees nothing it knows in the images `blind`. In the images `empty`
    nothing is to be seen at all. `searches` counts what the network was asked.
    """

    misled: set[int] = field(default_factory=set)
    blind: set[int] = field(default_factory=set)
    empty: set[int] = field(default_factory=set)
    searches: int = 0
    camera = CAMERA

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        count = COMMON + OWN
        lower = np.column_stack([random.uniform(-6, 14, count), random.uniform(-3, 3, count), random.uniform(4, 8, count)])
        look, other = (random.standard_normal((count, CHANNELS)).astype(np.float32) for _ in range(2))
        other[:COMMON] = look[:COMMON] + 0.05 * other[:COMMON]
        self.xyz = np.concatenate([lower, lower + STOREY])
        self.look = np.concatenate([look, other])
        self.look /= np.linalg.norm(self.look, axis=1, keepdims=True)
        self.info = ModelInfo("made", "hall", "metres", {"name": "made"}, num_keypoints=400, max_error=6.0, cameras=(CAMERA,))

    def cam_from_world(self, index: float) -> np.ndarray:
        """The camera walks along x and turns a little."""
        rotation = cv2.Rodrigues(np.array([0.0, 0.02 * index, 0.0]))[0]
        return np.column_stack([rotation, rotation @ [-0.3 * index, 0.05 * index, 0.0]])

    def features(self, index: int) -> LocalFeatures:
        """What image `index` shows of the lower storey."""
        random = np.random.default_rng(index)
        pixels, _ = project(parse_camera(CAMERA), pose.transform(self.cam_from_world(index), self.xyz[: COMMON + OWN]))
        with np.errstate(invalid="ignore"):
            seen = np.flatnonzero((pixels > 0).all(axis=1) & (pixels < [159, 119]).all(axis=1))
        seen = seen[:0] if index in self.empty else seen
        keypoints = (pixels[seen] + 0.3 * random.standard_normal((len(seen), 2))).astype(np.float32)
        return LocalFeatures(keypoints, np.linspace(1, 0.1, len(seen), dtype=np.float32), self.look[seen], (160, 120))

    def image(self, index: int) -> np.ndarray:
        """Image `index` is gray; its brightness says which it is."""
        return np.full((120, 160, 3), 8 * index, np.uint8)

    def extract(self, images):
        return [resized(self.features(round(float(image.mean()) / 8)), image.shape[1], image.shape[0]) for image in images]

    def predict(self, features):
        self.searches += 1
        index = next((i for i in range(FRAMES) if np.array_equal(self.features(i).keypoints, features.keypoints)), -1)
        known = np.argmax(features.descriptors @ self.look[: COMMON + OWN].T, axis=1)
        xyz = self.xyz[known] + (STOREY if index in self.misled else 0)
        if index in self.blind:
            xyz = np.random.default_rng(9).uniform(-5, 5, xyz.shape)
        return xyz.astype(np.float32), np.where(known < COMMON, 0.9, 0.3).astype(np.float32)

    def landmark_map(self) -> LandmarkMap:
        return LandmarkMap(self.look, self.xyz, 0.8)

    def localizer(self, min_confidence: float | None = 0.0) -> Localizer:
        return Localizer(self, make_estimator("poselib", 6.0), self, min_confidence=min_confidence)

    def error(self, result, index: int) -> float:
        """Distance from the truth; infinite without a pose."""
        return pose.pose_error(result.cam_from_world, self.cam_from_world(index))[0] if result.success else np.inf


def resized(features: LocalFeatures, width: int, height: int) -> LocalFeatures:
    """The features of the image at another size."""
    if (width, height) == features.image_size:
        return features
    keypoints = (features.keypoints + 0.5) * np.array([width / 160, height / 120], np.float32) - 0.5
    return LocalFeatures(keypoints, features.scores, features.descriptors, (width, height))


@pytest.fixture
def hall() -> Hall:
    return Hall()
