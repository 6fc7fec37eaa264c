"""Numbers as people read them: distances with a unit that means something, times, sizes, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from d2s.evaluation.score import METRES, RECALLS, relative_name

NONE = "-"


def distance(t: float | None, units: str, extent: float) -> str:
    """A distance in the scene's unit: in centimetres or metres, or in percent of the scene's extent where there is no scale."""
    if t is None or not math.isfinite(t):
        return NONE
    if units != METRES:
        return f"{_figures(100 * t / extent)} %" if extent > 0 else f"{t:.3g} units"
    return f"{_figures(100 * t)} cm" if t < 1 else f"{_figures(t)} m"


def _figures(value: float) -> str:
    """Three significant figures at most, and never more than two decimals."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def angle(r_deg: float | None) -> str:
    """An angle in degrees."""
    return NONE if r_deg is None or not math.isfinite(r_deg) else f"{_figures(r_deg)}°"


def share(value: float | None) -> str:
    """A fraction as percent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A number of things."""
    return NONE if value is None else f"{value:.0f}"


def milliseconds(value: float | None) -> str:
    """A time in ms."""
    return NONE if value is None else f"{_figures(value)} ms"


def size(count: int | None) -> str:
    """Bytes as kB or MB."""
    if count is None:
        return NONE
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def duration(seconds: float | None) -> str:
    """Seconds as s or min."""
    if not seconds:
        return NONE
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


def recalls(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and value of the recalls that mean something in the scene's units, for example ("5 cm, 5°", 0.83)."""
    named = []
    for name, (cm, deg) in RECALLS.items():
        if metrics["units"] == METRES:
            text, value = f"{cm:g} cm" if cm < 100 else f"{cm / 100:g} m", metrics["recall"][name]
        else:
            relative = relative_name(cm, deg)
            text, value = relative.replace("%", " %|").split("|")[0], metrics["recall_relative"][relative]
        named.append((f"{text}, {deg:g}°", float(value)))
    return named


def median(metrics: Mapping[str, Any]) -> str:
    """The median error in words, for example "2.31 cm, 0.62°"; that of places where half of the images were not localized is infinite."""
    if metrics["median_r_deg"] is None and 2 * metrics["n_failed"] >= metrics["n_queries"] > 0:
        return "infinite"
    return f"{distance(metrics['median_t'], metrics['units'], metrics['scene_extent'])}, {angle(metrics['median_r_deg'])}"


def unit_note(metrics: Mapping[str, Any]) -> str:
    """What percent are of, where distances are in percent; empty for metres."""
    if metrics["units"] == METRES:
        return ""
    return (
        "This scene has no metric scale: distances are in percent of its extent, the diagonal of the box around all camera centres "
        f"({metrics['scene_extent']:.3g} scene units)."
    )
