"""The benchmark of trust: what it learns, counts and promises."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.localization.signals import SIGNALS

CONDITIONS = ("same recording", "another day", "changed photo", "another place")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trust(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("trust")


def made(where: str, shown: str, quality: float, error: float | None, name: int, kind: str = "as it is", doubt: float = 0.1) -> dict:
    """A row whose signals all follow `quality`, the good ones upwards and the bad ones downwards."""
    random = np.random.default_rng(name)
    signs = np.array([-1 if signal in ("residual", "angle") else 1 for signal in SIGNALS])
    row = {"model": where, "where": where, "shown": shown, "image": str(name), "split": "val", "kind": kind, "tolerance": (0.25, 2.0)}
    row |= {"close": 0.05, "condition": CONDITIONS[name % 3] if where == shown else CONDITIONS[3]}
    row |= {"found": True, "inliers": 9, "signals": (signs * quality + 0.3 * random.normal(size=len(SIGNALS))).tolist()}
    row |= {"doubt": doubt}
    if error is not None:
        row |= {"difference": [*(0.001 * random.normal(size=3)), *(error * random.normal(size=3))]}
        row |= {"covariance": np.diag([1e-6] * 3 + [1e-4] * 3).tolist()}
    return row


def rows(seed: int = 0) -> list[dict]:
    """Three places: good poses of their own photos, some bad ones, and poses of other places' photos."""
    random, places, made_rows = np.random.default_rng(seed), ("a", "b", "c"), []
    for number in range(150):
        where = places[number % 3]
        quality = random.uniform(-1, 2)
        made_rows.append(made(where, where, quality, 0.02 if quality > random.uniform(-0.4, 0.4) else 3.0, 1000 * seed + number))
        made_rows.append(made(where, places[(number + 1) % 3], random.uniform(-2, -1), None, 1000 * seed + 500 + number))
    return made_rows


def test_it_learns_what_speaks_for_a_pose(trust):
    constants = trust.fit(rows())
    weights = dict(zip(SIGNALS, constants.weights, strict=True))
    assert all(weights[name] <= 0 for name in ("residual", "angle"))
    assert weights["surprise"] > 0 and sum(abs(weight) > 0.2 for weight in weights.values()) > 1
    good, bad = made("d", "d", 1.5, 0.01, 1), made("d", "a", -1.5, None, 2)
    assert trust.probability(good, constants) > 0.9 and trust.probability(bad, constants) < 0.03
    assert constants.threshold in trust.THRESHOLDS
    assert constants.factor == pytest.approx(1.55, rel=0.15)  # 2 cm where 1 cm is stated, rotations as stated


def test_it_learns_what_doubt_says_of_poses_that_the_image_supports(trust):
    alike = [{**made("a", "a", 2.0, 3.0, 9000 + n, doubt=0.8 + 0.02 * n), "inliers": 300} for n in range(8)]
    unsure = [{**made("a", "a", 2.0, 0.02, 9100 + n, doubt=0.3 + 0.02 * n), "inliers": 300} for n in range(8)]
    plain, learnt = trust.fit(rows()), trust.fit([*rows(), *alike, *unsure])
    assert all(trust.is_alike(row) for row in alike) and not any(trust.is_alike(row) for row in [*unsure, *rows()])
    assert all(trust.evidence(row, learnt) > 0.9 for row in alike)  # no support tells a look-alike
    assert max(trust.probability(row, learnt) for row in alike) < 0.5 < 0.6 < min(trust.probability(row, learnt) for row in unsure)
    assert min(trust.probability(row, plain) for row in alike) > 0.6


def test_a_signal_cannot_learn_the_opposite_of_what_it_must_mean(trust):
    turned = [{**row, "signals": [*(-np.array(row["signals"])).tolist()]} for row in rows()]
    assert not np.any(trust.fit(turned).weights)


def test_figures_count_photos_and_refusals(trust):
    missing = {key: value for key, value in made("a", "b", 0, None, 7).items() if key not in ("signals", "doubt")} | {"found": False}
    mapped, chance = {**made("a", "a", 1.0, 3.0, 8), "split": "train"}, {**made("b", "b", -1.0, 3.0, 10), "found": False}
    all_rows = [*rows(0), *rows(1), missing, mapped, chance]
    report = trust.measure(all_rows, trust.fit(all_rows))
    others, own = report["shipped"]["other_places"]["all"], report["shipped"]["own_place"]["all"]
    assert (others["photos"], others["poses"]) == (301, 300) and others["share"] == others["accepted"] / 301
    assert own["photos"] == 301 and own["recall"] == pytest.approx(own["recall_without"] - own["lost"])
    assert own["close_recall"] == pytest.approx(own["close_recall_without"] - own["close_lost"]) and own["close_recall"] < own["recall"]
    assert own["wrong"] < own["wrong_without"]
    assert report["unseen_place"]["reliability"]["own place"]["ece"] < 0.08
    assert set(report["unseen_place"]["own_place"]) == {"all", "a", "b", "c", *CONDITIONS[:3]}
    covariance = report["covariance"]["a"]
    assert abs(math.log(covariance["calibrated"])) < 0.3 and covariance["residuals_alone"] > 1.3 * covariance["calibrated"]
    poses = [report["stated"][name]["poses"] for name in CONDITIONS[:3]]
    assert sum(poses) == sum(report["covariance"][name]["poses"] for name in ("a", "b", "c")) and min(poses) > 20
    assert report["stated"]["another day"]["within_95"] > 0.95 and report["stated"]["another day"]["error_over_stated"] < 0.7
    json.dumps(report, allow_nan=False)
    assert "other places" in trust.describe(report)


