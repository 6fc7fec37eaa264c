"""Tables of a report: what one image costs in time, and what the map costs in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2s.evaluation import html, wording
from d2s.evaluation.score import Score, median_ms
from d2s.localization.result import STAGES

WORDS = {"features": "features", "regressor": "recognising them", "pnp": "pose", "total": "total"}


def cost_sections(scores: Sequence[Score], metrics: Mapping[str, Any]) -> str:
    """Two cards."""
    return _time(scores, metrics) + _size(metrics)


def _time(scores: Sequence[Score], metrics: Mapping[str, Any]) -> str:
    times = {stage: (median_ms(scores, stage), median_ms(scores, stage, 0.9)) for stage in STAGES}
    rows = [(WORDS[stage], wording.milliseconds(median), wording.milliseconds(high)) for stage, (median, high) in times.items()]
    device = f" on {metrics['device']}" if metrics.get("device") else ""
    counts = [(f"keypoints {name}", wording.count(metrics[f"mean_{name}"])) for name in ("extracted", "kept", "inliers")]
    tables = html.table(("stage", "median", "90 % take at most"), rows) + "<br>" + html.table(("", "mean"), counts)
    return html.section(f"Cost of one image{device}", tables)


def _size(metrics: Mapping[str, Any]) -> str:
    parts = metrics.get("map_parts") or {}
    rows = [(name, wording.size(size)) for name, size in sorted(parts.items(), key=lambda part: -part[1])]
    rows.append(("map in all", wording.size(metrics.get("map_bytes"))))
    return html.section("Size of the map", html.table(("part", "bytes"), rows))
