"""The figures of other_day.py as text: all of them for a terminal, and a line for every scene for the README."""

from __future__ import annotations

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
    """A line for every scene, and one for all changes of a scene's photos together; a cell for every method."""
    lines = [("scene", *METHODS), ("---",) * (1 + len(METHODS))]
    for name, row in grouped(rows).items():
        keys = ("2", "5", "25" if row["units"] == METRES else "10")
        size = f"{row['mapped']} map, {row['queries']} ask"
        lines.append((f"**{name}**, {size}", *(_cell(row["methods"].get(method), keys, row) for method in METHODS)))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def grouped(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The rows, those of the changes of one scene's photos as one: runs of a method are then those of every change, seed by seed."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        place, _, change = name.rpartition("-")
        if change not in CHANGES:
            found[name] = row
            continue
        one = found.setdefault(f"{place}, changed", {**row, "queries": 0, "methods": {}})
        one["queries"] += row["queries"]
        for method, runs in row["methods"].items():
            one["methods"][method] = [*one["methods"].get(method, []), *runs]
    return found


def _cell(runs: Sequence[Run] | None, keys: Sequence[str], row: Mapping[str, Any]) -> str:
    if not runs:
        return "not measured"
    shares = " / ".join(f"{100 * statistics.mean(run['recall'][key] for run in runs):.0f}" for key in keys)
    return f"{shares} %, {_error(runs, row['units'])}; {_ms(runs)}, {runs[0]['map_bytes'] / 1e6:.1f} MB"


def _recalls(row: Mapping[str, Any]) -> tuple[tuple[str, float, float], ...]:
    return METRIC if row["units"] == METRES else RELATIVE


def _error(runs: Sequence[Run], units: str) -> str:
    """Median of the runs' median errors; a run that placed fewer than half of its queries has none, and counts as far off."""
    unit = "cm" if units == METRES else "%"
    pairs = [(run["median_t"], run["median_r_deg"]) for run in runs]
    t, r_deg = (_middle([float("inf") if value is None else value for value in values]) for values in zip(*pairs, strict=True))
    return "not localized" if t == float("inf") else f"{t:.2f} {unit}, {r_deg:.2f}°"


def _ms(runs: Sequence[Run]) -> str:
    times = [run["ms"] for run in runs if run["ms"] is not None]
    return f"{_middle(times):,.0f} ms" if times else "-"


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values)
