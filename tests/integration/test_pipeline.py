"""The whole main job on a tiny demo scene, through the command line: every file that the interfaces promise, and every kind of run."""

from __future__ import annotations

import configparser
import csv
import json
import math
import re
import shutil

import h5py
import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file

import d2s
from d2s.cli import run_module
from d2s.config import SECTIONS
from d2s.features.images import read_image
from d2s.geometry import pose
from d2s.geometry.camera import format_camera
from d2s.localization.trust import general_constants
from d2s.scene.manifest import Scene

STEPS = ["--set", "model.blocks=2", "--set", "training.max_minutes=0", "--set", "training.n_iters=14", "--set", "logging.print_freq=1"]
RESULT_KEYS = {"image", "success", "reason", "qvec", "tvec", "center", "inliers", "kept", "extracted", "confidence", "ms"}
TRUST_KEYS = {"sigma_t", "sigma_r_deg", "covariance", "refused_pose"}
RECALLS = {"1cm1deg", "2cm2deg", "3cm3deg", "5cm5deg", "10cm10deg", "25cm2deg", "50cm5deg", "500cm10deg"}
METRICS = {
    *("dataset", "scene", "n_queries", "n_failed", "median_t_cm", "median_r_deg", "recall", "ms", "map_bytes"),
    *("train_seconds", "features", "num_keypoints", "pnp", "seed", "versions"),
}


@pytest.fixture(scope="module")
def logs(tiny, tmp_path_factory):
    """A run of model 3 with attention, trained, evaluated on queries and mapping images, each as a process of its own."""
    folder = tmp_path_factory.mktemp("logs")
    tiny.d2s("train", *tiny.scene(folder, "run"), *STEPS, "--visdom", "off")
    tiny.d2s("eval", *tiny.scene(folder, "run"), "--out", folder / "out", "--eval_train", "1")
    return folder


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_scene_folder(tiny):
    manifest = json.loads((tiny.folder / "scene.json").read_text())
    assert {"format_version", "units", "cameras", "images", "features", "provenance"} <= set(manifest)
    assert manifest["features"]["name"] == "sift"
    assert len(manifest["features"]["settings_hash"]) > 8
    assert all({"name", "camera", "split", "cam_from_world"} <= set(image) for image in manifest["images"])
    report = json.loads((tiny.folder / "report.json").read_text())
    assert {"images", "labels_per_image", "track_length", "reprojection_error", "seconds"} <= set(report)
    assert pycolmap.Reconstruction(str(tiny.folder / "sfm")).num_points3D() > 100


def test_features_are_in_hlocs_layout_and_labels_row_aligned(tiny):
    with h5py.File(tiny.folder / "features.h5") as features, h5py.File(tiny.folder / "labels.h5") as labels:
        for image in Scene.load(tiny.folder).split("train"):
            group, label = features[image.name], labels[image.name]
            count = len(group["keypoints"])
            assert group["keypoints"].shape == (count, 2)
            assert group["keypoints"].dtype == np.float32
            assert group["scores"].shape == (count,)
            assert group["descriptors"].shape == (128, count)
            assert group["descriptors"].dtype == np.float16
            assert list(group["image_size"]) == [320, 240]
            assert label["xyz"].shape == (count, 3)
            assert label["xyz"].dtype == np.float32
            assert label["valid"].dtype == bool
            assert all(label[name].shape == (count,) for name in ("valid", "track_length", "error"))


def test_run_folder(logs):
    run = logs / "run"
    config = configparser.ConfigParser()
    config.read(run / "config.ini")
    assert set(config.sections()) == set(SECTIONS)
    assert config["training"]["n_iters"] == "14"
    assert "Training on 28 images" in (run / "train.log").read_text()
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["epoch_000", "epoch_001", "epoch_002"]
    assert {file.name for file in (run / "model").iterdir()} == {"model.safetensors", "model.json", "views.safetensors"}
    weights = load_file(run / "model" / "model.safetensors")
    assert sum(w.dtype == np.float16 for w in weights.values()) > len(weights) / 2
    state = json.loads((run / "state.json").read_text())
    assert state["finished_stages"] == [1]
    assert state["train_seconds"] > 0


