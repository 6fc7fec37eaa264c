"""A small scene on disk: cameras of three kinds, images in sub-folders, points that several images show, and a model of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage

CAMERAS = {
    1: parse_camera("SIMPLE_RADIAL 200 150 160 101 74 -0.05"),
    4: parse_camera("PINHOLE 160 120 130 131 80 60"),
    7: parse_camera("OPENCV 200 150 150 151 99 76 0.02 -0.01 0.001 0.002"),
}
SETTINGS = {"name": "made", "num_keypoints": 60}
POINTS, EXTRA = 40, 20  # points of the scene; keypoints without one
COLORS = np.random.default_rng(9).integers(20, 235, (POINTS, 3)).astype(np.uint8)
DIM = 8


@dataclass
class Made:
    """The scene's folder and what is in it."""

    root: Path
    scene: Scene
    xyz: np.ndarray
    seen: dict[str, np.ndarray]

    @property
    def folder(self) -> Path:
        return self.root / "dataset" / "made" / "place"


def look() -> np.ndarray:
    """One unit descriptor (POINTS, DIM) per point."""
    d = np.random.default_rng(3).normal(size=(POINTS, DIM))
    return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def made(tmp_path) -> Made:
    """Nine images: six for mapping, one for validation, two queries, one more without a pose."""
    random = np.random.default_rng(0)
    xyz = random.uniform([-1.2, -0.8, 4], [1.2, 0.8, 6], (POINTS, 3)).astype(np.float32)
    splits = ["train"] * 6 + ["val"] + ["test"] * 3
    images, features, labels, seen = [], [], [], {}
    for index, split in enumerate(splits):
        camera_id = (1, 4, 7)[index % 3]
        name = f"seq {index % 2}/{index:02d}.png" if index == 5 else f"seq{index % 2}/{index:02d}.png"
        at = pose.from_qvec_tvec([1, *random.normal(0, 0.03, 3)], random.normal(0, 0.2, 3))
        images.append(SceneImage(name, camera_id, at if index < 9 else None, split))
        keypoints, point = _keypoints(camera_id, at, xyz, random)
        _paint(tmp_path / "images" / name, camera_id, keypoints, point)
        if split != "test":
            features.append((name, _features(keypoints, point, camera_id, random)))
        if split == "train":
            valid = point >= 0
            labels.append((name, _labels(xyz, point, valid)))
            seen[name] = point
    scene = Scene("made", "place", tmp_path / "images", CAMERAS, tuple(images), features={"name": "made", "settings": SETTINGS})
    folder = tmp_path / "dataset" / "made" / "place"
    scene.save(folder)
    writer = FeatureWriter(folder / "features.h5", SETTINGS)
    writer.write(features)
    writer.finish(name for name, _ in features)
    write_labels(folder / "labels.h5", labels)
    return Made(tmp_path, Scene.load(folder), xyz, seen)


def _keypoints(camera_id, at, xyz, random):
    """Projections of the points that lie in the image, in random order, and keypoints that show none."""
    camera = CAMERAS[camera_id]
    pixels, _ = project(camera, pose.transform(at, xyz))
    inside = np.flatnonzero(((pixels > 3) & (pixels < [camera.width - 4, camera.height - 4])).all(axis=1))
    point = random.permutation(np.concatenate([inside, np.full(EXTRA, -1)]))
    keypoints = np.where(point[:, None] >= 0, pixels[point], random.uniform(3, [camera.width - 4, camera.height - 4], (len(point), 2)))
    return keypoints.astype(np.float32), point


def _paint(path, camera_id, keypoints, point):
    """An image in which every point has its colour."""
    image = np.zeros((CAMERAS[camera_id].height, CAMERAS[camera_id].width, 3), np.uint8)
    for (x, y), p in zip(np.rint(keypoints).astype(int), point, strict=True):
        if p >= 0:
            image[y, x] = COLORS[p]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1])


def _features(keypoints, point, camera_id, random):
    descriptors = random.normal(size=(len(point), DIM))
    descriptors[point >= 0] = look()[point[point >= 0]]
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    size = (CAMERAS[camera_id].width, CAMERAS[camera_id].height)
    return LocalFeatures(keypoints, np.linspace(1, 0.1, len(point), dtype=np.float32), descriptors.astype(np.float32), size)


def _labels(xyz, point, valid):
    coordinates = np.where(valid[:, None], xyz[point], 0).astype(np.float32)
    return Labels(coordinates, valid, np.where(valid, 3, 0).astype(np.int32), np.where(valid, 0.25 * (point % 3), 0).astype(np.float32))
