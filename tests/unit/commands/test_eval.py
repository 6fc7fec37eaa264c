"""`d2s eval` on a place whose network is replaced by the answers."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from d2s.cli import main
from d2s.evaluation.conventions import other_convention
from d2s.evaluation.pose_files import read_results, write_results
from d2s.evaluation.score import RECALLS, score_images
from d2s.geometry import pose
from d2s.scene.manifest import Scene


def evaluate(place, *more):
    code = main(["eval", *place.arguments(*more)])
    metrics = place.run_dir / "eval" / "metrics.json"
    return code, json.loads(metrics.read_text()) if metrics.is_file() else None


def rows(folder):
    with (folder / "per_image.csv").open() as file:
        return list(csv.DictReader(file))


def test_default_evaluates_the_model_on_the_test_images(place, capsys):
    code, metrics = evaluate(place)
    out = place.run_dir / "eval"
    assert code == 0
    written = {"results.txt", "predictions.jsonl", "per_image.csv", "metrics.json", "report.html", "report_data.npz"}
    assert {p.name for p in out.iterdir()} == written
    assert (metrics["n_queries"], metrics["n_failed"]) == (8, 1)
    assert 0 < metrics["median_t_cm"] < 3 and 0 < metrics["median_r_deg"] < 1
    assert set(metrics["recall"]) == set(RECALLS) and metrics["recall"]["50cm5deg"] == 7 / 8
    assert set(metrics["ms"]) == {"features", "regressor", "pnp", "total"} and metrics["ms"]["total"] > 0
    expected = {
        "dataset": "made",
        "scene": "arc",
        "features": "made",
        "num_keypoints": 150,
        "pnp": "poselib",
        "seed": 3,
        "train_seconds": 12.0,
    }
    assert expected.items() <= metrics.items() and metrics["map_bytes"] == 3 and "numpy" in metrics["versions"]
    printed = capsys.readouterr().out
    assert "within 5 cm, 5°" in printed and str(out / "report.html") in printed and "1 not localized" in printed


def test_failure_is_a_row_with_its_reason(place):
    evaluate(place)
    failed = [row for row in rows(place.run_dir / "eval") if row["success"] == "0"]
    assert [row["name"] for row in failed] == ["17.png"]
    assert "chance" in failed[0]["reason"] and failed[0]["t_cm"] == "inf" and failed[0]["kept"] == "150"
    results = read_results(place.run_dir / "eval" / "results.txt")
    assert "17.png" not in results and len(results) == 7
    true = {image.name: image.cam_from_world for image in Scene.load(place.scene_dir).images}
    assert all(pose.pose_error(estimated, true[name])[0] < 0.1 for name, estimated in results.items())


def test_same_command_gives_the_same_poses(place):
    evaluate(place)
    first = (place.run_dir / "eval" / "results.txt").read_bytes()
    evaluate(place)
    assert (place.run_dir / "eval" / "results.txt").read_bytes() == first


def test_unreadable_image_is_a_row_but_not_when_all_are(place, capsys):
    place.image(18).write_bytes(b"no image")
    code, metrics = evaluate(place)
    assert code == 0 and metrics["n_failed"] == 2
    assert "18.png" in next(row["reason"] for row in rows(place.run_dir / "eval") if row["name"] == "18.png")
    for index in range(16, 24):
        place.image(index).unlink()
    code, _ = evaluate(place)
    assert code == 2 and "None of the 8 images" in capsys.readouterr().err


def test_report_is_self_contained(place):
    evaluate(place)
    page = (place.run_dir / "eval" / "report.html").read_text()
    assert len(page) < 5e6 and page.count("data:image/jpeg") >= 8 and page.count("<svg") >= 3
    assert not any(outside in page for outside in ('src="http', 'href="http', "<script src", "<link", "import(", "fetch("))
    assert "17.png" in page and "no more than chance" in page


def test_scores_of_existing_results_can_be_renewed(place, capsys):
    _, before = evaluate(place)
    out = place.run_dir / "eval"
    lines = (out / "results.txt").read_text().splitlines()
    (out / "results.txt").write_text("\n".join(lines[2:]) + "\n")
    code, after = evaluate(place, "--score_only")
    assert code == 0 and after["n_failed"] == before["n_failed"] + 2 and after["n_queries"] == 8
    assert after["map_bytes"] == 3 and after["pnp"] == "poselib"
    assert evaluate(place, "--score_only", "--eval_train")[0] == 2
    (out / "results.txt").write_text("someone_else.png 1 0 0 0 0 0 0\n")
    assert evaluate(place, "--score_only")[0] == 2
    told = capsys.readouterr().err
    assert "someone_else" in told and f"those of the scene, for example {Scene.load(place.scene_dir).split('test')[0].name!r}" in told


def test_poses_of_another_program_can_be_scored(place, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    true = Scene.load(place.scene_dir).split("test")
    lines = [" ".join([i.name, *(str(v) for part in pose.to_qvec_tvec(i.cam_from_world) for v in part)]) for i in true]
    (other / "results.txt").write_text("\n".join(lines))
    assert evaluate(place, "--score_only", "--out", str(other))[0] == 0
    metrics = json.loads((other / "metrics.json").read_text())
    assert metrics["n_failed"] == 0 and metrics["median_t_cm"] < 1e-6 and metrics["map_bytes"] is None
    table = capsys.readouterr().out
    assert "median error" in table and " -" not in table and "map size" not in table, "what it does not say is left out"
    assert (other / "report.html").is_file()


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_poses_in_another_convention_are_noticed(place, inverted, last):
    lines = []
    for image in Scene.load(place.scene_dir).split("test"):
        turned = pose.compose(
            [[0, 0.6, 0.8, 0.1], [1, 0, 0, -0.2], [0, 0.8, -0.6, 0.4]], image.cam_from_world
        )  # no rotation is its own inverse
        image = replace(image, cam_from_world=turned)
        qvec, tvec = pose.to_qvec_tvec(pose.inverse(turned) if inverted else turned)
        lines.append((image, [*np.roll(qvec, -1 if last else 0), *tvec]))
    poses = {image.name: pose.from_qvec_tvec(values[:4], values[4:]) for image, values in lines}
    found = other_convention(score_images([image for image, _ in lines], poses))
    named = [name for name, wrong in (("camera to world", inverted), ("quaternions x y z w", last)) if wrong]
    assert found == (" with ".join(named) or None)


def test_a_file_in_another_convention_is_named(place, tmp_path, capsys):
    true = {image.name: pose.inverse(image.cam_from_world) for image in Scene.load(place.scene_dir).split("test")}
    write_results(tmp_path / "results.txt", true)
    assert evaluate(place, "--score_only", "--out", str(tmp_path))[0] == 0
    printed = capsys.readouterr()
    assert "results.txt: read as camera to world, the poses agree" in printed.out + printed.err


def test_mapping_images_are_evaluated_from_their_features(place):
    code, _ = evaluate(place, "--eval_train")
    metrics = json.loads((place.run_dir / "eval" / "train" / "metrics.json").read_text())
    assert code == 0 and (metrics["split"], metrics["n_queries"], metrics["n_failed"]) == ("train", 12, 0)
    assert metrics["ms"]["features"] == 0


@pytest.mark.parametrize("options", [["--single", "--epoch", "1"], ["--epoch", "1"]])
def test_one_checkpoint(place, options):
    _, best = evaluate(place)
    code, metrics = evaluate(place, *options)
    assert code == 0 and metrics["model"].endswith("epoch_001") and metrics["mean_inliers"] < best["mean_inliers"]


def test_checkpoint_by_path(place):
    code, metrics = evaluate(place, "--checkpoint", str(place.run_dir / "checkpoints" / "epoch_003"))
    assert code == 0 and metrics["model"].endswith("epoch_003")


def test_sweep_ranks_on_validation_and_evaluates_the_best(place):
    code, metrics = evaluate(place, "--start_epoch", "1", "--stop_epoch", "4")
    assert code == 0 and metrics["model"].endswith("epoch_002") and metrics["split"] == "test" and metrics["n_queries"] == 8
    header, *entries = (place.run_dir / "eval" / "best.txt").read_text().splitlines()
    assert header.split() == ["#", "epoch", "med_t", "med_R", "ratio", "uncer_thres"] and len(entries) == 3 * 7
    assert entries[0].split()[0] == "2" and float(entries[0].split()[4]) == metrics["reliability_threshold"]
    assert {entry.split()[0] for entry in entries[-7:]} == {"1"}


def test_sweep_is_half_open(place):
    evaluate(place, "--stop_epoch", "2")
    assert {line.split()[0] for line in (place.run_dir / "eval" / "best.txt").read_text().splitlines()[1:]} == {"1"}


def test_sweep_needs_validation_images(place, capsys):
    scene = Scene.load(place.scene_dir)
    place.change_scene(images=scene.split("train", "test"))
    assert evaluate(place, "--start_epoch", "1")[0] == 2 and "validation" in capsys.readouterr().err


def test_reliability_threshold(place):
    kept = [
        evaluate(place, *options)[1]["mean_kept"] for options in ([], ["--uncer", "0"], ["--uncer_thres", "0.1"], ["--uncer_thres", "0.95"])
    ]
    assert kept == [pytest.approx((7 * 112 + 150) / 8), 150, 150, 50]


@pytest.mark.parametrize("pnp", ["pycolmap", "opencv"])
def test_other_back_ends(place, pnp):
    code, metrics = evaluate(place, "--pnp", pnp, "--max_error", "8")
    assert code == 0 and (metrics["pnp"], metrics["max_error"], metrics["n_failed"]) == (pnp, 8.0, 1)


def test_scene_without_scale_is_not_given_in_centimetres(place, capsys):
    place.change_scene(units="arbitrary")
    code, metrics = evaluate(place)
    assert code == 0 and metrics["median_t_cm"] is None and set(metrics["recall"].values()) == {None}
    assert metrics["median_t_relative"] == pytest.approx(metrics["median_t"] / metrics["scene_extent"])
    assert metrics["recall_relative"]["10%5deg"] == 7 / 8
    printed = capsys.readouterr().out
    assert " cm" not in printed and "no metric scale" in printed
    assert " cm<" not in (place.run_dir / "eval" / "report.html").read_text()
    assert {row["t_cm"] for row in rows(place.run_dir / "eval")} == {""}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--epoch", "7"], "1, 2, 3"),
        (["--epoch", "1", "--start_epoch", "1"], "exclude"),
        (["--checkpoint", "x", "--single"], "exclude"),
        (["--start_epoch", "9"], "1, 2, 3"),
        (["--start_epoch", "1", "--uncer_thres", "0.5"], "sweep"),
        (["--uncer", "0", "--uncer_thres", "0.5"], "--uncer"),
        (["--uncer_thres", "1.5"], "between 0 and 1"),
        (["--name", "nowhere"], "nowhere"),
        (["--score_only", "--out", "nowhere"], "nowhere"),
        (["--max_error", "-3"], "max_error"),
    ],
)
def test_wrong_use_is_one_line(place, capsys, options, word):
    assert evaluate(place, *options)[0] == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_images_without_a_known_pose_count_in_no_metric(place):
    scene = Scene.load(place.scene_dir)
    images = [i if i.name != "20.png" else type(i)(i.name, i.camera_id, None, i.split) for i in scene.images]
    place.change_scene(images=tuple(images))
    _, metrics = evaluate(place)
    assert metrics["n_queries"] == 7 and "20.png" in read_results(place.run_dir / "eval" / "results.txt")


def test_most_queries_failing_gives_valid_json(place, monkeypatch, capsys):
    for module in ("base", "misfit"):  # with the given camera, and with one that is found anew
        monkeypatch.setattr(f"d2s.localization.{module}.is_by_chance", lambda *_: True)
    code, metrics = evaluate(place)
    assert code == 0 and metrics["n_failed"] == 8 and metrics["median_t_cm"] is None and metrics["recall"]["500cm10deg"] == 0
    assert not np.isnan(metrics["ms"]["total"])
    assert re.search("median error +infinite", capsys.readouterr().out)
