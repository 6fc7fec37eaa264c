"""Figures of a report, as SVG text: what all of them share, error curves, and the reliability diagram of a confidence.

Figures are drawn small and scale with the page, so that their text can still be read on a phone; colours of lines and text follow the page.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]

INK, AXIS, GRID = "#39424e", "#8a94a0", "#c3cbd4"
STYLE = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: smaller, and it can be found and read aloud
    "svg.hashsalt": "d2s",  # equal figures give equal files
}
PAGE_COLORS = {INK: "var(--ink)", AXIS: "var(--axis)", GRID: "var(--grid)"}
FONT = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
BLUE, ORANGE, GREEN, RED, GREY = "#2b6fd6", "#e0820f", "#12924f", "#d33a2c", "#7d8894"
MAX_MARKS = 9
LINES = ((BLUE, "-"), (ORANGE, "--"))


def svg(figure: Figure) -> str:
    """The figure as an <svg> element without a fixed size, in the page's colours and font."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
    body = text.getvalue()
    element = body[body.index("<svg") :]
    head, rest = element.split(">", 1)
    for color, name in PAGE_COLORS.items():
        rest = rest.replace(color, name)
    rest = rest.replace("font-family: 'DejaVu Sans', sans-serif", FONT)
    return " ".join(part for part in head.split() if not part.startswith(("width=", "height="))) + ">" + rest


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes; inside `matplotlib.rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: nothing global, nothing that needs a display
    return figure, figure.add_subplot()


def error_curve(errors: Mapping[str, Sequence[float]], label: str, limits: tuple[float, float], asked: float | None = None) -> str:
    """Share of queries with an error below x, on a logarithmic axis; failures have none, so a curve may end below 100 %.

    `errors`: those of one method, or of two by name. `limits`: what the x axis shows at least. `asked`: an error to mark.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 3.1)
        curves = {name: np.sort(np.asarray(values, dtype=np.float64)) for name, values in errors.items()}
        finite = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
        low, high = _log_range(finite, limits)
        if asked is not None:
            axes.axvline(asked, color=AXIS, linewidth=1.1, linestyle=":")
        for (name, values), (color, line) in zip(curves.items(), LINES, strict=False):
            _draw_curve(axes, values, (low, high), name, color, line)
        _format_curve(axes, (low, high), label)
        if len(curves) > 1:
            axes.legend(loc="lower right", frameon=False, labelcolor=INK)
        return svg(figure)


def _draw_curve(axes: Axes, values: Array, limits: tuple[float, float], name: str, color: str, line: str) -> None:
    low, high = limits
    finite = values[np.isfinite(values)]
    x = np.concatenate([[low], np.maximum(finite, low), [max(high, finite.max(initial=high))]])
    y = np.concatenate([[0], np.arange(1, len(finite) + 1), [len(finite)]]) / max(1, len(values))
    axes.step(x, 100 * y, where="post", color=color, linewidth=2, linestyle=line, label=name)
    if line == "-":
        axes.fill_between(x, 100 * y, step="post", color=color, alpha=0.08, linewidth=0)


def _log_range(finite: Array, limits: tuple[float, float]) -> tuple[float, float]:
    """Axis limits that hold the given ones and nearly all errors, over four decades below the upper one at most."""
    low, high = limits
    if len(finite):
        low, high = min(low, float(np.quantile(finite, 0.05))), max(high, 1.2 * float(np.quantile(finite, 0.98)))
    return max(low, 1e-4 * high), high


def _log_marks(limits: tuple[float, float]) -> list[float]:
    """Values to write on a logarithmic axis: 1, 2, 5 of each decade, or fewer where there are many decades."""
    decades = range(math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1])) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        marks = [digit * 10.0**decade for decade in decades for digit in digits if limits[0] <= digit * 10.0**decade <= limits[1]]
        if len(marks) <= MAX_MARKS:
            break
    return marks


def _format_curve(axes: Axes, limits: tuple[float, float], label: str) -> None:
    marks = _log_marks(limits)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(0, 102)
    axes.set_xticks(marks, [f"{value:g}" for value in marks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.set_ylabel("queries, %")
    axes.grid(color=GRID, linewidth=0.6)
