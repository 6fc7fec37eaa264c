"""Given or refined map: what decides is which answers better, in the frame of the given poses, where nothing was mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2s.commands.map_choice import CLEARLY, FEWEST, IMAGES_PER_STRETCH, Localized, MapChoice, choice_text, choose_map
from d2s.config import load_recipe
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.pose_field import motion
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage
from d2s.scene.refined_map import RefinedMap, refined_folder

CAMERA = parse_camera("SIMPLE_PINHOLE 640 480 500 320 240")
IMAGES, POINTS = 40, 200
RECIPE = load_recipe(None, ["model.blocks=1", "model.width=16", "model.heads=2"])


def make_place(folder: Path, difference: Callable[[int], np.ndarray], count: int = IMAGES) -> tuple[Scene, RefinedMap]:
    """A place as preprocessed, along a wall. The images agree at its refined poses; `difference(i)` (6,) leads to the given ones."""
    random = np.random.default_rng(0)
    cloud = random.uniform([-4, -1.5, 3], [4, 1.5, 4], (POINTS, 3)).astype(np.float32)
    look = random.normal(size=(POINTS, 32)).astype(np.float32)
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    poses = {f"{i:03d}.jpg": motion(np.array([0.1 * np.sin(i), 0, 0, 2 - 4 * i / count, 0.1 * np.cos(i), 0])) for i in range(count)}
    images = tuple(SceneImage(name, 1, pose.compose(motion(difference(i)), poses[name]), "train") for i, name in enumerate(poses))
    features, labels = [], []
    for name, cam_from_map in poses.items():
        pixels, _ = project(CAMERA, pose.transform(cam_from_map, cloud))
        seen = np.flatnonzero((np.abs(pixels - [320, 240]) < [320, 240]).all(axis=1))
        keypoints = (pixels[seen] + random.normal(0, 0.3, (len(seen), 2))).astype(np.float32)
        features.append((name, LocalFeatures(keypoints, np.ones(len(seen), np.float32), look[seen], (640, 480))))
        counts = np.full(len(seen), 9, np.int32)
        labels.append((name, Labels(cloud[seen], np.ones(len(seen), bool), counts, np.zeros(len(seen), np.float32))))
    writer = FeatureWriter(folder / "features.h5", {"name": "made"})
    writer.write(features)
    writer.finish(list(poses))
    refined_folder(folder).mkdir()
    for where in (folder, refined_folder(folder)):  # coordinates only say which rows show the same point: both maps are made anew
        write_labels(where / "labels.h5", labels)
    return Scene("made", "wall", folder, {1: CAMERA}, images, features={"settings": {"name": "made"}}), RefinedMap(poses, 2.0, 1.0)


def drift_and_shaking(i: int) -> np.ndarray:
    """Drift along the path, and from image to image a little up or down."""
    return np.sin(0.1 * i) * np.array([0, 0.02, 0, 0.05, 0, 0.05]) + (i % 2 - 0.5) * np.array([0, 0, 0, 0, 0.03, 0])


def test_refined_poses_are_taken_where_they_answer_better(tmp_path):
    scene, refined = make_place(tmp_path, drift_and_shaking)
    choice = choose_map(tmp_path, scene, RECIPE, refined)
    assert choice is not None and choice.takes_refined
    assert choice.images == 4 * min(IMAGES_PER_STRETCH, IMAGES // 10)
    assert choice.refined.median_t < choice.given.median_t
    assert choose_map(tmp_path, scene, replace(RECIPE, model=replace(RECIPE.model, model=2)), refined) == choice  # of any model, and again


def test_the_given_poses_are_kept_where_both_answer_alike(tmp_path):
    scene, refined = make_place(tmp_path, lambda i: np.zeros(6))
    choice = choose_map(tmp_path, scene, RECIPE, refined)
    assert choice is not None and not choice.takes_refined
    assert choice.given == choice.refined and choice.given.recall_5cm == 1


def test_too_few_images_tell_nothing(tmp_path):
    scene, refined = make_place(tmp_path, drift_and_shaking, FEWEST - 1)
    assert choose_map(tmp_path, scene, RECIPE, refined) is None
    assert str(FEWEST) in choice_text(None, scene.units)


@pytest.mark.parametrize(
    ("ends", "middle", "taken"),
    [(0.3, 0.3, True), (-0.01, 0.5, False), (0.5, -0.01, False), (0.0, 0.0, False), (0.8 * CLEARLY, 0.8 * CLEARLY, False)],
)
def test_refined_poses_must_be_clearly_better_and_nowhere_worse(ends, middle, taken):
    given = Localized(0.5, 0.5, 0.5, None)
    choice = MapChoice(given, Localized(0.5 + ends, 0.5 + middle, 0.75, 0.012), 48)
    assert choice.takes_refined == taken
    text = choice_text(choice, "metres")
    assert "50 % within 5 cm, median none at the given poses, 75 % within 5 cm, median 1.2 cm at refined" in text
    assert f"the map at {'refined' if taken else 'given'} poses is learnt" in text
    assert "1 % of the extent, median 0.012 units" in choice_text(choice, "arbitrary")
