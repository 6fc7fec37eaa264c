"""The plot that papers show: MMA over the threshold, of all sequences and of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from d2s.d2net.hpatches_evaluation import GROUPS, Result
from d2s.d2net.matching_accuracy import THRESHOLDS
from d2s.scene.atomic import atomic_path

SHOWN = 10
"""Thresholds on the x axis, pixels."""
# A method has one colour whatever the number of its keypoints, which the dashes tell apart
COLORS = ("#2563c9", "#d33a2c", "#12924f", "#e08a00", "#7a3fb5", "#0b98a8", "#c2367f", "#6b5344", "#7d8894", "#1c2530")
DASHES = ("-", "--", ":", "-.")
STYLE = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
}


def plot(path: Path, results: Sequence[Result]) -> None:
    """Write the plot as PNG, 160 dpi: three panels, and a line of the legend for every row."""
    lines = -(-len(results) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.1 + 0.24 * lines), dpi=160, layout="constrained")  # no pyplot: it keeps global state
        panels = figure.subplots(1, len(GROUPS), sharey=True)
        for axes, group in zip(panels, GROUPS, strict=True):
            _panel(axes, group, results)
        panels[0].set_ylabel("mean matching accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(results)), frameon=False, handlelength=3.2)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _panel(axes: Axes, group: str, results: Sequence[Result]) -> None:
    names, counts = (list(dict.fromkeys(values)) for values in zip(*((r.name, r.top_k) for r in results), strict=True))
    for result in results:
        summary = result.summary()
        if not summary["mma"][group]:
            continue
        label = f"{result.title} ({summary['keypoints']['mean']:.0f} keypoints, {summary['matches']['all']:.0f} matches)"
        color, dash = COLORS[names.index(result.name) % len(COLORS)], DASHES[counts.index(result.top_k) % len(DASHES)]
        style: dict[str, Any] = {"color": color, "linestyle": dash, "linewidth": 2, "marker": "o", "markersize": 3.2, "clip_on": False}
        axes.plot(THRESHOLDS[:SHOWN], [100 * value for value in summary["mma"][group][:SHOWN]], label=label, **style)
    count = sum(group in ("all", score.kind) for score in results[0].scores)
    axes.set_title(f"{group}: {count} sequences" if count != 1 else f"{group}: 1 sequence")
    axes.set_xlim(1, SHOWN)
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.yaxis.set_major_locator(MultipleLocator(10))
    axes.grid(color="#d5dae0", linewidth=0.7)
    axes.set_xlabel("threshold, px")
