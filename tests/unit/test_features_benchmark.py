"""The benchmark of local features: what it measures is right, and its page states what it measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from d2s.features.table import FEATURES
from d2s.scene.atomic import read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("features")


def test_the_page_about_benchmarks_states_what_was_measured(features: ModuleType) -> None:
    rows = read_json(features.RESULTS)["rows"]
    page = features.PAGE.read_text(encoding="utf-8")
    assert {FEATURES[name].descriptor_dim for name in rows} == {64, 128, 256, 512}
    assert features.with_table(page, rows) == page, "run: python benchmarks/features.py --page"


def test_a_match_off_its_epipolar_line_is_measured_in_pixels(features: ModuleType) -> None:
    """Two cameras side by side: epipolar lines are rows, so that only what y differs by counts."""
    focal, size = 500.0, (640, 480)
    here, there = (np.eye(3), np.zeros(3), focal), (np.eye(3), np.array([-1.0, 0, 0]), focal)
    first = np.array([[100.0, 50], [320, 240], [600, 400]])
    second = first - [[30.0, 0], [45, 0], [12, 0]] + [[0, 0], [0, 3], [0, -5]]
    np.testing.assert_allclose(features.epipolar_errors(first, second, here, there, size), [0, 3, 5], atol=1e-9)


def test_matches_are_mutual(features: ModuleType) -> None:
    a = np.eye(4)[[0, 1, 1]] + [[0, 0, 0, 0], [0, 0.1, 0, 0], [0, 0, 0, 0]]
    rows, columns = features.mutual_nearest(a, np.eye(4))
    assert list(zip(rows, columns, strict=True)) == [(0, 0), (1, 1)]


def test_a_feature_without_its_recipe_leaves_cells_empty(features: ModuleType) -> None:
    pairs = {"cpu_seconds": 0.0448, "matches_per_pair": 914.1, "within_1px": 0.388, "within_2px": 0.625}
    lines = features.table({"xfeat": {"pairs": pairs, "note": "made here"}}).splitlines()
    assert lines[2:] == ["| `xfeat` (made here) | 64 | 45 ms | 914 | 39 %, 62 % |  |  |  |"]