def test_metrics_of_training(logs):
    found = records(logs / "run")
    steps = [r for r in found if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 15))
    assert all(math.isfinite(r["loss"]) and r["lr"] > 0 for r in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [r["epoch"] for r in found if r["kind"] == "validation"] == [0, 1, 2]


def test_results_are_poses_of_the_queries(tiny, logs):
    scene = Scene.load(tiny.folder)
    truth = {image.name: image.cam_from_world for image in scene.split("test")}
    lines = [line.split() for line in (logs / "out" / "results.txt").read_text().splitlines()]
    assert len(lines) >= 4
    for name, *numbers in lines:
        q, t = np.array(numbers[:4], float), np.array(numbers[4:], float)
        error_t, error_r = pose.pose_error(pose.from_qvec_tvec(q, t), truth[name])
        assert error_t < 0.2, name
        assert error_r < 5, name


def test_metrics_of_evaluation(tiny, logs):
    metrics = json.loads((logs / "out" / "metrics.json").read_text())
    assert set(metrics) >= METRICS
    assert set(metrics["recall"]) == RECALLS
    assert set(metrics["ms"]) == {"features", "regressor", "pnp", "total"}
    assert (metrics["dataset"], metrics["scene"]) == ("demo", "gallery")
    assert metrics["n_queries"] == 5
    assert metrics["median_t_cm"] < 5
    assert metrics["median_r_deg"] < 1
    assert metrics["recall"]["10cm10deg"] >= 0.8
    assert metrics["map_bytes"] == sum(file.stat().st_size for file in (logs / "run" / "model").iterdir())
    assert metrics["train_seconds"] == json.loads((logs / "run" / "state.json").read_text())["train_seconds"]
    assert (metrics["features"], metrics["num_keypoints"], metrics["pnp"], metrics["seed"]) == ("sift", 500, "poselib", 0)
    assert {"d2s", "torch", "pycolmap"} <= set(metrics["versions"])
    train = json.loads((logs / "out" / "train" / "metrics.json").read_text())
    assert train["n_queries"] == len(Scene.load(tiny.folder).split("train"))


def test_table_and_report_of_evaluation(logs):
    with (logs / "out" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert {"name", "success", "reason", "t_cm", "r_deg", "inliers", "kept", "extracted"} <= set(rows[0])
    assert any(column.startswith("ms") for column in rows[0])
    report = (logs / "out" / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert not any(outside in report for outside in ('src="http', 'href="http', "<script src"))


def test_matching_is_compared_with_and_the_page_drawn_again(tiny, logs, tmp_path):
    out = shutil.copytree(logs / "out", tmp_path / "out")
    assert run_module("eval", [*tiny.scene(logs, "run"), "--score_only", "1", "--compare_matching", "1", "--out", str(out)]) == 0
    matching = json.loads((out / "matching" / "map.json").read_text())
    assert matching["map_bytes"] > 1_000_000 and len((out / "matching" / "results.txt").read_text().splitlines()) >= 4
    page = (out / "report.html").read_text()
    assert "Beside matching" in page and "Where it works" in page and page.count("data:image/jpeg") >= 5
    assert not list((out / "matching").glob("*.h5")), "features of queries are not kept"
    (out / "report.html").unlink()
    assert run_module("report", [str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert json.loads((out / "metrics.json").read_text())["map_parts"]["landmarks"] > 0
    assert run_module("report", [str(tmp_path)]) == 2


def test_localize_prints_one_line_of_json(tiny, logs, capfd):
    scene = Scene.load(tiny.folder)
    images = [scene.path(image) for image in scene.split("test")[:2]]
    arguments = [option for path in images for option in ("--image", str(path))]
    capfd.readouterr()
    assert run_module("localize", ["--model", str(logs / "run" / "model"), *arguments, "--json", "--cudaid", "-1"]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("2 frames, 2 localized") and err.count("\n") == 1
    found = [json.loads(line) for line in out.splitlines()]
    assert [entry["image"] for entry in found] == [str(path) for path in images]
    for entry, image in zip(found, scene.split("test"), strict=False):
        assert set(entry) >= RESULT_KEYS | TRUST_KEYS
        cam_from_world = pose.from_qvec_tvec(np.array(entry["qvec"]), np.array(entry["tvec"]))
        assert_allclose(pose.center(cam_from_world), entry["center"], atol=1e-6)
        assert pose.pose_error(cam_from_world, image.cam_from_world)[0] < 0.2
        assert 0 < entry["confidence"] <= 1
        assert entry["inliers"] <= entry["kept"] <= entry["extracted"]


def test_model_localizes_without_the_scene_and_from_python(tiny, logs, tmp_path):
    scene = Scene.load(tiny.folder)
    image = scene.split("test")[0]
    shutil.copytree(logs / "run" / "model", tmp_path / "elsewhere")
    localizer = d2s.Localizer.load(tmp_path / "elsewhere")
    camera = scene.camera(image)
    results = [
        localizer.localize(str(scene.path(image)), format_camera(camera)),
        localizer.localize(scene.path(image), camera),
        localizer.localize(read_image(scene.path(image)), camera),
        d2s.Localizer.load(tmp_path / "elsewhere" / "model.safetensors").localize(scene.path(image), camera),
    ]
    for result in results:
        assert result.success, result.reason
        assert result.reason == ""
        assert result.num_inliers >= 10
        assert 0 < result.confidence <= 1
        assert_allclose(result.center, pose.center(result.cam_from_world))
        assert_allclose(result.cam_from_world, results[0].cam_from_world, atol=1e-9)
        assert pose.pose_error(result.cam_from_world, image.cam_from_world)[0] < 0.2


def test_the_model_says_how_far_it_can_be_trusted_and_refuses_other_places(tiny, logs):
    scene = Scene.load(tiny.folder)
    image = scene.split("test")[0]
    localizer = d2s.Localizer.load(logs / "run" / "model")
    assert localizer.info.trust["tolerance_t"] == 0.25 and localizer.judge.calibration.to_json() == localizer.info.trust
    pixels = read_image(scene.path(image))
    found = localizer.localize(pixels, scene.camera(image))
    assert found.trust.covariance.shape == (6, 6) and found.trust.sigma_t < 0.2
    elsewhere = localizer.localize(np.ascontiguousarray(pixels[:, ::-1]), scene.camera(image))  # a place that is its mirror image
    assert not elsewhere.success and elsewhere.reason
    metrics = json.loads((logs / "out" / "metrics.json").read_text())
    assert metrics["trust"]["n_found"] == sum(entry["n"] for entry in metrics["trust"]["bins"])
    assert metrics["min_confidence"] == general_constants().threshold
    fast = d2s.Localizer.load(logs / "run" / "model", min_confidence=1.0, effort="fast")  # else more is tried before a photo is refused
    strict = fast.localize(pixels, scene.camera(image))
    assert not strict.success
    assert_allclose(strict.refused_pose, found.cam_from_world)


def test_the_default_recipe_trains_nothing_and_says_so(tiny, tmp_path):
    output = tiny.d2s("train", *tiny.scene(tmp_path, "run"), "--visdom", "off")
    took, validated, model = output.splitlines()
    counts = re.fullmatch(r"Took (\d+) landmarks from the (\d+) points of 28 images .*; nothing is trained\.", took)
    landmarks, points = map(int, counts.groups())
    assert pycolmap.Reconstruction(str(tiny.folder / "sfm")).num_points3D() >= points > 100
    assert points < landmarks <= 3 * points  # a small place has room for two more descriptors of each
    assert re.match(r"validation without training: median 0\.\d+ m, .* 100 % within 5 cm/5 deg", validated)
    assert re.match(r"Model: .*run/model \(0\.\d MB\)\.", model)
    (record,) = records(tmp_path / "run")
    assert (record["kind"], record["step"], record["epoch"]) == ("validation", 0, 0)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["finished_stages"], state["model_epoch"]) == ([1], 0) and state["train_seconds"] > 0
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not any("blocks" in name for name in weights)
    assert "is already finished" in tiny.d2s("train", *tiny.scene(tmp_path, "run"), "--visdom", "off")


def test_a_place_without_validation_images_is_mapped_without_training_too(tiny, tmp_path):
    """No record, no step, and yet a model that localizes, which says what it took."""
    folder = tmp_path / "demo" / "gallery"
    shutil.copytree(tiny.folder, folder)
    manifest = json.loads((folder / "scene.json").read_text())
    manifest["images"] = [image for image in manifest["images"] if image["split"] != "val"]
    (folder / "scene.json").write_text(json.dumps(manifest))
    where = ["--dataset", "demo", "--scene", "gallery", "--data_dir", str(tmp_path), "--log_dir", str(tmp_path), "--name", "run"]
    assert run_module("train", [*where, "--visdom", "off", "--cudaid", "-1"]) == 0
    assert records(tmp_path / "run") == []
    assert run_module("eval", [*where, "--cudaid", "-1"]) == 0
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert metrics["train_seconds"] > 0 and metrics["recall"]["10cm10deg"] >= 0.8


@pytest.mark.parametrize("model", [1, 2])
def test_an_untrained_regression_fails_as_a_result(tiny, tmp_path, capfd, model):
    command = [*tiny.scene(tmp_path, "run"), "--model", str(model), "--visdom", "off", "--set", "training.n_iters=3"]
    assert run_module("train", command) == 0
    out = capfd.readouterr().out
    assert "none localized (4 images)" in out
    validation = records(tmp_path / "run")[-1]
    assert (validation["kind"], validation["median_t"], validation["recall"]) == ("validation", None, 0)
    scene = Scene.load(tiny.folder)
    image = str(scene.path(scene.split("test")[0]))
    assert run_module("localize", ["--model", str(tmp_path / "run" / "model"), "--image", image, "--json"]) == 0
    entry = json.loads(capfd.readouterr().out)
    assert entry["success"] is False
    assert entry["reason"]
    assert entry["qvec"] is entry["tvec"] is entry["center"] is None
    assert run_module("eval", tiny.scene(tmp_path, "run")) == 0
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert (metrics["n_queries"], metrics["n_failed"], metrics["median_t_cm"]) == (5, 5, None)
    assert set(metrics["recall"].values()) == {0}
    assert (tmp_path / "run" / "eval" / "results.txt").read_text() == ""


def test_second_stage_of_the_published_recipe(tiny, tmp_path):
    small = ["--set", "training.n_iters=6", "--set", "training.n_iters_add=4", "--set", "training.keypoints_per_image=128"]
    command = [*tiny.scene(tmp_path, "two"), "--config_file", "configs/configsV2.ini", "--visdom", "off", *small]
    command += ["--set", "logging.print_freq=1", "--set", "model.blocks=2"]
    assert run_module("train", [*command, "--resume_optim", "1"]) == 2  # there is no first stage yet
    assert run_module("train", command) == 0
    assert run_module("train", [*command, "--resume_optim", "1"]) == 0
    steps = [r for r in records(tmp_path / "two") if r["kind"] == "step"]
    assert [(r["stage"], r["step"], r["total_steps"]) for r in steps] == [
        *((1, i, i) for i in range(1, 7)),
        *((2, i, 6 + i) for i in range(1, 5)),
    ]
    assert not any("reprojection" in r for r in steps[:6])
    assert all(math.isfinite(r["reprojection"]) for r in steps[6:])
    assert (steps[0]["lr"], steps[6]["lr"]) == pytest.approx((1e-4, 1e-5))
    state = json.loads((tmp_path / "two" / "state.json").read_text())
    assert (state["finished_stages"], state["model_epoch"]) == ([1, 2], 2)
    assert run_module("train", [*command, "--resume_optim", "1"]) == 0
    assert len([r for r in records(tmp_path / "two") if r["kind"] == "step"]) == 10


def test_sweep_chooses_checkpoint_and_threshold_on_validation_images(tiny, logs, tmp_path, capfd):
    assert run_module("eval", [*tiny.scene(logs, "run"), "--start_epoch", "1", "--stop_epoch", "3", "--out", str(tmp_path)]) == 0
    assert "Best on validation: epoch" in capfd.readouterr().out
    table = [line.split() for line in (tmp_path / "best.txt").read_text().splitlines()[1:]]
    own = str(d2s.Localizer.load(logs / "run" / "model").threshold)
    thresholds = [own, "0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8"]  # the model's own, and the published ones
    assert sorted((row[0], row[-1]) for row in table) == sorted((epoch, threshold) for epoch in "12" for threshold in thresholds)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["model"].rsplit("_", 1)[1] in ("001", "002")
    assert metrics["split"] == "test"
    assert run_module("eval", [*tiny.scene(logs, "run"), "--start_epoch", "7", "--out", str(tmp_path)]) == 2


@pytest.mark.parametrize("backend", ["pycolmap", "opencv"])
def test_other_back_ends_and_single_checkpoints(tiny, logs, tmp_path, backend):
    options = ["--single", "--epoch", "1", "--pnp", backend, "--uncer_thres", "0.2", "--out", str(tmp_path)]
    assert run_module("eval", [*tiny.scene(logs, "run"), *options]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["pnp"], metrics["reliability_threshold"]) == (backend, 0.2)
    assert metrics["median_t_cm"] < 10
