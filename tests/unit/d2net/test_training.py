"""Training on a miniature MegaDepth: it learns, ends the same after SIGKILL, and its checkpoints extract features."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from d2s.cli import run_module
from d2s.commands.d2net_train import add_arguments, options_from_args
from d2s.d2net.megadepth_data import PairDataset, PairLimits, draw_pairs
from d2s.d2net.processes import Processes
from d2s.d2net.starting_weights import starting_network
from d2s.d2net.training import D2NetTrainer, make_optimizer
from d2s.d2net.training_batch import Outcome, batch_outcome
from d2s.d2net.training_checkpoint import CheckpointFiles, Progress
from d2s.d2net.training_options import TrainingOptions
from d2s.errors import InputError, MissingFileError, TrainingError, WeightsError
from d2s.features.weights import load_state_dict

CPU = torch.device("cpu")
LAST_LAYER = "dense_feature_extraction.model.21."


def options(megadepth: Path, **changes) -> TrainingOptions:
    common = {"train_scenes": ["0000"], "valid_scenes": ["0000"], "crop_size": 96, "min_correspondences": 16, "num_workers": 0}
    return TrainingOptions(megadepth, megadepth / "info", **{**common, "limits": PairLimits(per_scene=4), **changes})


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_state_dict(path)["model"]


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 0) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=atol)


def test_one_pair_is_learnt(megadepth: Path, model_file: Path) -> None:
    settings = options(megadepth)
    pairs = draw_pairs(megadepth, megadepth / "info", ["0000"], settings.limits, 1, 1)
    batch, network = [PairDataset(pairs, 96)[0]], starting_network(model_file, 1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer, losses = make_optimizer(network, 1e-3), []
    for _ in range(11):
        (loss,) = batch_outcome(network, batch, settings, CPU).losses
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.8 and losses[-1] < 0.35 * losses[0]
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {LAST_LAYER + "weight", LAST_LAYER + "bias"}


def test_pairs_of_a_batch_do_not_see_each_other(megadepth: Path, model_file: Path) -> None:
    settings = options(megadepth)
    pairs = draw_pairs(megadepth, megadepth / "info", ["0000"], settings.limits, 1, 1)
    samples, network = [PairDataset(pairs, 96)[k] for k in range(2)], starting_network(model_file, 1)
    with torch.no_grad():
        together = batch_outcome(network, samples, settings, CPU).losses
        alone = [batch_outcome(network, [sample], settings, CPU).losses[0] for sample in samples]
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        half = replace(settings, amp=True)
        network.dense_feature_extraction.half_precision = True
        torch.testing.assert_close(batch_outcome(network, samples, half, CPU).losses, alone, rtol=0.05, atol=0.02)


def test_pairs_with_few_correspondences_are_left_out(megadepth: Path, model_file: Path) -> None:
    settings = options(megadepth, min_correspondences=10000, num_epochs=1)
    network = starting_network(model_file, 1)
    before = network.state_dict()[LAST_LAYER + "weight"].clone()
    trainer = D2NetTrainer(
        settings, network, make_optimizer(network, 1e-3), Progress(), CheckpointFiles(megadepth / "none", "x"), Processes(), ""
    )
    with pytest.raises(TrainingError, match="corresponding cells"):
        trainer.run()
    assert torch.equal(before, network.state_dict()[LAST_LAYER + "weight"]) and not (megadepth / "none").exists()


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(megadepth: Path, model_file: Path, tmp_path: Path) -> None:
    network = starting_network(model_file, 1)
    with torch.no_grad():
        network.dense_feature_extraction.model[0].weight[0, 0, 0, 0] = torch.nan
    before = network.state_dict()[LAST_LAYER + "weight"].clone()
    trainer = D2NetTrainer(
        options(megadepth), network, make_optimizer(network, 1e-3), Progress(), CheckpointFiles(tmp_path, "x"), Processes(), ""
    )
    with pytest.raises(TrainingError, match="not finite"):
        trainer.run()
    assert torch.equal(before, network.state_dict()[LAST_LAYER + "weight"])


def test_loading_processes_change_nothing(megadepth: Path, tmp_path: Path) -> None:
    network = starting_network(Path("random"), 1)
    found = []
    for workers in (0, 2):
        settings = options(megadepth, num_workers=workers, batch_size=3)
        pairs = draw_pairs(megadepth, megadepth / "info", ["0000"], settings.limits, 1, 1)
        trainer = D2NetTrainer(
            settings, network, make_optimizer(network, 1e-3), Progress(), CheckpointFiles(tmp_path, "x"), Processes(), ""
        )
        found.append([sample for batch in trainer._batches(pairs, 1) for sample in batch])
    assert [len(samples) for samples in found] == [1, 1]  # the second batch of four pairs
    for one, two in zip(*found, strict=True):
        for side in range(2):
            assert torch.equal(one[side].image, two[side].image) and torch.equal(one[side].view.depth, two[side].view.depth)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_photos_are_named_and_missing_ones_an_error(workers: int, megadepth: Path, tmp_path: Path, caplog) -> None:
    settings, network = options(megadepth, num_workers=workers, batch_size=2), starting_network(Path("random"), 1)
    pairs = draw_pairs(megadepth, megadepth / "info", ["0000"], settings.limits, 1, 1)
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    trainer = D2NetTrainer(settings, network, make_optimizer(network, 1e-3), Progress(), CheckpointFiles(tmp_path, "x"), Processes(), "")
    pairs[1] = (replace(pairs[1][0], image=tmp_path / "bad.jpg"), pairs[1][1])
    assert [len(batch) for batch in trainer._batches(pairs)] == [1, 2]
    assert f"Left out: Image {tmp_path / 'bad.jpg'}" in caplog.text
    (tmp_path / "bad.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"bad\.jpg does not exist\.$"):
        list(trainer._batches(pairs))


def test_learning_rates() -> None:
    def rates(scheduler: str, epochs: list[float]) -> list[float]:
        settings = TrainingOptions(Path(), Path(), num_epochs=20, lr=0.5, scheduler=scheduler)
        return [settings.learning_rate(epoch) for epoch in epochs]

    assert rates("constant", [0, 7.5, 20]) == [0.5, 0.5, 0.5]
    assert rates("halve", [0, 9.9, 10, 19, 20]) == [0.5, 0.5, 0.25, 0.25, 0.125]
    assert rates("cosine", [0, 10, 20]) == pytest.approx([0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.0},
        {"lr": math.nan},
        {"batch_size": 0},
        {"crop_size": 100},
        {"scheduler": "steps"},
        {"correspondences": "exact"},
        {"save_interval": -1},
        {"limits": PairLimits(min_overlap=0.9, max_overlap=0.5)},
        {"limits": PairLimits(max_scale_ratio=0.5)},
    ],
)
def test_wrong_options(changes: dict) -> None:
    with pytest.raises(InputError):
        TrainingOptions(Path(), Path(), **changes)


def test_starting_weights(model_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_equal(starting_network(model_file, 1).state_dict(), weights(model_file))
    torch.manual_seed(7)
    untouched = torch.get_rng_state()
    one, two, other = (starting_network(Path("random"), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), untouched)
    assert_equal(one, two)
    assert "random weights" in caplog.text and not torch.equal(one[LAST_LAYER + "weight"], other[LAST_LAYER + "weight"])
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    for path in (tmp_path / "other.pth", tmp_path / "none.pth"):
        with pytest.raises(WeightsError, match=path.stem):
            starting_network(path, 1)


def test_checkpoints_of_the_published_training_are_a_start(model_file: Path, tmp_path: Path) -> None:
    """They hold the arguments of their run and numbers of NumPy beside the weights."""
    entries = {"args": argparse.Namespace(lr=0.001), "epoch_idx": 3, "model": weights(model_file), "train_loss_history": [np.float64(0.5)]}
    torch.save(entries, tmp_path / "d2.03.pth")
    assert_equal(starting_network(tmp_path / "d2.03.pth", 1).state_dict(), weights(model_file))


def test_scenes_of_the_phototourism_benchmark_can_be_left_out(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    needed = ["--dataset_path", str(tmp_path), "--scene_info_path", str(tmp_path)]
    everything, without = (options_from_args(parser.parse_args([*needed, *more])) for more in ([], ["--no_phototourism"]))
    assert sorted({*everything.train_scenes} - {*without.train_scenes}) == ["0019", "0021", "0024", "0025", "1589"]
    assert sorted({*everything.valid_scenes} - {*without.valid_scenes}) == ["0078"]


class Run:
    """`d2s d2net train` of two epochs of four batches, with all that it writes in one folder."""

    def __init__(self, megadepth: Path, model_file: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "scenes.txt").write_text("0000\n")
        where = ["--dataset_path", megadepth, "--scene_info_path", megadepth / "info", "--model_file", model_file]
        where += ["--train_scenes", folder / "scenes.txt", "--valid_scenes", folder / "scenes.txt", "--log_file", folder / "log.txt"]
        sizes = ["--pairs_per_scene", 4, "--validation_pairs", 2, "--crop_size", 80, "--min_correspondences", 16, "--num_workers", 0]
        often = ["--num_epochs", 2, "--save_interval", 1, "--log_interval", 2, "--use_validation", "--visdom", "off", "--cudaid", -1]
        self.arguments = ["train", *map(str, [*where, *sizes, *often, "--checkpoint_directory", folder / "checkpoints"])]

    def __call__(self, *more: str) -> int:
        return run_module("d2net", [*self.arguments, *more])

    def checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"d2.{name}.pth"

    def records(self) -> list[dict]:
        lines = (self.folder / "checkpoints" / "d2.metrics.jsonl").read_text().splitlines()
        return [{key: value for key, value in json.loads(line).items() if not key.startswith("seconds")} for line in lines]


@pytest.fixture(scope="module")
def finished(megadepth: Path, model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing has disturbed."""
    run = Run(megadepth, model_file, tmp_path_factory.mktemp("finished"))
    assert run() == 0
    return run


