"""Training on extra images: shares of batches, weights, images without pose, what is recorded and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from d2s.cli import run_module
from d2s.config import LossConfig, OptimizationConfig, load_recipe
from d2s.errors import FormatError, MissingFileError, SettingsMismatchError
from d2s.features.base import LocalFeatures, settings_hash
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera
from d2s.regressor import losses
from d2s.scene.extra_images import ExtraImage, ExtraImages
from d2s.scene.feature_store import FeatureWriter
from d2s.scene.label_store import Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import load_training_set
from d2s.training.draws import epoch_length, epoch_order, step_generator
from d2s.training.extras import extras_record, load_extras
from d2s.training.networks import make_network, make_objective
from d2s.training.schedule import learning_rate

CAMERA, OTHER = parse_camera("SIMPLE_RADIAL 640 480 500 320 240 0.05"), parse_camera("PINHOLE 640 480 400 410 320 240")
SETTINGS = {"name": "made", "num_keypoints": 20}
POSE = pose.from_qvec_tvec([1, 0.1, 0, 0], [0, 0, 4])
POINTS = np.random.default_rng(0).uniform(-1, 1, (26, 3)).astype(np.float32)


def features(seed: int, count: int) -> LocalFeatures:
    random = np.random.default_rng(seed)
    descriptors = random.normal(size=(count, 8))
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float16)
    return LocalFeatures(random.uniform(0, 400, (count, 2)).astype(np.float32), np.ones(count, np.float32), descriptors, (640, 480))


def labels(seed: int, count: int, weight=None) -> Labels:
    random = np.random.default_rng(seed)
    xyz, valid = POINTS[random.permutation(len(POINTS))[:count]], np.arange(count) < count - 5
    return Labels(
        np.where(valid[:, None], xyz, 0).astype(np.float32), valid, np.full(count, 3, np.int32), np.zeros(count, np.float32), weight
    )


def write_images(folder: Path, names: list[str], count: int, seed: int, weight=None) -> None:
    writer = FeatureWriter(folder / "features.h5", SETTINGS)
    writer.write((name, features(seed + i, count)) for i, name in enumerate(names))
    writer.finish(names)
    write_labels(folder / "labels.h5", ((name, labels(seed + i, count, weight)) for i, name in enumerate(names)))


@pytest.fixture
def folder(tmp_path) -> Path:
    """8 training images of 20 keypoints; 3 copies, one without pose; 10 pseudo-labelled images with weights and 25 keypoints."""
    names = [f"{i}.jpg" for i in range(8)]
    images = tuple(SceneImage(name, 1, POSE, "train") for name in names)
    kind = {"name": "made", "settings": SETTINGS, "settings_hash": settings_hash(SETTINGS)}
    place = tmp_path / "made" / "place"
    Scene("made", "place", place, {1: CAMERA}, images, features=kind).save(place)
    write_images(place, names, 20, 0)
    copies = [
        ExtraImage("0.copy0.jpg", "0.jpg", OTHER, POSE),
        ExtraImage("1.copy0.jpg", "1.jpg"),
        ExtraImage("2.copy0.jpg", "2.jpg", CAMERA, POSE),
    ]
    ExtraImages("augment", kind["settings_hash"], tuple(copies)).save(place)
    write_images(place / "augment", [image.name for image in copies], 18, 100)
    unlabelled = tuple(ExtraImage(f"{i}.jpg", f"{i}.jpg", CAMERA) for i in range(10))  # names of other images, too
    ExtraImages("unlabel", kind["settings_hash"], unlabelled).save(place)
    weight = np.linspace(0, 1, 25).astype(np.float32)
    write_images(place / "unlabel", [image.name for image in unlabelled], 25, 200, weight)
    return place


def load(folder: Path, **options):
    scene = Scene.load(folder)
    return load_training_set(folder, scene, load_extras(folder, scene, **options))


def test_extra_images_follow_the_real_ones_with_weights_and_without_poses(folder):
    data = load(folder, augment=True, unlabel=True)
    assert (data.num_real, data.num_extra, len(data)) == (8, 13, 21)
    assert data.names[:2] == ("0.jpg", "1.jpg") and data.names[8] == "augment/0.copy0.jpg" and data.names[11] == "unlabel/0.jpg"
    assert data.has_pose.tolist() == [True] * 8 + [True, False, True] + [False] * 10
    assert data.mask.sum(1).tolist() == [20] * 8 + [18] * 3 + [25] * 10
    assert (data.weight[:8, :20] == 1).all() and (data.weight[:8, 20:] == 0).all()
    np.testing.assert_allclose(data.weight[12].numpy(), np.linspace(0, 1, 25), atol=1e-6)
    assert [data.cameras[int(i)].model.name for i in data.camera[[0, 8, 10]]] == ["SIMPLE_RADIAL", "PINHOLE", "SIMPLE_RADIAL"]
    assert len(data.cameras) == 2 and data.descriptors.dtype == torch.float16


def test_points_of_the_map_have_one_number_in_all_images(folder):
    data = load(folder, augment=True, unlabel=True)
    alone = load(folder)
    assert data.num_points == alone.num_points == len(POINTS)
    assert torch.equal(data.point[:8, :20], alone.point)
    numbers = {xyz.numpy().tobytes(): int(p) for xyz, p in zip(alone.xyz[alone.valid], alone.point[alone.valid], strict=True)}
    assert all(numbers[xyz.numpy().tobytes()] == int(p) for xyz, p in zip(data.xyz[data.valid], data.point[data.valid], strict=True))


def test_the_scene_alone_decides_statistics_bounds_and_landmarks(folder):
    data, alone = load(folder, augment=True, unlabel=True), load(folder)
    assert torch.equal(data.statistics()[0], alone.statistics()[0]) and data.bounds() == alone.bounds()
    recipe = load_recipe(None, ["model.model=3", "model.landmarks=50", "model.width=16", "model.heads=2", "model.blocks=1"])
    one, other = make_network(recipe, data), make_network(recipe, alone)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_labels_that_the_scene_does_not_have_are_refused(folder):
    names = ["0.copy0.jpg", "1.copy0.jpg", "2.copy0.jpg"]
    wrong = [replace(label, xyz=label.xyz + np.float32(1e-3)) for label in (labels(100 + i, 18) for i in range(3))]
    write_labels(folder / "augment" / "labels.h5", zip(names, wrong, strict=True))
    with pytest.raises(FormatError, match=r"augment.* labels of \d+ points that the scene does not have.*anew"):
        load(folder, augment=True)


def test_images_that_extend_the_map_take_part_in_what_it_is_made_of(folder):
    photos = ExtraImages.load(folder, "unlabel")
    new = replace(labels(7, 25), xyz=POINTS[:25] + np.float32(3))
    write_labels(folder / "unlabel" / "labels.h5", [(image.name, new) for image in photos.images])
    recipe = load_recipe(None, ["model.model=3", "model.landmarks=5000", "model.width=16", "model.heads=2", "model.blocks=1"])
    with pytest.raises(FormatError, match="points that the scene does not have"):
        load(folder, unlabel=True)
    before = load(folder)
    replace(photos, info={"extend": True}).save(folder)
    data = load(folder, augment=True, unlabel=True)
    assert data.num_real == before.num_real + len(photos.images)
    assert all(name.startswith("unlabel/") for name in data.names[before.num_real : data.num_real])
    places = {place.tobytes() for place in make_network(recipe, data).xyz.numpy()}
    assert {place.tobytes() for place in new.xyz[new.valid]} <= places
    older = make_network(recipe, before)  # it keeps its landmarks, whatever the numbers of its points are now
    landmark = make_objective(recipe, data, older, torch.device("cpu")).landmark_of_point[data.point[data.valid]]
    assert torch.equal(older.xyz[landmark[landmark >= 0]], data.xyz[data.valid][landmark >= 0])
    assert int((landmark < 0).sum()) == len(photos.images) * int(new.valid.sum())


def test_a_share_of_the_pseudo_labelled_images_is_drawn_by_the_seed(folder):
    scene = Scene.load(folder)

    def names(rate, seed=0):
        (extra,) = load_extras(folder, scene, unlabel=True, rate=rate, seed=seed)
        return [image.name for image in extra.images]

    assert len(names(0.3)) == 3 and names(0.3) == names(0.3) and set(names(0.3)) < set(names(0.6)) < set(names(1.0))
    assert names(0.5) != names(0.5, seed=1) and names(0.0) == []
    assert load(folder, unlabel=True, rate=0.0).num_extra == 0


def test_augmented_pseudo_labelled_images_come_along_where_there_are_any(folder):
    assert [extra.kind for extra in load_extras(folder, Scene.load(folder), augment=True, unlabel=True)] == ["augment", "unlabel"]
    images = replace(ExtraImages.load(folder, "unlabel"), kind="unlabel_augment")
    (folder / "unlabel_augment").mkdir()
    with pytest.raises(MissingFileError, match="process_unlabel_data_pls_augment"):
        load_extras(folder, Scene.load(folder), unlabel=True)
    images.save(folder)
    assert [extra.kind for extra in load_extras(folder, Scene.load(folder), unlabel=True)] == ["unlabel", "unlabel_augment"]


def test_features_of_other_settings_are_refused(folder):
    replace(ExtraImages.load(folder, "augment"), features_hash="other").save(folder)
    with pytest.raises(SettingsMismatchError, match="other settings"):
        load(folder, augment=True)


def test_the_record_changes_with_every_part_of_the_extra_images(folder):
    scene = Scene.load(folder)
    extras = load_extras(folder, scene, unlabel=True)
    record = extras_record(folder, extras)
    assert record["unlabel"]["images"] == 10 and record == json.loads(json.dumps(record))
    assert extras_record(folder, load_extras(folder, scene, unlabel=True, rate=0.5)) != record
    write_labels(folder / "unlabel" / "labels.h5", ((f"{i}.jpg", labels(300 + i, 25)) for i in range(10)))
    assert extras_record(folder, extras) != record


@pytest.mark.parametrize(("extra", "fraction"), [(3, 0.5), (8, 0.5), (40, 0.5), (13, 0.25), (5, 0.75)])
def test_every_stretch_of_an_epoch_has_its_share_of_extra_images(extra, fraction):
    orders = [epoch_order(8, extra, fraction, 0, "order 1", epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order[order < 8].tolist()) == list(range(8)) and len(order) == epoch_length(8, extra, fraction)
        counts = Counter(order[order >= 8].tolist())
        assert max(counts.values()) - (min(counts.values()) if len(counts) == extra else 0) <= 1
        windows = (order >= 8).float().unfold(0, 4, 1).sum(1)
        assert ((windows - 4 * fraction).abs() <= 1).all()
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[2], epoch_order(8, extra, fraction, 0, "order 1", 2))


def test_without_extra_images_the_order_is_a_plain_permutation():
    expected = torch.randperm(9, generator=step_generator(4, "order 2", 7))
    assert torch.equal(epoch_order(9, 0, 0.5, 4, "order 2", 7), expected) and epoch_length(9, 0, 0.5) == 9


def test_rows_that_count_nothing_are_drawn_last(folder):
    data = load(folder, unlabel=True)
    data.weight[9, :15] = 0
    batch = data.batch(torch.tensor([9]), 10, 0.0, step_generator(0, "rows", 0))
    assert (batch.weight > 0).all() and batch.mask.all()


def one_batch(folder):
    data = load(folder, augment=True, unlabel=True)
    return data, data.batch(torch.tensor([0, 12]), 0, 0.0, step_generator(0, "rows", 0))  # one with a pose, one without


@pytest.mark.parametrize("model", [2, 3])
@pytest.mark.parametrize("kind", ["batch", "image", "bce"])
def test_rows_of_weight_nothing_change_no_loss_and_halves_count_half(folder, model, kind):
    changes = [f"model.model={model}", "model.blocks=1", "model.width=16", "model.heads=2", "model.landmarks=50", "loss.map_loss=mean"]
    reliability = ["model.reliability=sigmoid", f"loss.reliability_loss={kind}", "loss.reprojection=none"]
    recipe = load_recipe(None, [*changes, *reliability])
    data, batch = one_batch(folder)
    batch = replace(batch, descriptors=batch.descriptors.float())
    objective = make_objective(recipe, data, make_network(recipe, data), torch.device("cpu"))

    def loss(weight, **values):
        terms = objective(replace(batch, weight=weight, **values), batch.mask, 0.5, 1)
        return {name: float(term.detach()) for name, term in terms.items()}

    weight = batch.mask.float()
    weight[1, :10] = 0
    moved = batch.xyz.clone()
    moved[1, :10] += 5
    swapped = batch.valid.clone()
    swapped[1, :3] = False
    assert loss(weight) == pytest.approx(loss(weight, xyz=moved), rel=1e-5)
    assert loss(weight) == pytest.approx(loss(weight, xyz=moved, valid=swapped), rel=1e-5)
    assert loss(batch.mask.float(), valid=swapped) != pytest.approx(loss(batch.mask.float()), rel=1e-3)
    halves = loss(0.5 * batch.mask.float())
    assert halves["map"] == pytest.approx(loss(batch.mask.float())["map"], rel=1e-3)  # means of equal weights
    twice = loss(torch.where(torch.arange(2)[:, None] == 1, 1.0, 0.1) * batch.mask)
    assert twice["map"] != pytest.approx(halves["map"], rel=1e-3)


@pytest.mark.parametrize("form", ["mean", "l1", "l1+sqrt", "l1+log", "tanh", "dyntanh"])
def test_images_without_pose_take_no_part_in_the_reprojection_loss(form):
    config = LossConfig(reprojection=form)
    errors, depth = torch.rand(2, 6) * 20, torch.ones(2, 6)
    valid = torch.ones(2, 6, dtype=torch.bool)
    posed = torch.tensor([[True], [False]])
    both = losses.reprojection_loss(config, errors, depth, valid & posed, valid & posed, 0.5)
    assert both == pytest.approx(float(losses.reprojection_loss(config, errors[:1], depth[:1], valid[:1], valid[:1], 0.5)))
    assert losses.reprojection_loss(config, errors, depth, valid & False, valid & False, 0.5) == 0


def test_reprojection_and_targets_by_error_use_poses_where_there_are_any(folder):
    changes = ["model.blocks=1", "model.width=16", "model.heads=2", "loss.reprojection_stage=1", "loss.reliability_target=error"]
    recipe = load_recipe(None, [*changes, "loss.coef_lrepr_unlabel=3"])
    data, batch = one_batch(folder)
    batch = replace(batch, descriptors=batch.descriptors.float())
    network = make_network(recipe, data)
    objective = make_objective(recipe, data, network, torch.device("cpu"))
    terms = objective(batch, batch.mask, 0.5, 1)
    sum(terms.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    elsewhere = batch.cam_from_world.clone()
    elsewhere[1, :, 3] += 1
    again = objective(replace(batch, cam_from_world=elsewhere), batch.mask, 0.5, 1)
    assert all(again[name].item() == term.item() for name, term in terms.items())
    third = objective(batch, batch.mask, 0.5, 3)
    assert third["reprojection"].item() == pytest.approx(0.3 * terms["reprojection"].item(), rel=1e-5)


def test_the_third_stage_has_a_rate_of_its_own():
    assert learning_rate(OptimizationConfig(lr_add_unlabel=7.0), 0.0, stage=3) == 7.0


STEPS = [
    "training.n_iters=16",
    "training.n_iters_add=4",
    "training.n_iters_unlabel_add=8",
    "training.max_minutes=0",
    "training.batch_size=4",
]
SMALL = ["model.blocks=1", "model.width=16", "model.heads=2", "training.snapshot=1", "logging.print_freq=1"]


def train(folder, *options, name="run"):
    changes = [word for change in [*STEPS, *SMALL] for word in ("--set", change)]
    where = [
        "--dataset",
        "made",
        "--scene",
        "place",
        "--data_dir",
        str(folder.parent.parent),
        "--log_dir",
        str(folder / "logs"),
        "--name",
        name,
    ]
    return run_module("train", [*where, "--config_file", "configs/configsV2.ini", "--visdom", "off", "--cudaid", "-1", *changes, *options])


def metrics(folder, name="run"):
    lines = (folder / "logs" / name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "step"]


def state(folder, name="run"):
    return json.loads((folder / "logs" / name / "state.json").read_text())


def test_three_stages_one_after_the_other(folder, capsys):
    assert train(folder) == 0
    assert train(folder, "--resume_optim", "1", "--augment", "1") == 0
    assert train(folder, "--resume_optim", "1", "--unlabel", "1", "--unlabel_rate", "0.5") == 0
    steps = metrics(folder)
    assert Counter(step["stage"] for step in steps) == {1: 16, 2: 4, 3: 8}
    first = {stage: next(step for step in steps if step["stage"] == stage) for stage in (1, 2, 3)}
    assert [first[stage]["lr"] for stage in (1, 2, 3)] == [1e-4, 1e-5, 5e-5]
    assert ["reprojection" in first[stage] for stage in (1, 2, 3)] == [False, True, True]
    assert state(folder)["finished_stages"] == [1, 2, 3]
    noted = state(folder)["extra_images"]
    assert {stage: {kind: entry["images"] for kind, entry in kinds.items()} for stage, kinds in noted.items()} == {
        "1": {}, "2": {"augment": 3}, "3": {"unlabel": 5},
    }  # fmt: skip


def test_the_third_stage_follows_the_first_one_too_and_nothing_follows_it(folder, capsys):
    assert train(folder, "--unlabel", "1") == 0
    assert train(folder, "--unlabel", "1", "--resume_optim", "1") == 0
    assert Counter(step["stage"] for step in metrics(folder)) == {1: 16, 3: 8}
    capsys.readouterr()
    assert train(folder, "--resume_optim", "1") == 2
    assert "is past stage 2 already: its last checkpoint is of stage 3" in capsys.readouterr().err


def test_a_run_goes_on_with_the_extra_images_that_it_began_with_only(folder, capsys):
    assert train(folder, "--augment", "1") == 0
    before = (folder / "logs" / "run" / "state.json").read_bytes()
    for options in ([], ["--augment", "1", "--unlabel", "1"]):
        capsys.readouterr()
        assert train(folder, *options) == 2
        assert "other extra images in this stage (3 augment" in capsys.readouterr().err.replace("images: 3", "3")
    assert (folder / "logs" / "run" / "state.json").read_bytes() == before
    assert train(folder, "--augment", "1") == 0
    assert train(folder, "--resume", "never") == 0 and state(folder)["extra_images"] == {"1": {}}


def test_a_missing_folder_names_the_option_that_makes_it(folder, capsys):
    (folder / "unlabel" / "images.json").unlink()
    assert train(folder, "--unlabel", "1") == 2
    message = capsys.readouterr().err
    assert "Run: d2s preprocess --process_unlabel_data true" in message and message.count("\n") == 1
    assert not (folder / "logs").exists()
