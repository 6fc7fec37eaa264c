"""Reliability of confidences: bins, false refusals, the figure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2s.evaluation.reliability import (
    expected_calibration_error,
    reliability_bins,
    reliability_section,
    right_within,
    summarize_trust,
    wilson,
)
from d2s.evaluation.score import Score, score_images
from d2s.geometry import pose
from d2s.scene.manifest import SceneImage

HERE = pose.from_qvec_tvec([1, 0, 0, 0], [0, 0, 0])


def image(name: str = "a") -> SceneImage:
    return SceneImage(name, 1, HERE, "test")


def score(confidence: float, t: float, accepted: bool = True, sigma_t: float | None = None) -> Score:
    """A query whose pose is `t` metres off."""
    shown = HERE if accepted else None
    errors = (t, 0.0) if accepted else (math.inf, math.inf)
    return Score(image(), shown, *errors, confidence=confidence, found_t=t, found_r_deg=0.0, sigma_t=sigma_t)


def test_false_refusals_and_false_accepts_are_counted():
    scores = [score(0.99, 0.01), score(0.9, 2.0), score(0.2, 0.02, accepted=False), score(0.1, 5.0, accepted=False)]
    trust = summarize_trust([*scores, Score(image(), None, math.inf, math.inf)], "metres", 4.0, 0.5)
    counts = ("n_found", "n_refused", "n_refused_right", "n_accepted_wrong")
    assert [trust[name] for name in counts] == [4, 2, 1, 1]
    assert (trust["tolerance_t"], trust["tolerance_r_deg"], trust["min_confidence"]) == (0.25, 2.0, 0.5)


def test_without_scale_right_is_a_share_of_the_extent():
    assert right_within("arbitrary", 20.0) == (1.0, 5.0) and right_within("metres", 20.0) == (0.25, 2.0)


def test_poses_of_another_program_have_no_reliability():
    assert summarize_trust(score_images([image()], {"a": HERE}), "metres", 1.0) is None
    assert reliability_section(None) == ("", "")


def test_bins_hold_what_falls_into_them():
    confidence = np.array([0.0, 0.05, 0.95, 0.95, 1.0])
    bins = reliability_bins(confidence, np.array([False, True, True, False, True]))
    assert [(b["low"], b["high"], b["n"]) for b in bins] == [(0.0, 0.1, 2), (0.9, 0.97, 2), (0.97, 1.0, 1)]
    assert [b["observed"] for b in bins] == [0.5, 0.5, 1.0] and bins[0]["expected"] == pytest.approx(0.025)
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.475 + 2 * 0.45 + 0) / 5)


def test_confidences_that_are_right_have_a_small_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(0, 1, 20_000)
    honest = reliability_bins(confidence, random.uniform(0, 1, 20_000) < confidence)
    boasting = reliability_bins(confidence, random.uniform(0, 1, 20_000) < confidence**3)
    assert expected_calibration_error(honest) < 0.02 < 0.15 < expected_calibration_error(boasting)


def test_errors_are_compared_with_what_was_stated():
    scores = [score(0.9, t, sigma_t=0.01) for t in (0.005, 0.02, 0.04)]
    trust = summarize_trust(scores, "metres", 4.0)
    assert trust["error_over_sigma_t"] == pytest.approx(2.0) and trust["error_over_sigma_r"] is None


def test_refused_poses_are_scored_from_predictions():
    qvec, tvec = pose.to_qvec_tvec(pose.from_qvec_tvec([1, 0, 0, 0], [0.5, 0, 0]))
    refused = {"qvec": qvec.tolist(), "tvec": tvec.tolist(), "center": [0, 0, 0]}
    prediction = {"image": "a", "reason": "no", "confidence": 0.3, "refused_pose": refused, "sigma_t": 0.2}
    (found,) = score_images([image()], {}, {"a": prediction})
    assert not found.success and math.isinf(found.t) and found.reason == "no"
    assert (found.found_t, found.confidence, found.sigma_t) == (pytest.approx(0.5), 0.3, 0.2)


def test_the_section_shows_and_says_what_was_found():
    trust = summarize_trust([score(0.99, 0.01)] * 8 + [score(0.2, 0.02, accepted=False)], "metres", 4.0, 0.5)
    figure, caption = reliability_section(trust)
    assert figure.startswith("<svg") and figure.rstrip().endswith("</svg>")
    assert "25 cm and 2 degrees" in caption and "1 of 9 poses were refused" in caption and "1 of them right" in caption


@pytest.mark.parametrize(("share", "n", "low", "high"), [(1.0, 10, 0.722, 1.0), (0.0, 100, 0.0, 0.037), (0.5, 40, 0.352, 0.648)])
def test_intervals_are_wilsons(share, n, low, high):
    np.testing.assert_allclose(wilson(share, n), (low, high), atol=1e-3)
