"""The figures of accuracy.py as text: one line for a terminal, and the README's table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from page import replaced

BEGIN, END = "<!-- benchmarks/accuracy.py --readme -->\n", "<!-- end -->"
COLUMNS = ("scene", "method", "median error", "within 5 cm, 5° (1 %)", "within 2 cm, 2° (0.4 %)", "map")
RIVALS = ("matching", "landmarks 5 MB")
Metrics = Mapping[str, Any]


def accuracy_of(metrics: Metrics) -> tuple[str, str]:
    """Median error, and recall within 5 cm, 5 degrees; without a scale both are relative to the extent of the camera path (1 %)."""
    metric = metrics["units"] == "metres"
    recall = metrics["recall"]["5cm5deg"] if metric else metrics["recall_relative"]["1%5deg"]
    if metrics["median_t"] is None:
        return "not localized", f"{100 * recall:.1f} %"
    error = f"{metrics['median_t_cm']:.2f} cm" if metric else f"{100 * metrics['median_t_relative']:.3f} %"
    return f"{error}, {metrics['median_r_deg']:.2f}°", f"{100 * recall:.1f} %"


def describe_brief(metrics: Metrics) -> str:
    """Accuracy, size and time of one way to localize; the time without features."""
    error, recall = accuracy_of(metrics)
    metric = metrics["units"] == "metres"
    fine = metrics["recall"]["2cm2deg"] if metric else metrics["recall_relative"]["0.4%2deg"]
    ms = metrics["ms"]
    without_features = ms["total"] - (ms.get("features") or 0)
    return f"{error}, {recall}, {100 * fine:.1f} % at 2 cm or 0.4 %, {metrics['map_bytes'] / 1e6:.1f} MB, {without_features:.0f} ms"


def with_table(text: str, rows: Mapping[str, Any], features: Mapping[str, str]) -> str:
    """The README with the table of the given rows between its two marks; `features` names those of every row, in the table's order."""
    return replaced(text, BEGIN, END, table(rows, features))


def table(rows: Mapping[str, Any], features: Mapping[str, str]) -> str:
    """For every scene a line of ours, over its seeds, and one for each rival on the same features and queries."""
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for name, kind in features.items():
        if name in rows:
            lines += _lines(name, kind, rows[name])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _lines(name: str, features: str, row: Mapping[str, Any]) -> list[tuple[str, ...]]:
    seeds = list(row["seeds"].values())
    times = f"mapped in {sum(row['preprocess_stages'].values()):.0f} s + {row['metrics']['train_seconds']:.0f} s"
    recipe = row["options"]["train"]  # another than the default
    method = f"`{recipe[recipe.index('--config_file') + 1]}`" if "--config_file" in recipe else "**d2s**"
    ours = f"{method}, {len(seeds)} seeds" if len(seeds) > 1 else method
    first = (f"**{name}**, {features}, {row['metrics']['n_queries']} queries", f"{ours}; {times}", *_cells(seeds))
    return [first, *(("", rival, *_cells([row["baselines"][rival]])) for rival in RIVALS)]


def _cells(runs: Sequence[Metrics]) -> tuple[str, str, str, str]:
    """Medians over runs, with the least and the greatest where they differ."""
    metric = runs[0]["units"] == "metres"
    found = all(run["median_t"] is not None for run in runs)  # no median where more than half were not localized
    angle = statistics.median(float(run["median_r_deg"]) for run in runs) if found else 0.0
    if not found:
        error = "not localized"
    elif metric:
        error = _spread(runs, lambda run: run["median_t_cm"], "{:.2f}", " cm")
    else:
        error = _spread(runs, lambda run: 100 * run["median_t_relative"], "{:.3f}", " %")
    coarse = _spread(runs, lambda run: 100 * (run["recall"]["5cm5deg"] if metric else run["recall_relative"]["1%5deg"]), "{:.1f}", " %")
    fine = _spread(runs, lambda run: 100 * (run["recall"]["2cm2deg"] if metric else run["recall_relative"]["0.4%2deg"]), "{:.1f}", " %")
    return f"{error}, {angle:.2f}°" if found else error, coarse, fine, f"{runs[0]['map_bytes'] / 1e6:.1f} MB"


def _spread(runs: Sequence[Metrics], value: Callable[[Metrics], float], form: str, unit: str) -> str:
    values = sorted(value(run) for run in runs)
    middle, low, high = (form.format(v) for v in (statistics.median(values), values[0], values[-1]))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"
