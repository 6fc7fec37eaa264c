"""When a pose is more than chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2s.geometry.camera import parse_camera
from d2s.localization.acceptance import hit_probability, log10_false_alarms
from d2s.localization.correspondences import Correspondences
from d2s.localization.table import make_estimator

CAMERA = parse_camera("SIMPLE_PINHOLE 640 480 525 320 240")


def points_in(width, height):
    pixels = np.array([[0, 0], [width, 0], [0, height], [width, height], [width / 2, height / 2]], dtype=float)
    return Correspondences.clean(pixels, np.zeros((5, 3)), CAMERA)


def test_tail_of_the_binomial():
    # 4 * C(5, 3) hypotheses, and both remaining points hit by chance
    assert log10_false_alarms(5, 5, 0.1) == pytest.approx(math.log10(4 * 10 * 0.1**2))
    assert log10_false_alarms(4, 5, 0.1) == pytest.approx(math.log10(4 * 10 * (1 - 0.9**2)))
    assert log10_false_alarms(3, 5, 0.1) == math.inf


def test_more_inliers_are_less_likely_chance():
    values = [log10_false_alarms(k, 500, 0.0015) for k in range(4, 200, 7)]
    assert (np.diff(values) < 0).all() and values[-1] < -100


def test_more_points_and_larger_thresholds_ask_for_more_inliers():
    assert log10_false_alarms(12, 2000, 0.0015) > log10_false_alarms(12, 100, 0.0015)
    assert hit_probability(points_in(639, 479), 12.0) > hit_probability(points_in(639, 479), 3.0)


def test_a_network_that_sees_one_spot_everywhere_is_refused():
    random = np.random.default_rng(0)
    centers = random.uniform([40, 40], [600, 440], (12, 2))
    for seed in range(5):
        random = np.random.default_rng(seed)
        pixels = centers[random.integers(0, 12, 120)] + 8 * random.normal(size=(120, 2))
        found = make_estimator().estimate(pixels, 0.005 * random.normal(size=(120, 3)), CAMERA)
        assert not found.success and "chance" in found.reason


def test_keypoints_on_one_small_object_are_hit_more_easily():
    small, large = (hit_probability(points_in(*size), 12.0) for size in ((40, 30), (639, 479)))
    assert small > 10 * large and large == pytest.approx(math.pi * 144 / (640 * 480))
    # two of ten pairs are close
    pairs = np.array([[10, 10], [12, 10], [600, 400], [603, 400], [300, 5]], dtype=float)
    assert hit_probability(Correspondences.clean(pairs, np.zeros((5, 3)), CAMERA), 12.0) == pytest.approx(0.2)


def test_probability_is_at_most_one():
    assert hit_probability(points_in(5, 5), 600.0) == 1.0 and log10_false_alarms(5, 5, 1.0) > 0
