"""A small place with everything that `d2s eval` and `d2s localize` touch, except a trained network: its descriptors are the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera, unproject
from d2s.regressor.base import ModelInfo
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.manifest import Scene, SceneImage

CAMERA = parse_camera("SIMPLE_RADIAL 160 120 130 80 60 -0.05")
SETTINGS = {"name": "made", "num_keypoints": 150}
SPLITS = ["train"] * 12 + ["val"] * 4 + ["test"] * 8
BAD_IMAGE = SPLITS.index("test") + 1  # nothing in it is right


def cam_from_world(index: int) -> np.ndarray:
    """Cameras on an arc of 4 m radius around (0, 0, 6), looking at it."""
    angle = 0.05 * index
    rotation = cv2.Rodrigues(np.array([0.0, angle, 0.0]))[0]
    return np.column_stack([rotation, [0.0, 0.02 * index, 6.0]]) @ pose.homogeneous(np.column_stack([np.eye(3), [0.0, 0.0, -6.0]]))


def make_features(index: int) -> LocalFeatures:
    """Descriptors: scene coordinates (3) and reliability (1) of each keypoint; every fourth keypoint is wrong and says so."""
    random = np.random.default_rng(index)
    count = SETTINGS["num_keypoints"]
    keypoints = random.uniform([0, 0], [159, 119], (count, 2)).astype(np.float32)
    depth = random.uniform(3, 8, (count, 1))
    points = np.column_stack([unproject(CAMERA, keypoints), np.ones(count)]) * depth
    xyz = pose.transform(pose.inverse(cam_from_world(index)), points) + 0.01 * random.normal(size=(count, 3))
    wrong = np.arange(count) % 4 == 0 if index != BAD_IMAGE else np.ones(count, dtype=bool)
    xyz[wrong] = random.uniform(-8, 8, (int(wrong.sum()), 3))
    reliability = np.where(wrong & (index != BAD_IMAGE), 0.2, 0.9)
    return LocalFeatures(
        keypoints, np.linspace(1, 0.1, count, dtype=np.float32), np.column_stack([xyz, reliability]).astype(np.float32), (160, 120)
    )


class MadeExtractor:
    """Knows the image by its brightness."""

    name, descriptor_dim = "made", 4

    def settings(self):
        return SETTINGS

    def extract(self, images):
        return [make_features(round(float(image.mean()) / 8)) for image in images]


@dataclass
class MadeRegressor:
    """Reads the answers from the descriptors; `spoilt` metres are added to them, as an early checkpoint would."""

    info: ModelInfo
    spoilt: float = 0.0

    def predict(self, features):
        noise = np.random.default_rng(0).normal(size=(len(features), 3))
        return (features.descriptors[:, :3] + self.spoilt * noise).astype(np.float32), features.descriptors[:, 3].astype(np.float32)


@dataclass
class Place:
    """Paths of the place, and a way to change its scene.json."""

    root: Path
    info: ModelInfo

    @property
    def scene_dir(self) -> Path:
        return self.root / "dataset" / "made" / "arc"

    @property
    def run_dir(self) -> Path:
        return self.root / "logs" / "run"

    def change_scene(self, **values) -> None:
        replace(Scene.load(self.scene_dir), **values).save(self.scene_dir)

    def image(self, index: int) -> Path:
        return self.root / "images" / f"{index:02d}.png"

    def arguments(self, *more: str) -> list[str]:
        where = ["--data_dir", str(self.root / "dataset"), "--log_dir", str(self.root / "logs")]
        return ["--dataset", "made", "--scene", "arc", *where, "--name", "run", "--cudaid", "-1", *more]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The place on disk, with a run of three checkpoints (epochs 1, 2, 3: the second is the best) and a model."""
    info = ModelInfo("made", "arc", "metres", SETTINGS, num_keypoints=150, cameras=(format_camera(CAMERA),), train_seconds=12.0, seed=3)
    made = Place(tmp_path, info)
    _write_images(tmp_path / "images")
    _write_scene(made)
    for folder, text in {
        "model": "0",
        "checkpoints/epoch_001": "0.3",
        "checkpoints/epoch_002": "0.01",
        "checkpoints/epoch_003": "0.1",
    }.items():
        (made.run_dir / folder).mkdir(parents=True)
        (made.run_dir / folder / "model.safetensors").write_text(text)
        (made.run_dir / folder / "model.json").write_text("{}")

    def load_model(path, device="cpu"):
        return MadeRegressor(made.info, float((Path(path) / "model.safetensors").read_text()))

    # The command first: imported after the other patch, it would keep what it found there.
    monkeypatch.setattr("d2s.commands.eval.load_model", load_model)
    monkeypatch.setattr("d2s.regressor.model_files.load_model", load_model)
    monkeypatch.setattr("d2s.features.table.extractor_from_settings", lambda settings, device, weights: MadeExtractor())
    return made


def _write_images(folder: Path) -> None:
    folder.mkdir()
    for index in range(len(SPLITS)):
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((120, 160, 3), 8 * index, np.uint8))


def _write_scene(place: Place) -> None:
    images = tuple(SceneImage(f"{i:02d}.png", 1, cam_from_world(i), split) for i, split in enumerate(SPLITS))
    Scene("made", "arc", place.root / "images", {1: CAMERA}, images).save(place.scene_dir)
    writer = FeatureWriter(place.scene_dir / "features.h5", SETTINGS)
    writer.write((image.name, make_features(i)) for i, image in enumerate(images) if image.split != "test")
    writer.finish(image.name for image in images if image.split != "test")
