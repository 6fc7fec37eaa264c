"""The windows that show a training in Visdom: what they hold, from the records of `metrics.jsonl`, and how they look. Knows no server."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.training.validation_view import ValidationView

MAX_POINTS = 1000
"""Points of a curve: more than a window is wide only cost time."""

WIDTH, HEIGHT = 420, 260
"""Size of a window with curves, in pixels: three fill the width of a common screen."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """A curve: its name in the legend, the record's value that it shows, its colour, and whether it has the axis on the right."""

    name: str
    key: str
    color: str
    right: bool = False

    def value(self, record: Record) -> float | None:
        """None where the record has none; metres become centimetres, shares percent."""
        value = record.get(self.key)
        if value is None:
            return None
        centimetres = self.key == "median_t" and record.get("unit") == "m"
        return float(value) * (100.0 if centimetres or self.key == "recall" else 1.0)


BLUE, ORANGE, GREEN, RED, GREY, BLACK = "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#7f8790", "#000000"


@dataclass(frozen=True)
class CurveWindow:
    """A window of curves over steps. Names of windows and of traces are those of the published code where it has them."""

    name: str
    text: str
    traces: tuple[Trace, ...]
    label: str = "loss"
    log: bool = False
    limits: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """What the window's bar says."""
        return f"{self.name}: {self.text}"


CURVES = (
    CurveWindow("loss_win", "total loss", (Trace("train_loss", "loss", BLUE), Trace("val_loss", "validation_loss", ORANGE))),
    CurveWindow("3dmap_loss", "scene coordinates", (Trace("3dmap_loss", "map", BLUE),)),
    CurveWindow("uncer_loss", "reliability", (Trace("uncer_loss", "reliability", BLUE),)),
    CurveWindow("reprj_loss", "reprojection", (Trace("reprj_loss", "reprojection", BLUE),)),
    CurveWindow(
        "val_error",
        "median error on validation images",
        (Trace("median_t", "median_t", BLUE), Trace("median_r_deg", "median_r_deg", ORANGE, right=True)),
        label="distance",
    ),
    CurveWindow("val_recall", "validation images localized", (Trace("recall", "recall", GREEN),), label="% of images", limits=(-3, 103)),
    CurveWindow("lr_win", "learning rate", (Trace("lr", "lr", BLUE),), label="learning rate", log=True),
)

POINTS_WINDOW, KEYPOINTS_WINDOW = "val_points", "val_keypoints"
NAMES = (*(window.name for window in CURVES), POINTS_WINDOW, KEYPOINTS_WINDOW)


@dataclass
class Curve:
    """Points of a trace. Beyond MAX_POINTS every second one is left out; the newest is always there."""

    x: list[int] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    stride: int = 1
    count: int = 0

    def add(self, step: int, value: float) -> None:
        """Append a point."""
        if self.count and (self.count - 1) % self.stride:  # the last one was there only as the newest
            self.x.pop(), self.y.pop()
        self.x.append(step)
        self.y.append(value)
        self.count += 1
        if len(self.x) > MAX_POINTS:
            self._thin()

    def _thin(self) -> None:
        self.stride *= 2
        self.x, self.y = self.x[::2] + self.x[-1:] * self._loose(), self.y[::2] + self.y[-1:] * self._loose()

    def _loose(self) -> int:
        """1 when the newest point is not one of those that stay, and the thinned list lacks it."""
        return int(bool((self.count - 1) % self.stride) and len(self.x) % 2 == 0)


class Windows:
    """What all windows of a run show, and which of them have changed since they were sent (`changed`)."""

    def __init__(self) -> None:
        self.curves: dict[tuple[str, str], Curve] = {}
        self.labels: dict[str, str] = {}
        self.view: ValidationView | None = None
        self.epoch = 0
        self.changed: set[str] = set()

    def add(self, record: Record) -> None:
        """Take what a record has."""
        for window in CURVES:
            for trace in window.traces:
                value = trace.value(record)
                if value is not None and math.isfinite(value):
                    self.curves.setdefault((window.name, trace.name), Curve()).add(int(record["total_steps"]), value)
                    self.changed.add(window.name)
        if "unit" in record:
            self.labels["val_error"] = f"distance [{'cm' if record['unit'] == 'm' else record['unit']}]"
        if "recall_name" in record:
            self.labels["val_recall"] = f"% within {record['recall_name']}"

    def show(self, view: ValidationView, epoch: int) -> None:
        """Take what a validation image looked like after an epoch."""
        self.view, self.epoch = view, epoch
        self.changed |= {POINTS_WINDOW, KEYPOINTS_WINDOW}

    def names(self) -> list[str]:
        """Windows that have something to show, in the order in which they stand on the page."""
        filled = {window for window, _ in self.curves} | ({POINTS_WINDOW, KEYPOINTS_WINDOW} if self.view else set())
        return [name for name in NAMES if name in filled]

    def resend(self) -> None:
        """Everything must be sent again."""
        self.changed = set(self.names())

    def traces(self, window: CurveWindow) -> list[tuple[Trace, Curve]]:
        """The traces of a window that have points."""
        found = ((trace, self.curves.get((window.name, trace.name))) for trace in window.traces)
        return [(trace, curve) for trace, curve in found if curve is not None]

    def label(self, window: CurveWindow) -> str:
        """Text of the axis on the left."""
        return self.labels.get(window.name, window.label)


