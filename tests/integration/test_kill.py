"""SIGKILL in the middle of training and of evaluation: the same command finishes the work, with the result of an undisturbed run."""

from __future__ import annotations

import json

import pytest

from d2s.cli import run_module

from .conftest import kill_d2s

CHANGES = ("model.blocks=2", "training.max_minutes=0", "training.n_iters=28", "logging.print_freq=1")
STEPS = [*(text for change in CHANGES for text in ("--set", change)), "--visdom", "off"]
LAST_EPOCH = 4  # 28 images, 4 a step

CLOCK = ("seconds", "seconds_left")
"""What may differ between two runs."""


def records(run_dir):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in found]


def scores(run_dir, epoch):
    return json.loads((run_dir / "checkpoints" / f"epoch_{epoch:03d}" / "trainer.json").read_text())["state"]["scores"]


def state(run_dir):
    return json.loads((run_dir / "state.json").read_text())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny.d2s("train", *tiny.scene(folder, "run"), *STEPS)
    return folder / "run"


MOMENTS = {
    "after the first checkpoint": {"published": "checkpoints/epoch_000"},
    "between checkpoints": {"printed": "validation at epoch 2"},
    "at the end": {"published": "checkpoints/epoch_004"},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_training_ends_as_an_undisturbed_one(tiny, tmp_path, undisturbed, moment):
    run = tmp_path / "run"
    kill_d2s("train", *tiny.scene(tmp_path, "run"), *STEPS, **MOMENTS[moment])
    assert (len(records(run)) < len(records(undisturbed))) == (moment != "at the end")
    assert not (run / "model").exists()
    output = tiny.d2s("train", *tiny.scene(tmp_path, "run"), *STEPS)
    assert "Going on after epoch" in output
    assert records(run) == records(undisturbed)
    assert state(run)["model_epoch"] == state(undisturbed)["model_epoch"]
    assert scores(run, LAST_EPOCH) == scores(undisturbed, LAST_EPOCH)
    for name in ("model/model.safetensors", "checkpoints/epoch_004/trainer.safetensors"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert (run / "config.ini").read_text() == (undisturbed / "config.ini").read_text()
    assert names(run / "checkpoints") == names(undisturbed / "checkpoints")
    assert not list(run.rglob(".*.tmp"))


def test_killed_evaluation_ends_as_an_undisturbed_one(tiny, tmp_path, undisturbed):
    where = tiny.scene(undisturbed.parent, "run")
    tiny.d2s("eval", *where, "--out", tmp_path / "calm")
    kill_d2s("eval", *where, "--out", tmp_path / "killed", printed="Localizing")
    assert not (tmp_path / "killed" / "metrics.json").exists()
    tiny.d2s("eval", *where, "--out", tmp_path / "killed")
    assert (tmp_path / "killed" / "results.txt").read_text() == (tmp_path / "calm" / "results.txt").read_text()
    assert len((tmp_path / "killed" / "results.txt").read_text().splitlines()) >= 4
    calm, killed = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("calm", "killed"))
    assert {**calm, "ms": 0} == {**killed, "ms": 0}


def test_scores_of_an_earlier_evaluation_never_stand_beside_new_poses(tiny, tmp_path, undisturbed, monkeypatch):
    options = [*tiny.scene(undisturbed.parent, "run"), "--out", str(tmp_path)]
    assert run_module("eval", options) == 0
    earlier = (tmp_path / "results.txt").read_text()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("d2s.commands.eval.evaluate_folder", killed)
    assert run_module("eval", [*options, "--epoch", "2"]) == 130
    assert (tmp_path / "results.txt").read_text() != earlier
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "report.html").exists()
