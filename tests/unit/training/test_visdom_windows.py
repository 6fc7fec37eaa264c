"""What the windows of a training show, without a server."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from d2s.errors import FormatError, MissingFileError
from d2s.training.metrics_reader import MetricsReader
from d2s.training.validation_view import MAX_POINTS as MAX_VIEW_POINTS
from d2s.training.validation_view import ValidationView, spread
from d2s.training.visdom_windows import CURVES, MAX_POINTS, NAMES, Curve, Windows, columns, curve_options, points_groups, points_options


def step(number: int, **values) -> dict[str, object]:
    return {"kind": "step", "total_steps": number, "loss": 2.0, "map": 1.5, "reliability": 0.5, "lr": 1e-3, **values}


def validation(number: int, **values) -> dict[str, object]:
    errors = {"median_t": 0.02, "median_r_deg": 0.3, "unit": "m", "recall": 0.75, "recall_name": "5 cm/5 deg"}
    return {"kind": "validation", "total_steps": number, "epoch": 1, **errors, **values}


def view(**changes) -> ValidationView:
    values = {
        "image": "a.jpg", "unit": "m", "picture": np.arange(9, dtype=np.uint8), "predicted": np.eye(3, dtype=np.float32),
        "inlier": np.array([True, True, False]), "mapped": np.ones((4, 3), np.float32) * np.arange(4, dtype=np.float32)[:, None],
        "centers": np.array([[0, 1, 2], [np.nan] * 3], np.float32), "kept": 3, "extracted": 7,
    }  # fmt: skip
    return ValidationView(**{**values, **changes})


def test_windows_hold_what_the_records_have() -> None:
    windows = Windows()
    for record in (validation(0), step(1), step(20, reprojection=7.0), validation(20, median_t=None, median_r_deg=None)):
        windows.add(record)
    found = {name: [curve.x for _, curve in windows.traces(window)] for window in CURVES for name in [window.name]}
    both = [1, 20]
    assert found == {
        "loss_win": [both], "3dmap_loss": [both], "uncer_loss": [both], "reprj_loss": [[20]], "val_error": [[0], [0]],
        "val_recall": [[0, 20]], "lr_win": [both],
    }  # fmt: skip
    assert windows.names() == [name for name in NAMES if name in found]
    assert windows.changed == set(found)


def test_metres_are_shown_in_centimetres_and_other_units_as_they_are() -> None:
    error = next(window for window in CURVES if window.name == "val_error")
    for unit, value, label in (("m", 2.0, "distance [cm]"), ("scene units", 0.02, "distance [scene units]")):
        windows = Windows()
        windows.add(validation(0, unit=unit))
        assert windows.traces(error)[0][1].y == [pytest.approx(value)]
        assert windows.label(error) == label
        assert windows.curves["val_recall", "recall"].y == [75.0]


@pytest.mark.parametrize("count", [1, MAX_POINTS, MAX_POINTS + 1, 5 * MAX_POINTS + 3])
def test_long_curves_are_thinned_evenly_and_keep_both_ends(count: int) -> None:
    curve = Curve()
    for number in range(count):
        curve.add(number, -float(number))
        assert curve.x[0] == 0
        assert curve.x[-1] == number
        assert len(curve.x) <= MAX_POINTS
    assert curve.y == [-x for x in curve.x]
    gaps = np.diff(curve.x)[:-1]
    assert len(set(gaps)) <= 1
    assert len(curve.x) > min(count, MAX_POINTS) / 2 - 1


def test_traces_with_other_steps_share_a_window() -> None:
    left, right = Curve([1, 2, 4], [1.0, 2.0, 4.0]), Curve([0, 4], [5.0, 6.0])
    steps, values = columns([left, right])
    assert steps.tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(values, [[np.nan, 5], [1, np.nan], [2, np.nan], [4, 6]])


def test_axes_have_units_and_the_second_one_its_trace() -> None:
    error = next(window for window in CURVES if window.name == "val_error")
    layout = curve_options(error, list(error.traces), "distance [cm]")["layoutopts"]["plotly"]
    assert layout["yaxis"]["title"]["text"] == "distance [cm]"
    assert layout["yaxis2"]["title"]["text"] == "angle [deg]"
    styles = curve_options(error, list(error.traces), "distance [cm]")["traceopts"]["plotly"]
    assert [styles[trace.name].get("yaxis") for trace in error.traces] == [None, "y2"]
    one = CURVES[0]
    assert "yaxis2" not in curve_options(one, list(one.traces), "loss")["layoutopts"]["plotly"]


def test_points_are_grouped_and_stray_predictions_do_not_stretch_the_axes() -> None:
    stray = view(predicted=np.full((3, 3), 1e6, np.float32))
    groups = points_groups(stray)
    assert [(name, len(points)) for name, _, _, points in groups] == [
        ("4 SfM points", 4), ("2 predicted, inliers", 2), ("1 predicted, others", 1), ("camera, true", 1),
    ]  # fmt: skip
    scene = points_options(stray, groups)["layoutopts"]["plotly"]["scene"]
    assert all(-1 < scene[axis]["range"][0] < scene[axis]["range"][1] < 5 for axis in ("xaxis", "yaxis", "zaxis"))
    assert scene["xaxis"]["title"]["text"] == "x [m]"


def test_a_view_is_read_as_it_was_written(tmp_path) -> None:
    path, written = tmp_path / "view.npz", view()
    written.save(path)
    read = ValidationView.load(path)
    assert (read.image, read.unit, read.kept, read.extracted) == ("a.jpg", "m", 3, 7)
    for name in ("picture", "predicted", "inlier", "mapped", "centers"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert [entry.name for entry in tmp_path.iterdir()] == ["view.npz"]


def test_a_missing_and_a_damaged_view_are_named(tmp_path) -> None:
    path = tmp_path / "view.npz"
    with pytest.raises(MissingFileError, match=r"view\.npz"):
        ValidationView.load(path)
    view().save(path)
    data = path.read_bytes()
    for broken in (b"", data[: len(data) // 2], b"no archive"):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=r"view\.npz"):
            ValidationView.load(path)
    np.savez(path.with_suffix(""), image=np.array("a.jpg"))
    with pytest.raises(FormatError, match=r"view\.npz"):
        ValidationView.load(path)


def test_rows_are_spread_evenly() -> None:
    assert spread(np.arange(3)).tolist() == [0, 1, 2]
    assert spread(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert len(spread(np.zeros((10 * MAX_VIEW_POINTS, 3)))) == MAX_VIEW_POINTS
    assert spread(np.zeros((0, 3))).shape == (0, 3)


def test_records_are_read_once_and_half_lines_later(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert reader.read() == ([], False)
    lines = [json.dumps(step(number)) for number in range(3)]
    path.write_text(lines[0] + "\nno record\n{}\n[1]\n" + lines[1][:9])
    assert reader.read() == ([step(0)], False)
    assert reader.read() == ([], False)
    with path.open("a") as file:
        file.write(lines[1][9:] + "\n" + lines[2] + "\n")
    assert reader.read() == ([step(1), step(2)], False)


@pytest.mark.parametrize("rename", [True, False], ids=["renamed", "shorter"])
def test_a_file_that_is_written_anew_is_noticed(tmp_path, rename: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(step(number)) + "\n" for number in range(3)))
    reader = MetricsReader(path)
    assert len(reader.read()[0]) == 3
    new = tmp_path / "new" if rename else path
    new.write_text(json.dumps(step(9)) + "\n")
    os.replace(new, path)
    assert reader.read() == ([step(9)], True)
    assert reader.read() == ([], False)
