"""Ranking of checkpoints and thresholds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.evaluation.sweep import SweepEntry, best_entry, ranking_tolerance, sweep_table
from d2s.geometry.camera import parse_camera
from d2s.scene.manifest import Scene, SceneImage


def test_best_recall_wins_then_the_lower_error_then_the_later_epoch():
    entries = [
        SweepEntry(1, 0.5, 0.01, 0.1, 0.7),
        SweepEntry(2, 0.5, 0.03, 0.1, 0.9),
        SweepEntry(3, 0.6, 0.02, 0.1, 0.9),
        SweepEntry(4, 0.7, 0.02, 0.1, 0.9),
        SweepEntry(5, 0.5, math.inf, math.inf, 0.0),
    ]
    assert best_entry(entries) is entries[3] and best_entry(entries[:3]) is entries[2]
    lines = sweep_table(entries).splitlines()
    assert lines[0] == "# epoch med_t med_R ratio uncer_thres" and [line.split()[0] for line in lines[1:]] == ["4", "3", "2", "1", "5"]
    with pytest.raises(InputError):
        best_entry([])


def test_tolerances_of_idx_eval():
    poses = [np.column_stack([np.eye(3), [-x, 0, 0]]) for x in (0.0, 10.0)]
    images = tuple(SceneImage(str(i), 1, p, "train") for i, p in enumerate(poses))
    cameras = {1: parse_camera("SIMPLE_PINHOLE 4 4 4 2 2")}
    metres, arbitrary = (Scene("d", "s", Path("."), cameras, images, units) for units in ("metres", "arbitrary"))
    assert (
        ranking_tolerance(0, metres) == (0.05, 5)
        and ranking_tolerance(3, metres) == (0.35, 360)
        and ranking_tolerance(5, metres) == (0.5, 10)
    )
    assert ranking_tolerance(0, arbitrary) == (pytest.approx(0.1), 5)  # 1 % of 10
