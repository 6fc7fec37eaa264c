"""Figures of a report, as SVG text: error curves and the place from above.

Figures are drawn small and scale with the page, so that their text can still be read on a phone.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2s.geometry import pose

Array = NDArray[np.float64]

STYLE = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": "#39424e",
    "xtick.color": "#39424e",
    "ytick.color": "#39424e",
    "svg.hashsalt": "d2s",  # equal figures give equal files
}
BLUE, GREEN, RED, GREY, LIGHT = "#2563c9", "#12924f", "#d33a2c", "#7d8894", "#c3cbd4"
MAX_POINTS = 15_000


def svg(figure: Figure) -> str:
    """The figure as an <svg> element without a fixed size."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
    body = text.getvalue()
    element = body[body.index("<svg") :]
    head, rest = element.split(">", 1)
    return " ".join(part for part in head.split() if not part.startswith(("width=", "height="))) + ">" + rest


def error_curve(errors: Sequence[float], label: str, marks: Sequence[float]) -> str:
    """Share of queries with an error below x, on a logarithmic axis; failures have none, so the curve may end below 100 %.

    `marks`: the values written on the x axis.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(4.6, 3.1)
        values = np.sort(np.asarray(errors, dtype=np.float64))
        finite = values[np.isfinite(values)]
        low, high = _log_range(finite, marks)
        x = np.concatenate([[low], np.maximum(finite, low), [high]])
        y = np.concatenate([[0], np.arange(1, len(finite) + 1), [len(finite)]]) / max(1, len(values))
        axes.step(x, 100 * y, where="post", color=BLUE, linewidth=2)
        axes.fill_between(x, 100 * y, step="post", color=BLUE, alpha=0.08, linewidth=0)
        _format_curve(axes, (low, high), label, marks)
        return svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: nothing global, nothing that needs a display
    return figure, figure.add_subplot()


def _log_range(finite: Array, marks: Sequence[float]) -> tuple[float, float]:
    """Axis limits that hold all marks and nearly all errors."""
    low = min(marks) / 5
    high = max(max(marks) * 1.5, float(np.quantile(finite, 0.98)) * 1.2) if len(finite) else max(marks) * 1.5
    return low, high


def _format_curve(axes: Axes, limits: tuple[float, float], label: str, marks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(0, 102)
    axes.set_xticks(list(marks), [f"{value:g}" for value in marks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.set_ylabel("queries, %")
    axes.grid(color=LIGHT, linewidth=0.6)


@dataclass(frozen=True)
class TopView:
    """What the view from above shows; all in the world frame. `mapping`, `true` and `estimated` are poses (N, 3, 4).

    `estimated` rows are NaN where a query failed; they are row-aligned with `true`. `points` (M, 3).
    """

    mapping: Array
    true: Array
    estimated: Array
    points: Array
    unit: str

    def draw(self) -> str:
        """The figure as SVG."""
        axes_from_world = view_from_above(np.concatenate([self.mapping, self.true]))
        flat = {
            "points": _thinned(self.points) @ axes_from_world.T,
            "mapping": pose.center(self.mapping) @ axes_from_world.T,
            "true": pose.center(self.true) @ axes_from_world.T,
            "estimated": pose.center(self.estimated) @ axes_from_world.T,
        }
        with matplotlib.rc_context(STYLE):
            figure, axes = _figure(5.2, 4.6)
            _draw_points(axes, flat["points"])
            _draw_cameras(axes, flat["mapping"], flat["true"], flat["estimated"])
            _frame(axes, flat)
            axes.set_xlabel(self.unit)
            _legend(axes)
            return svg(figure)


def _thinned(points: Array) -> Array:
    if len(points) <= MAX_POINTS:
        return points
    return points[np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False)]


def view_from_above(poses: Array) -> Array:
    """Rows: the horizontal axes (2, 3) of a view from above onto cameras (N, 3, 4), the longer extent first.

    Up is taken from the cameras (people hold them upright); where they point everywhere, the flattest direction of their path is up.
    """
    centers = pose.center(poses)
    up = -poses[:, 1, :3].mean(axis=0)
    if np.linalg.norm(up) < 0.3:
        up = np.linalg.svd(centers - centers.mean(axis=0))[2][-1]
    up = up / np.linalg.norm(up)
    flat = (centers - centers.mean(axis=0)) @ (np.eye(3) - np.outer(up, up))
    first = np.linalg.svd(flat)[2][0]
    if abs(first @ up) > 0.5:  # all cameras in one place: any horizontal direction serves
        first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    first = first - (first @ up) * up
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])


def _draw_points(axes: Axes, points: Array) -> None:
    if len(points):
        _dots(axes, points, "predicted points", s=1.2, color="#74818f", alpha=0.5, linewidths=0, rasterized=True)


def _draw_cameras(axes: Axes, mapping: Array, true: Array, estimated: Array) -> None:
    _dots(axes, mapping, "mapping cameras", s=5, color="#e0a31b", linewidths=0, alpha=0.8, rasterized=len(mapping) > 2000)
    found = np.isfinite(estimated).all(axis=1)
    for start, end in zip(true[found], estimated[found], strict=True):
        axes.plot([start[0], end[0]], [start[1], end[1]], color=RED, linewidth=0.7, alpha=0.7, zorder=2)
    _dots(axes, true[found], "query, true", s=16, facecolors="none", edgecolors=GREEN, linewidths=0.9, zorder=3)
    _dots(axes, estimated[found], "query, estimated", s=6, color=BLUE, linewidths=0, zorder=4)
    if (~found).any():
        _dots(axes, true[~found], "query, not localized", s=22, marker="x", color=RED, linewidths=1.2, zorder=5)


def _dots(axes: Axes, points: Array, label: str, **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], label=label, **style)


def _legend(axes: Axes) -> None:
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([26])  # type: ignore[union-attr]
        handle.set_alpha(1)  # type: ignore[union-attr]


def _frame(axes: Axes, flat: dict[str, Array]) -> None:
    """Limits that hold every true camera and most points; far wrong estimates are cut off rather than shrinking everything else."""
    low, high = _limits(np.concatenate([flat["mapping"], flat["true"]]), (0, 1))
    if len(flat["points"]):
        point_low, point_high = _limits(flat["points"], (0.02, 0.98))
        low, high = np.minimum(low, point_low), np.maximum(high, point_high)
    margin = 0.05 * float((high - low).max()) or 1.0
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + margin)
    axes.set_aspect("equal", adjustable="box")


def _limits(points: Array, quantiles: tuple[float, float]) -> tuple[Array, Array]:
    low, high = np.quantile(points, quantiles, axis=0)
    return low, high
