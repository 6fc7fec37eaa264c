"""The published way of working on a tiny scene: both recipes, both stages, the sweep over the last epochs, and single checkpoints."""

from __future__ import annotations

import json
import math

import pytest

from d2s.cli import run_module
from d2s.regressor.model_files import load_model
from d2s.regressor.published import read_published

FEW = ["training.n_iters=6", "training.n_iters_add=4", "training.keypoints_per_image=64", "training.batch_size=4", "training.snapshot=1"]


@pytest.fixture(scope="module", params=["configsV1", "configsV2"])
def trained(request, tiny, tmp_path_factory):
    """A run of two stages, shortened: 28 training images in batches of 4 are 7 steps an epoch."""
    logs = tmp_path_factory.mktemp(request.param)
    config = f"configs/{request.param}.ini"
    options = [word for change in [*FEW, "logging.print_freq=1", "training.keep_checkpoints=9"] for word in ("--set", change)]
    command = [*tiny.scene(logs, "run"), "--config_file", config, "--visdom", "off", *options]
    assert run_module("train", command) == 0
    assert run_module("train", [*command, "--resume_optim", "1"]) == 0
    return tiny.scene(logs, "run"), logs / "run"


def test_the_second_stage_reprojects_at_its_own_rate(trained):
    _, run = trained
    steps = [r for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if r["kind"] == "step"]
    assert [(r["stage"], "reprojection" in r) for r in steps] == [(1, False)] * 6 + [(2, True)] * 4
    assert steps[0]["lr"] == pytest.approx(1e-4) and steps[6]["lr"] == pytest.approx(1e-5)
    assert all(math.isfinite(r["loss"]) for r in steps)


def test_the_old_evaluation_sweeps_over_validation_images(trained):
    where, run = trained
    options = ["--start_epoch", "1", "--stop_epoch", "3", "--idx_eval", "5", "--out", str(run / "sweep")]
    assert run_module("eval", [*where, *options]) == 0
    rows = [line.split() for line in (run / "sweep" / "best.txt").read_text().splitlines()[1:]]
    assert len(rows) == 2 * 7 and {row[0] for row in rows} == {"1", "2"}
    assert json.loads((run / "sweep" / "metrics.json").read_text())["split"] == "test"


def test_single_checkpoints_with_and_without_the_reliability(trained):
    where, run = trained
    kept = {}
    for name, options in {"all": ["--uncer", "False"], "some": ["--uncer", "True", "--uncer_thres", "0.99"]}.items():
        assert run_module("eval", [*where, "--single", "True", "--epoch", "2", *options, "--out", str(run / name)]) == 0
        kept[name] = json.loads((run / name / "metrics.json").read_text())["mean_kept"]
    assert kept["all"] > kept["some"]


def test_a_model_of_a_published_recipe_becomes_a_public_checkpoint(trained, capsys):
    """Possible where descriptors have the network's width: always in model 1, for 256-d features in model 2."""
    _, run = trained
    code = run_module("export", ["--format", "published", "--model", str(run / "model"), "--out", str(run / "public")])
    model = load_model(run / "model")
    if model.network.config.model == 2:
        assert code == 2 and "model.width" in capsys.readouterr().err
        return
    written = read_published(run / "public" / "demo_gallery_mlp.pth.tar").network
    assert code == 0 and written.config.model == 1 and written.descriptor_dim == 128
