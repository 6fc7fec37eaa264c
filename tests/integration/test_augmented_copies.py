"""Augmented copies through the command line: added to a finished scene, killed and finished, trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import kill_d2s

SCENE = [
    *("--dataset", "demo", "--demo_option", "mapping_images=32", "--demo_option", "query_images=5", "--demo_option", "size=320x240"),
    *("--num_keypoints", "500", "--cudaid", "-1"),
]
COPIES = ["--process_train_data_augmentation", "true", "--augment_copies", "2", "--augment_views", "0.5"]
FILES = ("features.h5", "labels.h5", "images.json")


def copy_of(tiny, folder: Path):
    """The finished scene in a folder of its own."""
    shutil.copytree(tiny.folder, folder / "demo" / "gallery")
    return replace(tiny, data_dir=folder)


@pytest.fixture(scope="module")
def augmented(tiny, tmp_path_factory):
    """A finished scene to which copies were added."""
    place = copy_of(tiny, tmp_path_factory.mktemp("augmented"))
    before = {name: (place.folder / name).read_bytes() for name in ("features.h5", "labels.h5", "stages.json")}
    output = place.d2s("preprocess", *SCENE, "--out_dir", place.data_dir, *COPIES)
    assert "augmented copies    56 (" in output and "labels: finished before, skipped" in output
    assert before == {name: (place.folder / name).read_bytes() for name in before}
    return place


def test_a_killed_augmentation_ends_as_an_undisturbed_one(tiny, augmented, tmp_path):
    place = copy_of(tiny, tmp_path)
    target = place.folder / "augment"
    kill_d2s("preprocess", *SCENE, "--out_dir", place.data_dir, *COPIES, published="augment/features.parts/000000.h5")
    assert not (target / "images.json").exists()
    place.d2s("preprocess", *SCENE, "--out_dir", place.data_dir, *COPIES)
    for name in FILES:
        assert (target / name).read_bytes() == (augmented.folder / "augment" / name).read_bytes(), name
    assert not list(target.glob(".*.tmp")) and not (target / "features.parts").exists()


def test_training_takes_the_copies(augmented, tmp_path):
    steps = ["--set", "model.blocks=1", "--set", "training.max_minutes=0", "--set", "training.n_iters=4", "--visdom", "off"]
    output = augmented.d2s("train", *augmented.scene(tmp_path, "run"), *steps, "--augment", "true")
    assert "Training on 28 images and 56 extra ones" in output
    assert json.loads((tmp_path / "run" / "state.json").read_text())["extra_images"]["1"]["augment"]["images"] == 56
