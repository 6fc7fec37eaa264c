"""A wall with a texture, photographed by cameras with a crooked lens: every pixel's scene point is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.features.base import settings_hash
from d2s.features.table import make_extractor
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, unproject
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage

CAMERA = make_camera("OPENCV", 320, 240, [260, 265, 163, 117, -0.1, 0.02, 0.003, -0.002])
COUNT = 5


def make_wall_scene(folder: Path) -> Path:
    """A preprocessed scene: 4 training images with labels for two thirds of their SIFT keypoints, and one test image."""
    images = tuple(SceneImage(f"wall/{i}.png", 1, cam_from_world(i), "test" if i == COUNT - 1 else "train") for i in range(COUNT))
    extractor = make_extractor("sift", 300)
    settings = extractor.settings()
    kind = {"name": "sift", "settings": settings, "settings_hash": settings_hash(settings)}
    scene = Scene("made", "wall", folder / "photos", {1: CAMERA}, images, features=kind)
    scene.save(folder)
    found = {}
    for index, image in enumerate(images):
        path = scene.path(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = texture(index)
        cv2.imwrite(str(path), photo[..., ::-1])
        found[image.name] = extractor.extract([photo])[0]
    writer = FeatureWriter(folder / "features.h5", settings)
    writer.write(list(found.items())[:-1])
    writer.finish(list(found)[:-1])
    write_labels(folder / "labels.h5", [(image.name, labels_of(image, found[image.name].keypoints)) for image in images[:-1]])
    return folder


def cam_from_world(index: int) -> np.ndarray:
    return pose.from_qvec_tvec([1, 0.05 * index, -0.1, 0.02 * index], [0.3 * index, -0.2, 0.5])


def texture(index: int) -> np.ndarray:
    """Blobs of every size in every colour."""
    random = np.random.default_rng(index)
    photo = np.full((240, 320, 3), 110, np.uint8)
    for _ in range(260):
        center, radius = tuple(int(v) for v in random.integers(0, [320, 240])), int(random.integers(2, 14))
        cv2.circle(photo, center, radius, [int(v) for v in random.integers(0, 255, 3)], -1, cv2.LINE_AA)
    return photo


def labels_of(image: SceneImage, keypoints: np.ndarray) -> Labels:
    """Points on each keypoint's ray, 3 m away."""
    rays = np.column_stack([unproject(CAMERA, keypoints), np.ones(len(keypoints))]) * 3.0
    valid = np.arange(len(keypoints)) % 3 > 0
    xyz = np.where(valid[:, None], pose.transform(pose.inverse(image.cam_from_world), rays), 0)
    return Labels(xyz.astype(np.float32), valid, np.full(len(xyz), 4, np.int32), np.full(len(xyz), 0.3, np.float32))


@pytest.fixture(scope="session")
def wall(tmp_path_factory) -> Path:
    """The scene, which tests may read but not change."""
    return make_wall_scene(tmp_path_factory.mktemp("wall") / "made" / "wall")


@pytest.fixture
def wall_copy(tmp_path) -> Path:
    """The scene, for a test of its own."""
    return make_wall_scene(tmp_path / "made" / "wall")
