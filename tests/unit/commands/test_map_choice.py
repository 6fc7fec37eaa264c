"""Given or refined map: what decides is which answers better, in the frame of the given poses, where nothing was mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from d2s.commands import train
from d2s.commands.map_choice import CLEARLY, FEWEST, Localized, MapChoice, choice_text, choose_map
from d2s.config import load_recipe
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.pose_field import motion
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage
from d2s.scene.refined_map import RefinedMap, refined_folder
from d2s.training.data import load_training_set
from d2s.training.run_dir import RunDir
from d2s.training.without_images import without_images

CAMERA = parse_camera("SIMPLE_PINHOLE 640 480 500 320 240")
IMAGES, POINTS = 50, 200
RECIPE = load_recipe(None, ["model.blocks=1", "model.width=16", "model.heads=2"])


def _split(i: int) -> str:
    return "val" if i % 10 == 6 else "train"


def make_place(folder: Path, difference: Callable[[int], np.ndarray], count: int = IMAGES) -> tuple[Scene, RefinedMap]:
    """A place as preprocessed, along a wall. The images agree at its refined poses; `difference(i)` (6,) leads to the given ones."""
    random = np.random.default_rng(0)
    cloud = random.uniform([-4, -1.5, 3], [4, 1.5, 4], (POINTS, 3)).astype(np.float32)
    look = random.normal(size=(POINTS, 32)).astype(np.float32)
    look /= np.linalg.norm(look, axis=1, keepdims=True)
    poses = {f"{i:03d}.jpg": motion(np.array([0.1 * np.sin(i), 0, 0, 2 - 4 * i / count, 0.1 * np.cos(i), 0])) for i in range(count)}
    images = tuple(SceneImage(name, 1, pose.compose(motion(difference(i)), poses[name]), _split(i)) for i, name in enumerate(poses))
    features, labels = [], []
    mapped = [image.name for image in images if image.split == "train"]
    for name, cam_from_map in poses.items():
        pixels, _ = project(CAMERA, pose.transform(cam_from_map, cloud))
        seen = np.flatnonzero((np.abs(pixels - [320, 240]) < [320, 240]).all(axis=1))
        keypoints = (pixels[seen] + random.normal(0, 0.3, (len(seen), 2))).astype(np.float32)
        features.append((name, LocalFeatures(keypoints, np.ones(len(seen), np.float32), look[seen], (640, 480))))
        if name not in mapped:
            continue
        counts = np.full(len(seen), 9, np.int32)
        labels.append((name, Labels(cloud[seen], np.ones(len(seen), bool), counts, np.zeros(len(seen), np.float32))))
    writer = FeatureWriter(folder / "features.h5", {"name": "made"})
    writer.write(features)
    writer.finish(list(poses))
    refined_folder(folder).mkdir()
    write_labels(refined_folder(folder) / "labels.h5", labels)
    write_labels(folder / "labels.h5", labels)
    scene = Scene("made", "wall", folder, {1: CAMERA}, images, features={"settings": {"name": "made"}})
    data = load_training_set(folder, scene)  # the given map is where the rays meet at the given poses
    blurred = without_images(data, torch.zeros(len(data), dtype=torch.bool)).xyz.numpy()
    at_given = [(name, replace(rows, xyz=xyz[: len(rows)])) for (name, rows), xyz in zip(labels, blurred, strict=True)]
    write_labels(folder / "labels.h5", at_given)
    return scene, RefinedMap({name: poses[name] for name in mapped}, 2.0, 1.0)


def drift_and_shaking(i: int) -> np.ndarray:
    """Drift along the path, and from image to image a little up or down."""
    return np.sin(0.1 * i) * np.array([0, 0.02, 0, 0.05, 0, 0.05]) + (i % 2 - 0.5) * np.array([0, 0, 0, 0, 0.03, 0])


def test_refined_poses_are_taken_where_they_answer_better(tmp_path):
    scene, refined = make_place(tmp_path, drift_and_shaking)
    choice = choose_map(tmp_path, scene, RECIPE, refined)
    assert choice is not None and choice.takes_refined
    assert choice.images == len(scene.split("val")) + sum(len(scene.split("train")) // 10 + extra for extra in (1, 1, 0, 0))
    assert choice.refined.median_t < choice.given.median_t
    assert choose_map(tmp_path, scene, replace(RECIPE, model=replace(RECIPE.model, model=2)), refined) == choice  # of any model, and again


def test_the_given_poses_are_kept_where_both_answer_alike(tmp_path):
    scene, refined = make_place(tmp_path, lambda i: np.zeros(6))
    choice = choose_map(tmp_path, scene, RECIPE, refined)
    assert choice is not None and not choice.takes_refined
    assert choice.given.recalls == choice.refined.recalls == (1, 1, 1)


def test_too_few_images_tell_nothing(tmp_path):
    scene, refined = make_place(tmp_path, drift_and_shaking, FEWEST - 1)
    assert choose_map(tmp_path, scene, RECIPE, refined) is None
    assert str(FEWEST) in choice_text(None, scene.units)


@pytest.mark.parametrize(
    ("gains", "taken"),
    [((0.3, 0.3, 0.3), True), ((0.0, 0.0, 3.1 * CLEARLY), True), ((0.0, 0.0, 0.0), False), ((0.8 * CLEARLY,) * 3, False)]
    + [(tuple(np.roll([loss * CLEARLY, 0.3, 0.3], place)), taken) for loss, taken in ((-0.9, True), (-1.1, False)) for place in range(3)],
)
def test_refined_poses_must_be_clearly_better_and_nowhere_clearly_worse(gains, taken):
    near, middle, ends = (0.5 + gain for gain in gains)
    choice = MapChoice(Localized(0.5, 0.5, 0.5, None), Localized(near, middle, ends, 0.012), 60)
    assert choice.takes_refined == taken
    text = choice_text(choice, "metres")
    assert "50, 50, 50 % (median none) at the given poses" in text and "% (median 1.2 cm) at refined ones" in text
    assert f"the map at {'refined' if taken else 'given'} poses is learnt" in text
    assert "(median 0.012 units)" in choice_text(choice, "arbitrary")


@pytest.mark.parametrize("better", [True, False])
def test_a_run_records_the_choice_and_stays_with_it(tmp_path, monkeypatch, better):
    scene, refined = make_place(tmp_path, drift_and_shaking)
    refined.save(tmp_path)
    recipe, run = replace(RECIPE, training=replace(RECIPE.training, refined_poses=True)), RunDir(tmp_path / "run")
    run.path.mkdir()
    choice = MapChoice(Localized(0.5, 0.5, 0.5, 0.05), Localized(*(0.9 if better else 0.4,) * 3, 0.02), 60)
    monkeypatch.setattr(train, "choose_map", lambda *_: choice)
    assert (train._refined_map(tmp_path, scene, recipe, run, False) is not None) == better
    assert run.state()["refined"] == better and run.state()["map_choice"] == choice.to_json()
    run.checkpoint(1).mkdir(parents=True)
    monkeypatch.delattr(train, "choose_map")  # not asked again
    assert (train._refined_map(tmp_path, scene, recipe, run, False) is not None) == better