def test_checkpoints_and_logs(finished: Run, model_file: Path) -> None:
    state = load_state_dict(finished.checkpoint("02"))
    assert state["epoch_idx"] == 2 and len(state["train_loss_history"]) == 2 and len(state["validation_loss_history"]) == 3
    assert_equal(state["model"], weights(finished.checkpoint("last")))
    losses = state["validation_loss_history"]
    assert losses[2] < losses[1] < losses[0]
    assert_equal(state["model"], weights(finished.checkpoint("best")))
    records = finished.records()
    assert [(r["kind"], r["epoch"], r["step"]) for r in records] == [
        *[("validation", 0, 0), ("step", 1, 2), ("step", 1, 4), ("validation", 1, 0)],
        *[("step", 2, 2), ("step", 2, 4), ("validation", 2, 0)],
    ]
    assert [r["validation_loss"] for r in records if r["kind"] == "validation"] == losses
    lines = (finished.folder / "log.txt").read_text().splitlines()
    assert len(lines) == 7 and lines[2].startswith("[train] epoch 1 - batch 4 / 4 - avg_loss: ")
    assert float(lines[2].split()[-1]) == pytest.approx(state["train_loss_history"][0], abs=1e-6)


def test_a_trained_checkpoint_extracts(finished: Run, megadepth: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    shutil.copy(megadepth / "Undistorted_SfM" / "0000" / "images" / "a 0.jpg", image)
    (tmp_path / "list.txt").write_text(f"{image}\n")
    arguments = ["extract", "--image_list_file", str(tmp_path / "list.txt"), "--cudaid", "-1", "--model_file"]
    assert run_module("d2net", [*arguments, str(finished.checkpoint("best"))]) == 0
    with np.load(tmp_path / "a.jpg.d2-net") as found:
        assert len(found["keypoints"]) > 5 and found["descriptors"].shape[1] == 512


def test_a_finished_run_is_left_alone_and_other_settings_are_refused(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = finished.checkpoint("last").read_bytes()
    assert finished() == 0 and "already finished" in capsys.readouterr().out
    assert finished("--lr", "0.1") == 2 and "lr 0.001, now 0.1" in capsys.readouterr().err
    assert finished("--model_file", "random") == 2 and "other settings (start" in capsys.readouterr().err
    assert finished.checkpoint("last").read_bytes() == before


def test_killed_and_resumed_ends_with_the_same_weights(finished: Run, megadepth: Path, model_file: Path, tmp_path: Path) -> None:
    run = Run(megadepth, model_file, tmp_path)
    process = subprocess.run([sys.executable, "-c", KILL, *run.arguments], capture_output=True, text=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr
    state = load_state_dict(run.checkpoint("last"))
    assert (state["epoch_idx"], state["progress"]["step"]) == (0, 3) and not run.checkpoint("01").exists()
    assert list((tmp_path / "checkpoints").glob(".*.tmp"))
    assert run() == 0
    for name in ("01", "02", "best", "last"):
        assert_equal(weights(run.checkpoint(name)), weights(finished.checkpoint(name)))
    assert run.records() == finished.records()
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))


# Dies at the end of the first epoch, between writing its checkpoint and publishing it
KILL = """
import os, signal, sys
from d2s.d2net import training_checkpoint
from d2s.cli import run_module
save = training_checkpoint.torch.save
def save_and_die(entries, temporary):
    save(entries, temporary)
    if temporary.name.startswith(".d2.01.pth."):
        os.kill(os.getpid(), signal.SIGKILL)
training_checkpoint.torch.save = save_and_die
run_module("d2net", sys.argv[1:])
"""


def test_anew(finished: Run, megadepth: Path, model_file: Path, tmp_path: Path) -> None:
    run = Run(megadepth, model_file, tmp_path)
    shutil.copytree(finished.folder / "checkpoints", tmp_path / "checkpoints")
    assert run("--resume", "never", "--num_epochs", "1", "--lr", "1e-4", "--plot", "false") == 0
    assert not run.checkpoint("02").exists() and len(load_state_dict(run.checkpoint("last"))["train_loss_history"]) == 1


def test_pictures(megadepth: Path, model_file: Path, tmp_path: Path) -> None:
    from d2s.d2net.training_report import Pictures

    settings = options(megadepth)
    pairs = draw_pairs(megadepth, megadepth / "info", ["0000"], settings.limits, 1, 1)
    with torch.no_grad():
        outcome: Outcome = batch_outcome(starting_network(model_file, 1), [PairDataset(pairs, 96)[0]], settings, CPU)
    Pictures(tmp_path / "train_vis", 250)("train", 3, 500, outcome)
    assert [path.name for path in (tmp_path / "train_vis").iterdir()] == ["train.03.02.0.png"]


def test_two_processes_make_the_steps_of_one(megadepth: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, shared = (Run(megadepth, model_file, tmp_path / name) for name in ("one", "two"))
    more = ["--batch_size", "2", "--num_epochs", "1", "--pairs_per_scene", "3"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "d2s", "d2net", *shared.arguments, *more]
    other = subprocess.Popen(command, env={**os.environ, **world, "RANK": "1", "LOCAL_RANK": "1"}, stdout=subprocess.PIPE)
    assert run(*more) == 0
    for name, value in {**world, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run_module("d2net", [*shared.arguments, *more]) == 0
    assert other.communicate(timeout=300)[0] == b"" and other.returncode == 0  # one of them tells
    assert_equal(weights(shared.checkpoint("01")), weights(run.checkpoint("01")), atol=2e-5)
    one, two = (load_state_dict(r.checkpoint("01"))["validation_loss_history"] for r in (run, shared))
    assert one == pytest.approx(two, abs=1e-4)
    assert two[1] < two[0]
