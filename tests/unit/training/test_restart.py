"""`d2s train --checkpoint EPOCH`: a stage that begins at a chosen epoch, and what becomes of the later ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from d2s.cli import run_module
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.run_dir import RunDir

CAMERA = parse_camera("SIMPLE_RADIAL 640 480 500 320 240 0.05")
SMALL = """
model.model=1 training.precision=fp32 training.n_iters=8 training.n_iters_add=4 training.batch_size=2 training.snapshot=1
training.keep_checkpoints=9 training.val_freq=0 optimization.lr=1e-3 logging.print_freq=1
"""
SETTINGS = {"name": "made", "num_keypoints": 20}


@pytest.fixture
def data_dir(tmp_path):
    """A scene of 4 training images: 2 steps an epoch, so the first stage has epochs 1 to 4 and the second two more."""
    random = np.random.default_rng(0)
    xyz = random.uniform([-1, -1, 3], [1, 1, 5], (20, 3)).astype(np.float32)
    look = random.normal(size=(20, 8))
    look = (look / np.linalg.norm(look, axis=1, keepdims=True)).astype(np.float32)
    folder = tmp_path / "dataset" / "made" / "place"
    images, features, labels = [], [], []
    for index in range(4):
        at = pose.from_qvec_tvec([1, *random.normal(0, 0.05, 3)], random.normal(0, 0.2, 3))
        images.append(SceneImage(f"{index}.png", 1, at, "train"))
        pixels = project(CAMERA, pose.transform(at, xyz))[0].astype(np.float32)
        features.append((f"{index}.png", LocalFeatures(pixels, np.ones(20, np.float32), look, (640, 480))))
        valid = np.arange(20) < 15
        track, error = np.full(20, 3, np.int32), np.zeros(20, np.float32)
        labels.append((f"{index}.png", Labels(np.where(valid[:, None], xyz, 0).astype(np.float32), valid, track, error)))
    Scene("made", "place", tmp_path, {1: CAMERA}, tuple(images), features={"name": "made", "settings": SETTINGS}).save(folder)
    writer = FeatureWriter(folder / "features.h5", SETTINGS)
    writer.write(features)
    writer.finish(name for name, _ in features)
    write_labels(folder / "labels.h5", labels)
    return tmp_path / "dataset"


def train(data_dir, *options, name="run"):
    where = ["--dataset", "made", "--scene", "place", "--data_dir", str(data_dir), "--log_dir", str(data_dir.parent / "logs")]
    changes = [word for change in ["model.head_widths=16 16", *SMALL.split()] for word in ("--set", change)]
    recipe = ["--config_file", "configs/configsV1.ini", "--visdom", "off", "--cudaid", "-1"]
    return run_module("train", [*where, "--name", name, *recipe, *changes, *options])


def run_of(data_dir, name="run"):
    return RunDir(data_dir.parent / "logs" / name)


def steps(run):
    return [record for record in map(json.loads, run.metrics.read_text().splitlines()) if record["kind"] == "step"]


def weights(folder):
    return {name: tensor for name, tensor in load_file(folder / "trainer.safetensors").items() if name.startswith("network/")}


def test_the_first_stage_starts_over_with_the_weights_of_an_epoch(data_dir, capsys):
    assert train(data_dir) == 0
    run = run_of(data_dir)
    assert run.checkpoints() == [1, 2, 3, 4]
    before, first_losses = weights(run.checkpoint(3)), [record["loss"] for record in steps(run)]
    assert train(data_dir, "--checkpoint", "3") == 0
    assert run.checkpoints() == [1, 2, 3, 4] and [record["step"] for record in steps(run)] == list(range(1, 9))
    assert all(torch.equal(tensor, weights(run.path / "start" / "epoch_003")[name]) for name, tensor in before.items())
    assert steps(run)[0]["lr"] == pytest.approx(1e-3)  # the schedule starts over, too
    # Same batch as the first step of the first training, but its weights are those of epoch 3.
    assert steps(run)[0]["loss"] < min(first_losses[:2]) and run.state()["finished_stages"] == [1]

    after = weights(run.checkpoint(4))
    capsys.readouterr()
    assert train(data_dir, "--checkpoint", "3") == 0 and "already finished" in capsys.readouterr().out
    assert train(data_dir, "--checkpoint", "3", "--resume", "never") == 0  # once more from the same weights
    assert all(torch.equal(tensor, weights(run.checkpoint(4))[name]) for name, tensor in after.items())
    assert train(data_dir, "--resume", "never") == 0  # and without them
    assert [record["loss"] for record in steps(run)] == first_losses


def test_the_second_stage_begins_at_an_epoch_with_its_optimiser_and_reprojects_at_once(data_dir):
    """Published (G2.25): with --checkpoint N the reprojection still waits for the epoch at which the first stage would have ended."""
    assert train(data_dir) == 0
    run = run_of(data_dir)
    assert train(data_dir, "--resume_optim", "1", "--checkpoint", "1") == 0
    assert run.checkpoints() == [1, 2, 3] and run.state()["finished_stages"] == [1, 2]
    second = [record for record in steps(run) if record["stage"] == 2]
    assert len(second) == 4 and all("reprojection" in record for record in second)
    assert [record["epoch"] for record in second] == [1, 1, 2, 2] and second[0]["lr"] == pytest.approx(1e-5)
    assert json.loads((run.checkpoint(2) / "trainer.json").read_text())["state"]["stage"] == 2
    assert run.state()["model_epoch"] == 3  # the second stage's last, not the first one's


def test_a_killed_beginning_is_finished_by_the_same_command(data_dir, monkeypatch):
    assert train(data_dir) == 0
    shutil.copytree(run_of(data_dir).path, run_of(data_dir, "killed").path)
    assert train(data_dir, "--checkpoint", "2") == 0
    expected = weights(run_of(data_dir).checkpoint(4))
    killed = run_of(data_dir, "killed")
    rmtree, removed = shutil.rmtree, []

    def killed_while_removing(path, *more, **options):
        removed.append(path)
        if len(removed) == 3:
            raise KeyboardInterrupt
        rmtree(path, *more, **options)

    monkeypatch.setattr("d2s.training.restart.shutil.rmtree", killed_while_removing)
    assert train(data_dir, "--checkpoint", "2", name="killed") == 130
    monkeypatch.undo()
    assert killed.checkpoints() == [3, 4] and killed.state()["origin"]["ready"] is False
    assert train(data_dir, "--checkpoint", "2", name="killed") == 0
    assert all(torch.equal(tensor, weights(killed.checkpoint(4))[name]) for name, tensor in expected.items())


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_at_its_origin_again(data_dir):
    assert train(data_dir) == 0 and train(data_dir, "--checkpoint", "2") == 0
    run = run_of(data_dir)
    expected = weights(run.checkpoint(4))
    for epoch in run.checkpoints():
        shutil.rmtree(run.checkpoint(epoch))
    run.write_state(finished_stages=[])
    assert train(data_dir) == 0
    assert all(torch.equal(tensor, weights(run.checkpoint(4))[name]) for name, tensor in expected.items())


def test_nothing_is_removed_for_a_wrong_command(data_dir, capsys):
    assert train(data_dir) == 0
    for options, word in (
        (["--checkpoint", "9"], "1, 2, 3, 4"),
        (["--checkpoint", "9", "--resume", "never"], "1, 2, 3, 4"),
        (["--checkpoint", "2", "--resume", "somewhere"], "exclude"),
        (["--checkpoint", "2", "--resume_optim", "--set", "optimization.lr_add=1"], "another recipe"),
    ):
        capsys.readouterr()
        assert train(data_dir, *options) == 2 and word in capsys.readouterr().err
        assert run_of(data_dir).checkpoints() == [1, 2, 3, 4] and run_of(data_dir).model.is_dir()
