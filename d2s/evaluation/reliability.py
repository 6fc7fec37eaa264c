"""Whether confidences mean what they say: of the poses with a confidence of 0.8, four in five should be right.

`summarize_trust` gives the part "trust" of metrics.json; `reliability_section` makes of it what a report shows: a diagram of expected
against observed shares as SVG, and its caption. Both take poses that were found, those that were refused for their low confidence too.
For a report:

    figure, caption = reliability_section(metrics["trust"])   # ("", "") where there is nothing to show
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from d2s.evaluation.figures import BLUE, GREY, STYLE, svg
from d2s.evaluation.score import METRES, Score
from d2s.localization.trust import DEGREES_TOLERANCE, METRES_TOLERANCE, RELATIVE_DEGREES_TOLERANCE, RELATIVE_TOLERANCE

Array = NDArray[np.float64]
EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)
"""Bins of confidence: narrow at the top, where most poses are."""
FEWEST = 5
"""Poses below which a bin is drawn pale: its observed share is little more than luck."""


def right_within(units: str, extent: float) -> tuple[float, float]:
    """Distance (scene unit) and degrees within which a pose is right: what a confidence is the probability of."""
    return (METRES_TOLERANCE, DEGREES_TOLERANCE) if units == METRES else (RELATIVE_TOLERANCE * extent, RELATIVE_DEGREES_TOLERANCE)


def summarize_trust(scores: Sequence[Score], units: str, extent: float, min_confidence: float | None = None) -> dict[str, Any] | None:
    """Refusals, reliability bins and what errors are in units of the stated uncertainty; None for poses of another program.

    `n_refused`: poses that were found but refused; `n_refused_right` of them were right: false refusals. `n_accepted_wrong`: poses that
    were accepted and are not right. `ece`: expected calibration error, the mean distance between a bin's confidence and its share of
    right poses.
    """
    found = [s for s in scores if s.confidence is not None and math.isfinite(s.found_t)]
    if not found:
        return None
    t, r_deg = right_within(units, extent)
    right = np.array([s.found_t <= t and s.found_r_deg <= r_deg for s in found])
    accepted = np.array([s.success for s in found])
    bins = reliability_bins(np.array([s.confidence for s in found], dtype=np.float64), right)
    return {
        "tolerance_t": t,
        "tolerance_r_deg": r_deg,
        "units": units,
        "min_confidence": min_confidence,
        "n_found": len(found),
        "n_refused": int((~accepted).sum()),
        "n_refused_right": int((right & ~accepted).sum()),
        "n_accepted_wrong": int((~right & accepted).sum()),
        "ece": expected_calibration_error(bins),
        "bins": bins,
        "error_over_sigma_t": _median_ratio([s.found_t for s in found], [s.sigma_t for s in found]),
        "error_over_sigma_r": _median_ratio([s.found_r_deg for s in found], [s.sigma_r_deg for s in found]),
    }


def reliability_bins(confidence: Array, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Bins that hold poses: their `low` and `high` edge, number `n`, mean confidence `expected` and share of right poses `observed`."""
    place = np.clip(np.searchsorted(EDGES, confidence, side="right") - 1, 0, len(EDGES) - 2)
    return [
        {
            "low": EDGES[i],
            "high": EDGES[i + 1],
            "n": int((place == i).sum()),
            "expected": float(confidence[place == i].mean()),
            "observed": float(right[place == i].mean()),
        }
        for i in np.unique(place).tolist()
    ]


def expected_calibration_error(bins: Sequence[Mapping[str, Any]]) -> float:
    """Mean over poses of the distance between confidence and share of right ones in their bin."""
    total = sum(entry["n"] for entry in bins)
    return sum(entry["n"] * abs(entry["expected"] - entry["observed"]) for entry in bins) / total if total else 0.0


def _median_ratio(errors: Sequence[float], sigmas: Sequence[float | None]) -> float | None:
    """Median of error / stated standard deviation; about 0.9 where the stated one is right."""
    ratios = [error / sigma for error, sigma in zip(errors, sigmas, strict=True) if sigma]
    return float(np.median(ratios)) if ratios else None


def reliability_section(trust: Mapping[str, Any] | None) -> tuple[str, str]:
    """SVG of the reliability diagram and its caption (plain text); empty where nothing was measured."""
    return ("", "") if not trust else (reliability_diagram(trust["bins"]), reliability_caption(trust))


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> str:
    """Observed share of right poses over confidence, one dot per bin, its area by how many poses it holds, as SVG."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        total = max(1, sum(entry["n"] for entry in bins))
        for entry in bins:
            low, high = wilson(entry["observed"], entry["n"])
            x, alpha = 100 * entry["expected"], 1.0 if entry["n"] >= FEWEST else 0.35
            axes.plot([x, x], [100 * low, 100 * high], color=BLUE, linewidth=1.4, alpha=0.5 * alpha)
            axes.scatter([x], [100 * entry["observed"]], s=30 + 220 * entry["n"] / total, color=BLUE, alpha=alpha, linewidths=0, zorder=3)
        axes.set_xlim(-3, 104)
        axes.set_ylim(-3, 104)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("right poses, %")
        axes.grid(color=GREY, alpha=0.35, linewidth=0.6)
        return svg(figure)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share that was observed n times (Wilson, 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def reliability_caption(trust: Mapping[str, Any]) -> str:
    """What the diagram says, in words."""
    where = "25 cm" if trust["units"] == METRES else f"{100 * RELATIVE_TOLERANCE:g} % of the extent"
    refused = f"{trust['n_refused']} of {trust['n_found']} poses were refused for low confidence, {trust['n_refused_right']} of them right."
    wrong = f"{trust['n_accepted_wrong']} accepted poses are wrong."
    return (
        f"Confidence is the probability that a pose is within {where} and {trust['tolerance_r_deg']:g} degrees. On the dashed line, it is "
        f"as good as it says; bars are 95 % intervals. Mean distance from the line: {100 * trust['ece']:.1f} %. {refused} {wrong}"
    )