def test_harm_is_counted_by_condition(trust):
    all_rows = [*rows(0), {**made("a", "a", 3.0, 3.0, 3), "found": False}]
    found = trust.conditions(all_rows)
    assert {name: one["photos"] for name, one in found.items()} == {trust.POOL: 151, "another place": 150}
    for name, own in ((trust.POOL, True), ("another place", False)):
        wrong = [row for row in all_rows if trust.is_own(row) == own and row["found"] and not trust.is_right(row)]
        assert 0 < len(found[name]["wrong"]) <= len(wrong) and found[name]["wrong"] == sorted(found[name]["wrong"], reverse=True)
    assert max(found["another place"]["wrong"]) < 0.1  # confidences, by constants that did not see the place


def test_harm_counts_the_worse_of_both_answers(trust):
    """A wrong pose harms whether it was there at first or came of trying harder; a photo counts once."""
    right, wrong = made("a", "a", 2.0, 0.02, 3), made("a", "a", 2.0, 3.0, 3)
    answer = {key: wrong[key] for key in ("found", "inliers", "signals", "doubt", "difference", "covariance")}
    both = [trust.conditions([*rows(0), one])[trust.POOL] for one in ({**right, "effort": answer}, wrong, right)]
    assert both[0] == both[1] and both[0]["photos"] == both[2]["photos"] == 151
    assert max(both[0]["wrong"]) > max(both[2]["wrong"])
    assert trust.after_effort([{**right, "effort": answer}, {**right, "effort": None}])[0]["difference"] == wrong["difference"]


def test_a_smaller_share_of_wrong_poses_costs_more(trust):
    prices = trust.price([*rows(0), *rows(1), *rows(2)])
    assert list(prices) == ["0.1", "0.05", "0.02", "0.01"]
    least = [one["confidence"] for one in prices.values()]
    assert least == sorted(least)
    for share, one in prices.items():
        assert np.mean([one[name]["wrong"] for name in CONDITIONS[:3]]) <= float(share) >= one["another place"]["wrong"]
    assert list(trust.price(rows()[:120])) == ["0.1", "0.05", "0.02"]  # sixty photos cannot speak for one in a hundred


def test_perfect_confidences_have_a_calibration_error_by_chance(trust):
    random = np.random.default_rng(0)
    p = random.uniform(0, 1, 400)
    found = [({**made("a", "a", 1.0, 0.02 if random.uniform() < one else 3.0, n), "found": True}, float(one)) for n, one in enumerate(p)]
    measured = trust.reliability(found)
    assert 0 < measured["ece_by_chance"] < measured["ece_by_chance_at_most"] < 0.15
    assert measured["ece"] < 2 * measured["ece_by_chance_at_most"]
    assert trust.reliability(found[:40])["ece_by_chance"] > 1.5 * measured["ece_by_chance"]


def test_one_place_has_no_other_places(trust, tmp_path):
    with pytest.raises(InputError, match="fewer than two places"):
        trust.main(["--runs", str(tmp_path), "--work", str(tmp_path)])


def test_the_kept_figures_are_what_was_promised():
    report = json.loads((ROOT / "benchmarks" / "results" / "trust.json").read_text(encoding="utf-8"))
    constants = json.loads((ROOT / "d2s" / "localization" / "trust.json").read_text(encoding="utf-8"))
    assert all(
        report["constants"][name] == constants[name] for name in ("mean", "scale", "weights", "bias", "alike", "threshold", "factor")
    )
    for part in ("shipped", "unseen_place"):
        assert report[part]["other_places"]["all"]["photos"] >= 200
        assert report[part]["other_places"]["all"]["share"] <= 0.01
        assert report[part]["own_place"]["all"]["close_lost"] <= 0.02
        assert report[part]["reliability"]["own place"]["ece"] <= 0.04


def test_the_page_states_what_was_measured(trust):
    report = json.loads(trust.RESULTS.read_text(encoding="utf-8"))
    page = trust.PAGE.read_text(encoding="utf-8")
    assert trust.with_table(page, report) == page, "run: python benchmarks/trust.py --again"
    assert trust.risk_table(report["max_wrong"]) in trust.RISK_PAGE.read_text(encoding="utf-8")
