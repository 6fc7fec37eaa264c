"""The bench of wrong and unknown cameras: its crops, and what it calls right."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.geometry import pose
from d2s.localization.result import LocalizationResult, Trust
from d2s.scene.manifest import SceneImage


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("cameras")


def photo():
    return cv2.resize(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0)])
def test_an_enlarged_part_shows_the_part_at_the_photos_size(bench, place):
    pixels = photo()
    found = bench.enlarged(pixels, 0.5, *place)
    left, top = round(48 * place[0]), round(36 * place[1])
    assert found.shape == pixels.shape
    shrunk = cv2.resize(found, (48, 36), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - pixels[top : top + 36, left : left + 48]).mean() < 8


def test_every_photo_is_asked_whole_and_in_parts_that_its_name_alone_decides(bench):
    first, again = bench.ways(photo(), "a.jpg"), bench.ways(photo(), "a.jpg")
    assert len(first) == 1 + 2 * len(bench.SHARES) and (first[bench.WHOLE] == photo()).all()
    assert all((first[way] == again[way]).all() and first[way].shape == (72, 96, 3) for way in first)


@pytest.mark.parametrize(("shift", "sigma", "right"), [(0.9, 0.01, True), (1.1, 0.01, False), (1.1, 1.0, True), (0.0, 0.01, True)])
def test_right_is_near_or_within_what_the_answer_says_of_itself(bench, shift, sigma, right):
    true = pose.from_qvec_tvec([1, 0, 0, 0], [0, 0, 0])
    found = pose.from_qvec_tvec([1, 0, 0, 0], [shift, 0, 0])
    nothing = np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, bool)
    trust = Trust(0.9, sigma**2 * np.eye(6))
    result = LocalizationResult(True, found, "", {"pnp": 1.0}, np.zeros((0, 2), np.float32), *nothing, trust=trust)
    answer = bench.judged(result, SceneImage("a", 1, true, "test"), 1.0)
    assert answer["right"] == right and answer["t"] == pytest.approx(shift) and not answer["refused"]


def test_refusals_are_counted_apart(bench):
    right = {"refused": False, "right": True, "camera_from": "mended", "t": 0.5, "sigmas": 1.0, "ms": 2.0}
    refused = {"refused": True, "right": False, "camera_from": "given", "t": np.inf, "sigmas": np.nan, "ms": 4.0}
    found = bench.figures([right, {**right, "right": False, "t": 2.0}, refused])
    assert [found[key] for key in ("photos", "right", "wrong", "refused", "mended")] == [3, 1, 1, 1, 2] and found["median_t"] == 10.0
