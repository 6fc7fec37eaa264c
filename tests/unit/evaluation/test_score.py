"""Metrics from poses."""

from __future__ import annotations

import csv
import io
import math

import cv2
import numpy as np
import pytest

from d2s.errors import InputError
from d2s.evaluation.score import per_image_csv, scene_extent, score_images, summarize
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera
from d2s.scene.manifest import Scene, SceneImage


def camera_at(x, angle_deg=0.0):
    rotation = cv2.Rodrigues(np.array([0, math.radians(angle_deg), 0]))[0]
    return np.column_stack([rotation, -rotation @ [x, 0, 0]])


def image(name, cam_from_world, split="test"):
    return SceneImage(name, 1, cam_from_world, split)


IMAGES = [image(f"{i}", camera_at(float(i))) for i in range(4)]
OFF = {"0": camera_at(0.005, 0.5), "1": camera_at(1.04, 4.0), "2": camera_at(2.3, 1.0)}  # "3" failed


def test_errors_of_each_image():
    scores = score_images(IMAGES, OFF)
    assert [round(s.t, 9) for s in scores] == [0.005, 0.04, 0.3, math.inf]
    np.testing.assert_allclose([s.r_deg for s in scores], [0.5, 4.0, 1.0, math.inf], atol=1e-9)
    assert [s.success for s in scores] == [True, True, True, False] and scores[3].reason


def test_failures_stay_in_medians_and_denominators():
    metrics = summarize(score_images(IMAGES, OFF), "metres", 3.0)
    assert (metrics["n_queries"], metrics["n_failed"]) == (4, 1)
    assert metrics["median_t_cm"] == pytest.approx(17.0) and metrics["median_r_deg"] == pytest.approx(2.5)
    expected = {"1cm1deg": 1, "2cm2deg": 1, "3cm3deg": 1, "5cm5deg": 2, "10cm10deg": 2, "25cm2deg": 1, "50cm5deg": 3, "500cm10deg": 3}
    assert metrics["recall"] == {name: count / 4 for name, count in expected.items()}


def test_infinite_medians_are_null():
    metrics = summarize(score_images(IMAGES, {"0": OFF["0"]}), "metres", 3.0)
    assert metrics["median_t_cm"] is None and metrics["median_r_deg"] is None and metrics["recall"]["1cm1deg"] == 0.25


def test_arbitrary_units_are_relative_to_the_extent():
    metrics = summarize(score_images(IMAGES, OFF), "arbitrary", 5.0)
    assert metrics["median_t_cm"] is None and metrics["recall"]["5cm5deg"] is None
    assert metrics["median_t_relative"] == pytest.approx(0.17 / 5)
    assert metrics["recall_relative"]["1%5deg"] == 0.5 and metrics["recall_relative"]["0.2%1deg"] == 0.25
    assert summarize(score_images(IMAGES, OFF), "arbitrary", 0.0)["median_t_relative"] is None


def test_medians_of_times_and_counts():
    predictions = {str(i): {"kept": 10 * i, "inliers": i, "extracted": 50, "ms": {"pnp": float(i), "total": 9.0}} for i in range(3)}
    predictions["3"] = {"reason": "dark", "ms": {}, "kept": 0, "inliers": 0, "extracted": 0}
    scores = score_images(IMAGES, OFF, predictions)
    metrics = summarize(scores, "metres", 3.0)
    assert metrics["ms"] == {"features": None, "regressor": None, "pnp": 1.0, "total": 9.0}
    assert metrics["mean_kept"] == 7.5 and scores[3].reason == "dark"


def test_unknown_true_poses_are_not_scored():
    scores = score_images([*IMAGES, image("unknown", None)], OFF)
    assert len(scores) == 4
    with pytest.raises(InputError, match="known pose"):
        score_images([image("unknown", None)], {})


def test_table_per_image():
    text = per_image_csv(score_images(IMAGES, OFF, {"3": {"reason": "a, b"}}), "metres", 3.0)
    rows = list(csv.DictReader(io.StringIO(text)))
    start = [
        "name",
        "success",
        "reason",
        "t_cm",
        "r_deg",
        "inliers",
        "kept",
        "extracted",
        "ms_features",
        "ms_regressor",
        "ms_pnp",
        "ms_total",
    ]
    assert list(rows[0])[: len(start)] == start
    assert rows[1]["t_cm"] == "4.0000" and rows[3]["t_cm"] == "inf" and rows[3]["reason"] == "a, b" and rows[0]["kept"] == ""
    arbitrary = list(csv.DictReader(io.StringIO(per_image_csv(score_images(IMAGES, OFF), "arbitrary", 4.0))))
    assert arbitrary[1]["t_cm"] == "" and arbitrary[1]["t"] == "0.040000" and arbitrary[1]["t_relative"] == "0.010000"


def test_extent_is_that_of_all_known_cameras():
    images = (image("a", camera_at(-1.0), "train"), image("b", camera_at(3.0, 90.0)), image("c", None))
    scene = Scene("d", "s", None, {1: parse_camera("SIMPLE_PINHOLE 4 4 4 2 2")}, images)
    assert scene_extent(scene) == pytest.approx(4.0)
    np.testing.assert_allclose(pose.center(camera_at(3.0, 90.0)), [3, 0, 0], atol=1e-12)