def columns(curves: Iterable[Curve]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps (N,) that any of the M curves has, and values (N, M) with NaN where a curve has none."""
    curves = list(curves)
    steps = np.unique(np.concatenate([curve.x for curve in curves]))
    values = np.full((len(steps), len(curves)), np.nan)
    for column, curve in enumerate(curves):
        values[np.searchsorted(steps, curve.x), column] = curve.y
    return steps.astype(np.float64), values


def curve_options(window: CurveWindow, traces: list[Trace], label: str) -> dict[str, Any]:
    """Options of `visdom.line` for a window."""
    styles = {trace.name: _style(trace) for trace in traces}
    right = [trace for trace in traces if trace.right]
    layout: dict[str, Any] = {
        "title": "", "showlegend": True, "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
        "margin": {"l": 62, "r": 60 if right else 18, "t": 44, "b": 42},
        "xaxis": {"title": {"text": "step", "standoff": 4}, "rangemode": "tozero"},
        "yaxis": {**_axis(label, traces[0].color if right else None), **_scale(window)},
    }  # fmt: skip
    if right:
        second = {"overlaying": "y", "side": "right", "showgrid": False, "zeroline": False, "rangemode": "tozero"}
        layout["yaxis2"] = {**_axis("angle [deg]", right[0].color), **second}
    return {
        "title": window.title, "legend": [trace.name for trace in traces], "width": WIDTH, "height": HEIGHT,
        "traceopts": {"plotly": styles}, "layoutopts": {"plotly": layout},
    }  # fmt: skip


def _axis(label: str, color: str | None) -> dict[str, Any]:
    """Where a window has two axes, each has the colour of its curve."""
    axis: dict[str, Any] = {"title": {"text": label, "standoff": 4}, "exponentformat": "e"}
    return {**axis, "color": color} if color else axis


def _scale(window: CurveWindow) -> dict[str, Any]:
    if window.limits:
        return {"range": list(window.limits)}
    return {"type": "log", "dtick": "D2"} if window.log else {"rangemode": "tozero"}


def _style(trace: Trace) -> dict[str, Any]:
    """How plotly draws a trace: points are marked, since a validation alone is no line."""
    line = {"color": trace.color, "width": 2, "dash": "dot" if trace.right else "solid"}
    style = {"mode": "lines+markers", "line": line, "marker": {"color": trace.color, "size": 4}, "connectgaps": True}
    return {**style, "yaxis": "y2"} if trace.right else style


def points_groups(view: ValidationView) -> list[tuple[str, str, float, NDArray[np.float32]]]:
    """What the window of points shows: (name, colour, size, points (N, 3)) of each kind that has points."""
    groups = [
        (f"{len(view.mapped)} SfM points", GREY, 2.0, view.mapped),
        (f"{int(view.inlier.sum())} predicted, inliers", GREEN, 2.5, view.predicted[view.inlier]),
        (f"{int((~view.inlier).sum())} predicted, others", RED, 2.5, view.predicted[~view.inlier]),
        ("camera, true", BLACK, 9.0, view.centers[:1]),
        ("camera, localized", BLUE, 6.0, view.centers[1:][np.isfinite(view.centers[1:]).all(axis=1)]),
    ]
    return [group for group in groups if len(group[3])]


def points_options(view: ValidationView, groups: list[tuple[str, str, float, NDArray[np.float32]]]) -> dict[str, Any]:
    """Options of `visdom.scatter`; the axes span the map, so that stray predictions do not shrink it."""
    shown = np.concatenate([view.mapped, view.centers[np.isfinite(view.centers).all(axis=1)]])
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = 0.05 * float((high - low).max())
    axes = {
        f"{axis}axis": {"title": {"text": f"{axis} [{view.unit}]"}, "range": [float(low[k]) - margin, float(high[k]) + margin]}
        for k, axis in enumerate("xyz")
    }
    styles = {name: {"mode": "markers", "marker": _marker(color, size)} for name, color, size, _ in groups}
    layout = {
        "title": "", "showlegend": True, "legend": {"x": 0, "y": 1, "itemsizing": "constant", "bgcolor": "rgba(255,255,255,0.7)"},
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "scene": {**axes, "aspectmode": "data", "camera": {"eye": {"x": 1.4, "y": 1.4, "z": 1.1}}},
    }  # fmt: skip
    return {
        "title": f"{POINTS_WINDOW}: scene coordinates of {view.image}", "legend": [group[0] for group in groups],
        "width": round(1.5 * WIDTH), "height": round(1.5 * HEIGHT), "traceopts": {"plotly": styles}, "layoutopts": {"plotly": layout},
    }  # fmt: skip


def _marker(color: str, size: float) -> dict[str, Any]:
    """A dot; a ring for the true camera, which the localized one would hide."""
    symbol = "circle-open" if color == BLACK else "circle"
    return {"color": color, "size": size, "symbol": symbol, "opacity": 0.6 if color == GREY else 0.9, "line": {"width": 0}}
