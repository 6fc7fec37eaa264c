"""`d2s eval --checkpoint` and `d2s export --format model` with a checkpoint of the public code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from d2s.cli import main
from d2s.regressor.published import load_published
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene

SETTINGS = {"name": "made", "num_keypoints": 150, "sampling": "exact"}


def answering_state(dim=4):
    """Model 1 on descriptors that are the answers, x y z r: ReLU layers that pass x and -x on; u = 0.02 (1 - r)."""
    both = torch.cat([torch.eye(dim), -torch.eye(dim)])
    state = {"feedfw.0.weight": both, "feedfw.0.bias": torch.zeros(2 * dim)}
    for layer in (2, 4, 6):
        state |= {f"feedfw.{layer}.weight": torch.eye(2 * dim), f"feedfw.{layer}.bias": torch.zeros(2 * dim)}
    last, bias = both.T[:4].clone(), torch.zeros(4)
    last[3] *= -0.02
    bias[3] = 0.02
    return {name: w[..., None] if w.ndim == 2 else w for name, w in {**state, "feedfw.8.weight": last, "feedfw.8.bias": bias}.items()}


@pytest.fixture
def checkpoint(place):
    """A checkpoint of the older branch, and a scene that says what features it has."""
    place.change_scene(features={"name": "made", "settings": SETTINGS})
    train = Scene.load(place.scene_dir).split("train")
    labels = Labels(np.full((150, 3), 2.0, np.float32), np.ones(150, bool), np.full(150, 3, np.int32), np.zeros(150, np.float32))
    write_labels(place.scene_dir / "labels.h5", [(image.name, labels) for image in train])
    path = place.root / "epoch_990.pth.tar"
    torch.save({"epoch": 990, "model_state_dict": answering_state(), "optim_state_dict": {}}, path)
    return path


def evaluate(place, *more):
    code = main(["eval", *place.arguments(*more)])
    metrics = place.run_dir / "eval" / "metrics.json"
    return code, json.loads(metrics.read_text()) if metrics.is_file() else None


def test_a_public_checkpoint_is_evaluated_with_what_the_scene_says(place, checkpoint):
    code, metrics = evaluate(place, "--checkpoint", str(checkpoint))
    assert code == 0 and (metrics["n_queries"], metrics["n_failed"]) == (8, 1) and metrics["median_t_cm"] < 3
    assert metrics["map_bytes"] == checkpoint.stat().st_size and metrics["train_seconds"] is None
    assert (metrics["features"], metrics["num_keypoints"], metrics["reliability_threshold"]) == ("made", 150, 0.5)
    assert metrics["mean_kept"] == pytest.approx((7 * 112 + 150) / 8)
    assert evaluate(place, "--checkpoint", str(checkpoint), "--uncer_thres", "0.2")[1]["mean_kept"] == 150
    assert evaluate(place, "--checkpoint", str(checkpoint), "--eval_train", "--uncer", "0")[0] == 0


def test_what_a_checkpoint_does_not_know_comes_from_scene_and_branch(place, checkpoint):
    torch.save({"epoch": 3, "model_state_dict": answering_state()}, place.root / "7scenes_chess_d2s.pth.tar")
    scene = Scene.load(place.scene_dir)
    older = load_published(checkpoint, scene, place.scene_dir)
    newer = load_published(place.root / "7scenes_chess_d2s.pth.tar", scene, place.scene_dir)
    assert (older.info.reliability_threshold, newer.info.reliability_threshold) == (0.5, 0.6)
    assert older.info.features == {**SETTINGS, "sampling": "hloc"} and older.dtype == torch.float32
    assert older.info.cameras == place.info.cameras and older.info.bounds == ((2.0, 2.0, 2.0), (2.0, 2.0, 2.0))
    assert (older.info.dataset, older.info.scene, older.info.units) == ("made", "arc", "metres")
    assert older.info.extra["published"] == {"file": "epoch_990.pth.tar", "branch": "feat2map", "epoch": 990}


def test_a_checkpoint_for_other_descriptors_is_refused(place, checkpoint, capsys):
    torch.save({"model_state_dict": answering_state(6)}, checkpoint)
    assert evaluate(place, "--checkpoint", str(checkpoint))[0] == 2
    error = capsys.readouterr().err
    assert "6-d" in error and "4-d made" in error and error.count("\n") == 1
    assert evaluate(place, "--checkpoint", str(place.root / "nowhere.pth.tar"))[0] == 2


def test_sweep_ranks_by_the_recall_that_is_asked_for(place):
    """--idx_eval of the published evaluation: 5 cm/5 deg, then 15, 22 and 35 cm, 38 cm/10 deg, 50 cm/10 deg."""
    ratios = {}
    for index in (0, 3, 5):
        assert evaluate(place, "--start_epoch", "1", "--stop_epoch", "4", "--idx_eval", str(index))[0] == 0
        rows = [line.split() for line in (place.run_dir / "eval" / "best.txt").read_text().splitlines()[1:]]
        assert [row[3] for row in rows] == sorted((row[3] for row in rows), reverse=True)
        ratios[index] = {row[0]: float(row[3]) for row in rows}
    assert ratios[0]["2"] == 1 and ratios[0]["3"] < ratios[3]["3"] <= ratios[5]["3"]
