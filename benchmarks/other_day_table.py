"""The figures of other_day.py as text: all of them for a terminal, and a line for every scene for the README."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from changes import CHANGES
from page import replaced

from d2s.evaluation.score import METRES

BEGIN, END = "<!-- benchmarks/other_day.py -->\n", "<!-- end -->"
METRIC = (("1", 1.0, 1.0), ("2", 2.0, 2.0), ("5", 5.0, 5.0), ("10", 10.0, 10.0), ("25", 25.0, 2.0))
RELATIVE = METRIC[:-1]
"""Name of a recall, distance (cm, or percent of the extent where there is no scale) and degrees."""
METHODS = ("ours", "matching", "matching, LightGlue", "landmarks at once")
Run = Mapping[str, Any]


def describe(name: str, row: Mapping[str, Any]) -> str:
    """Some lines for a terminal: every figure of every method, medians over its seeds."""
    unit = "cm" if row["units"] == METRES else "%"
    lines = [f"{name}: {row['mapped']} images map, {row['queries']} ask; recall within {'/'.join(key for key, *_ in _recalls(row))} {unit}"]
    for method, runs in row["methods"].items():
        recall = " ".join(f"{_middle([100 * run['recall'][key] for run in runs]):3.0f}" for key, *_ in _recalls(row))
        refused = "/".join(f"{_middle([run['refused'][kind] for run in runs]):g}" for kind in ("right", "wrong"))
        of = f"{runs[0]['queries']} queries, {len(runs)} seeds" if len(runs) > 1 else f"{runs[0]['queries']} queries"
        size = f"{runs[0]['map_bytes'] / 1e6:.1f} MB"
        lines.append(f"  {method:<20} {recall}  {_error(runs, row['units']):<16} {_ms(runs):>8} {size:>9}  refused {refused}  ({of})")
    return "\n".join(lines)


def with_table(text: str, rows: Mapping[str, Any]) -> str:
    """The README with the table of the rows between its two marks."""
    return replaced(text, BEGIN, END, table(rows))


def table(rows: Mapping[str, Any]) -> str:
    """A line for every scene, and one for all changes of a scene's photos together; a cell for every method that was measured."""
    methods = [method for method in METHODS if any(method in row["methods"] for row in rows.values())]
    lines = [("scene", *methods), ("---",) * (1 + len(methods))]
    for name, row in grouped(rows).items():
        lines.append((f"**{name}**, {row['mapped']} map, {row['queries']} ask", *(_cell(row, method) for method in methods)))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def grouped(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows as they are, and after them one for all changes of a scene's photos: of each seed the means over its changes."""
    changed: dict[str, list[Any]] = {}
    for name, row in rows.items():
        place, _, change = name.rpartition("-")
        changed.setdefault(f"{place}, changed" if change in CHANGES else name, []).append(row)
    return {name: rows[0] if len(rows) == 1 else _pooled(rows) for name, rows in changed.items()}


def _pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the same queries as one."""
    common = [method for method in METHODS if all(method in row["methods"] for row in rows)]
    runs = {method: zip(*(row["methods"][method] for row in rows), strict=True) for method in common}
    return {**rows[0], "methods": {method: [_mean(each) for each in seeds] for method, seeds in runs.items()}}


def _mean(runs: Sequence[Run]) -> dict[str, Any]:
    recall = {key: statistics.mean(run["recall"][key] for run in runs) for key in runs[0]["recall"]}
    middle = {key: _middle([_far(run[key]) for run in runs]) for key in ("median_t", "median_r_deg", "ms")}
    return {**runs[0], **middle, "recall": recall}


def shares(row: Mapping[str, Any], method: str) -> list[str]:
    """Recall within 2, 5 and 25 cm (10 % of the extent) in percent, medians over the seeds."""
    keys = ("2", "5", "25" if row["units"] == METRES else "10")
    return [f"{100 * _middle([run['recall'][key] for run in row['methods'][method]]):.0f}" for key in keys]


def brief(row: Mapping[str, Any], method: str) -> str:
    """These shares and the median error, "not measured" for a method that was not."""
    if method not in row["methods"]:
        return "not measured"
    runs = row["methods"][method]
    return f"{'/'.join(shares(row, method))}, {_middle([_far(run['median_t']) for run in runs]):.2f}"


def _cell(row: Mapping[str, Any], method: str) -> str:
    runs = row["methods"].get(method)
    if not runs:
        return "not measured"
    few = f", {runs[0]['queries']} queries" if runs[0]["queries"] < row["queries"] else ""
    found = f"{' / '.join(shares(row, method))} %, {_error(runs, row['units'])}"
    return f"{found}; {_ms(runs)}, {runs[0]['map_bytes'] / 1e6:.1f} MB{few}"


def _recalls(row: Mapping[str, Any]) -> tuple[tuple[str, float, float], ...]:
    return METRIC if row["units"] == METRES else RELATIVE


def _error(runs: Sequence[Run], units: str) -> str:
    """Median of the runs' median errors."""
    t, r_deg = (_middle([_far(run[key]) for run in runs]) for key in ("median_t", "median_r_deg"))
    unit = "cm" if units == METRES else "%"
    return "not localized" if t == math.inf else f"{t:.2f} {unit}, {r_deg:.2f}°"


def _ms(runs: Sequence[Run]) -> str:
    ms = _middle([_far(run["ms"]) for run in runs])
    return "-" if ms == math.inf else f"{ms:,.0f} ms"


def _far(value: float | None) -> float:
    """Where half of the queries were not localized there is no median: it is beyond all others."""
    return math.inf if value is None else value


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)
