"""What a run says while it goes on."""

from __future__ import annotations

import json

from d2s.training.tracking import Console, JsonLines

VALIDATION = {"kind": "validation", "epoch": 3, "recall": 0.0, "recall_name": "5 cm/5 deg", "unit": "m", "n": 4, "total_steps": 1}


def test_console_says_that_no_image_was_localized(caplog):
    caplog.set_level("INFO")
    Console().log({**VALIDATION, "median_t": None, "median_r_deg": None, "n_failed": 4})
    assert caplog.messages == ["validation at epoch 3: none localized (4 images)"]


def test_console_gives_no_median_where_it_is_infinite(caplog):
    caplog.set_level("INFO")
    Console().log({**VALIDATION, "median_t": None, "median_r_deg": None, "n_failed": 3, "recall": 0.25})
    assert caplog.messages == ["validation at epoch 3: 3 not localized, 25 % within 5 cm/5 deg (4 images)"]


def test_console_gives_the_median_otherwise(caplog):
    caplog.set_level("INFO")
    Console().log({**VALIDATION, "median_t": 0.0123, "median_r_deg": 0.5, "n_failed": 1, "recall": 0.75})
    assert caplog.messages == ["validation at epoch 3: median 0.0123 m, 0.50 deg, 75 % within 5 cm/5 deg (4 images)"]


def test_console_says_what_is_reached_without_training(caplog):
    caplog.set_level("INFO")
    Console().log({**VALIDATION, "epoch": 0, "median_t": 0.0123, "median_r_deg": 0.5, "n_failed": 0, "recall": 0.75})
    assert caplog.messages == ["validation without training: median 0.0123 m, 0.50 deg, 75 % within 5 cm/5 deg (4 images)"]


def test_an_infinite_median_is_null_in_the_file(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", 0)
    lines.log({**VALIDATION, "median_t": None})
    lines.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["median_t"] is None
