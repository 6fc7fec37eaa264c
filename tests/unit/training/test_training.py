"""Training: batches, schedules, checkpoints, and a run that is stopped and resumed."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from d2s.config import OptimizationConfig, load_recipe
from d2s.errors import FormatError, MissingFileError, TrainingError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import load_model, model_bytes, save_model
from d2s.training.checkpoint import TrainingState, load_checkpoint
from d2s.training.data import TrainingSet
from d2s.training.draws import step_generator
from d2s.training.networks import landmark_count, make_network, make_optimizer
from d2s.training.run_dir import RunDir, default_run_name
from d2s.training.schedule import learning_rate
from d2s.training.tracking import JsonLines, format_seconds
from d2s.training.trainer import Trainer

INFO = ModelInfo("demo", "room", "metres", {"name": "sift"}, 40)
CAMERA = parse_camera("SIMPLE_RADIAL 640 480 500 320 240 0.05")


def small_set(images=6, rows=40, dim=16, points=60, seed=0, noise=0.05) -> TrainingSet:
    """A cloud of points with a descriptor each, seen by cameras in front of it; the last rows of each image have no label."""
    random = np.random.default_rng(seed)
    cloud = random.uniform([-1, -1, 3], [1, 1, 5], (points, 3))
    look = random.normal(size=(points, dim))
    xyz, keypoints, descriptors, poses, ids = [], [], [], [], []
    for _ in range(images):
        cam_from_world = pose.from_qvec_tvec([1, *random.normal(0, 0.05, 3)], random.normal(0, 0.2, 3))
        seen = random.permutation(points)[:rows]
        pixels, _ = project(CAMERA, pose.transform(cam_from_world, cloud[seen]))
        d = look[seen] + random.normal(0, noise, (rows, dim))
        xyz.append(cloud[seen])
        keypoints.append(pixels)
        descriptors.append(d / np.linalg.norm(d, axis=1, keepdims=True))
        poses.append(cam_from_world)
        ids.append(seen)
    valid = torch.ones(images, rows, dtype=torch.bool)
    valid[:, -10:] = False
    point = torch.where(valid, torch.tensor(np.array(ids)), -1)
    return TrainingSet(
        names=tuple(f"{i}.jpg" for i in range(images)),
        descriptors=torch.tensor(np.array(descriptors)).half(),
        keypoints=torch.tensor(np.array(keypoints)).float(),
        mask=torch.ones(images, rows, dtype=torch.bool),
        xyz=torch.tensor(np.array(xyz)).float(),
        valid=valid,
        point=point,
        weight=torch.ones(images, rows),
        cam_from_world=torch.tensor(np.array(poses)).float(),
        has_pose=torch.ones(images, dtype=torch.bool),
        camera=torch.zeros(images, dtype=torch.long),
        cameras=(CAMERA,),
        num_real=images,
    )


SMALL = """
model.blocks=1 model.width=16 model.heads=2 model.normalize_targets=yes training.precision=fp32 training.n_iters=12 training.batch_size=2
training.keypoints_per_image=20 training.snapshot=1 training.val_freq=0 optimization.lr=1e-2 optimization.schedule=onecycle
loss.map_loss=robust loss.reprojection_stage=1 loss.reprojection=dyntanh loss.coef_lrepr=0.1 augmentation.descriptor_noise=0.1
logging.print_freq=1
"""


def recipe(*changes):
    return load_recipe(None, [*SMALL.split(), "model.head_widths=32 32", *changes])


def trainer(the_recipe, data, path, state=None, trackers=(), validate=None):
    network = make_network(the_recipe, data)
    return Trainer(
        the_recipe, data, network, make_optimizer(the_recipe, network), state or TrainingState(), RunDir(path), INFO, trackers, validate
    )


def test_batches_prefer_labelled_rows_without_repeating_any():
    data = small_set()
    batch = data.batch(torch.tensor([0, 3]), 20, 0.9, step_generator(0, "rows", 0))
    assert batch.descriptors.shape == (2, 20, 16)
    assert (batch.valid.sum(1) >= 18).all()
    assert all(len({tuple(k) for k in image.tolist()}) == 20 for image in batch.keypoints)


def test_batches_use_padding_only_when_rows_run_out():
    data = small_set()
    data.mask[0, 8:] = False
    data.valid[0, 8:] = False
    batch = data.batch(torch.tensor([0]), 20, 0.5, step_generator(0, "rows", 0))
    assert batch.mask.sum() == 8 and batch.mask[0, :8].all()


def test_labels_and_keypoints_of_the_set_agree():
    data = small_set()
    pixels, _ = project(CAMERA, pose.transform(data.cam_from_world[2].numpy(), data.xyz[2].numpy()))
    assert np.abs(pixels - data.keypoints[2].numpy()).max() < 1e-2


def test_training_learns_the_scene(tmp_path):
    records: list[dict] = []
    changes = (
        "training.n_iters=250",
        "training.snapshot=100000",
        "augmentation.descriptor_noise=0",
        "loss.map_loss=mean",
        "model.norm=layer",
    )
    trainer(recipe(*changes), small_set(), tmp_path, trackers=[Recorder(records)]).run()
    steps = [record for record in records if record["kind"] == "step"]
    assert steps[-1]["map"] < 0.35 * steps[0]["map"]
    assert steps[-1]["reprojection"] < steps[0]["reprojection"]


def test_landmarks_are_learnt_from_where_matching_starts(tmp_path):
    records: list[dict] = []
    changes = ["model.model=3", "model.landmarks=50", "training.n_iters=100", "training.snapshot=100000", "optimization.lr=1e-3"]
    run = trainer(recipe(*changes), small_set(noise=0.6), tmp_path, trackers=[Recorder(records)])
    assert run.network.count == 50
    run.run()
    steps = [record["map"] + record["reliability"] for record in records if record["kind"] == "step"]
    assert np.mean(steps[-10:]) < 0.7 * np.mean(steps[:10])
    assert load_model(RunDir(tmp_path).checkpoint(run.state.epoch)).network.count == 50


def test_before_training_a_landmark_model_is_validated_and_kept_if_nothing_better_comes(tmp_path):
    values = iter([0.9, 0.1, 0.2, 0.3, 0.4])
    changes = ("model.model=3", "training.val_freq=1", "training.keep_checkpoints=1")
    run = trainer(recipe(*changes), small_set(), tmp_path, validate=lambda network: validation(next(values)))
    run.run()
    assert RunDir(tmp_path).checkpoints() == [0, 4] and run.state.best_epoch() == 0


def validation(score):
    return {"score": [score, 0.0], "median_t": 0.0, "median_r_deg": 0.0, "recall": 0.0, "recall_name": "", "n": 1}


class Recorder:
    def __init__(self, records):
        self.records = records

    def log(self, record):
        self.records.append(record)

    def close(self):
        pass


@pytest.mark.parametrize(("num_real", "step"), [(6, 6), (4, 8)], ids=["real images", "and extra ones"])
def test_a_stopped_and_resumed_run_ends_with_the_same_weights(tmp_path, num_real, step):
    data, the_recipe = replace(small_set(), num_real=num_real), recipe()
    whole = trainer(the_recipe, data, tmp_path / "whole")
    whole.run()

    stopped = trainer(the_recipe, data, tmp_path / "stopped")
    stopped._started, stopped._total_before = time.monotonic(), 0.0
    original = stopped._end_epoch

    def stop(finished):
        original(finished)
        if stopped.state.epoch == 2:
            raise KeyboardInterrupt

    stopped._end_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = trainer(the_recipe, data, tmp_path / "stopped")
    resumed.state = load_checkpoint(RunDir(tmp_path / "stopped").checkpoint(2), resumed.network, resumed.optimizer)
    assert resumed.state.step == step
    resumed.run()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_equal_seeds_give_equal_runs_and_other_seeds_others(tmp_path):
    weights = []
    for seed in (1, 1, 2):
        run = trainer(recipe(f"training.seed={seed}"), small_set(), tmp_path / str(len(weights)))
        run.run()
        weights.append(run.network.head[0].weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_checkpoints_are_kept_by_age_and_by_validation(tmp_path):
    values = iter([0.1, 0.9, 0.2, 0.3])
    changes = ("training.val_freq=1", "training.keep_checkpoints=1")
    run = trainer(recipe(*changes), small_set(), tmp_path, validate=lambda network: validation(next(values)))
    run.run()
    assert RunDir(tmp_path).checkpoints() == [2, 4] and run.state.best_epoch() == 2


def test_a_checkpoint_is_a_model_that_predicts(tmp_path):
    data = small_set()
    run = trainer(recipe(), data, tmp_path)
    run.run()
    model = load_model(RunDir(tmp_path).checkpoint(4), precision="fp32")
    features = LocalFeatures(data.keypoints[0].numpy(), np.ones(40, np.float32), data.descriptors[0].numpy(), (640, 480))
    xyz, reliability = model.predict(features)
    with torch.no_grad():
        expected, _ = run.network(data.descriptors[:1].float())
    assert np.abs(xyz - expected[0].numpy()).max() < 0.05  # half precision on disk
    assert xyz.shape == (40, 3) and ((reliability >= 0) & (reliability <= 1)).all()
    assert model.info.dataset == "demo" and model.info.train_seconds > 0


def test_model_files_round_trip_and_refuse_damage(tmp_path):
    network = make_network(recipe(), small_set())
    save_model(tmp_path / "model", network, INFO)
    assert load_model(tmp_path / "model").info == INFO
    assert load_model(tmp_path / "model" / "model.safetensors").info == INFO
    assert model_bytes(tmp_path / "model") == sum(f.stat().st_size for f in (tmp_path / "model").iterdir())
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FormatError, match="safetensors"):
        load_model(tmp_path / "model")
    with pytest.raises(MissingFileError, match="no trained model"):
        load_model(tmp_path)


def test_a_loss_that_is_not_finite_stops_with_a_remedy(tmp_path):
    with pytest.raises(TrainingError, match="lower|Lower"):
        trainer(recipe("optimization.lr=1e18", "optimization.opt=sgd", "training.n_iters=50"), small_set(), tmp_path).run()


def test_milestones_halve_the_rate_at_each_fifth():
    config = OptimizationConfig(lr=1.0, lr_decay=0.5)
    assert [learning_rate(config, p) for p in (0, 0.19, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0)] == [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.0625, 0.0625]
    assert learning_rate(OptimizationConfig(lr_add=3.0), 0.0, stage=2) == 3.0


def test_shrinking_takes_a_share_away_at_each_seventh():
    config = OptimizationConfig(lr=1.0, lr_decay=0.25, schedule="shrink")
    assert [learning_rate(config, p) for p in (0, 1 / 7, 0.5, 1.0)] == pytest.approx([1, 0.75, 0.75**3, 0.75**6])


@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_smooth_schedules_rise_to_the_peak_and_end_near_zero(schedule):
    config = OptimizationConfig(lr=2.0, schedule=schedule, warmup=0.1)
    rates = [learning_rate(config, p / 100) for p in range(101)]
    assert max(rates) == pytest.approx(2.0, rel=1e-3) and rates.index(max(rates)) == 10
    assert rates[0] < 0.1 and rates[-1] < 0.01 and min(rates) > 0


def test_metrics_of_a_resumed_run_read_like_one_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"total_steps": 1}\n{"total_steps": 2}\n{"total_steps": 3}\n{"total_st', encoding="utf-8")
    log = JsonLines(path, resume_after=2)
    log.log({"total_steps": 3, "again": True})
    log.close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"total_steps": 1}, {"total_steps": 2}, {"total_steps": 3, "again": True}]


def test_names_of_runs_and_times():
    assert default_run_name("7scenes", "chess", "fast", 2) == "7scenes_chess_fast_model_2"
    assert [format_seconds(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]


def test_a_large_place_has_more_landmarks():
    assert [landmark_count(images) for images in (1, 700, 950, 5000)] == [21000, 21000, 28500, 40000]
