"""What became of photos without labels: unlabel/report.json and the table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from processing.adapters.base import DroppedImage
from processing.report import summary


def make_report(
    records: Mapping[str, Any], extension: Mapping[str, Any] | None, dropped: Sequence[DroppedImage], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """The content of unlabel/report.json: how many photos were labelled, which were dropped and why, and all that is known of each.

    `extension` says what the photos added to the map: points, and labels by photo.
    """
    placed = {name: record for name, record in records.items() if record["labels"]}
    refused = [(name, record["reason"], record["detail"]) for name, record in records.items() if name not in placed]
    every = [*((image.name, image.reason, "") for image in dropped), *refused]
    added = {"points": extension["points"], "labels_per_image": summary(list(extension["labels"].values()))} if extension else None
    return {
        "photos": len(records) + len(dropped),
        "labelled": len(placed),
        "dropped": [{"name": name, "reason": reason, "detail": detail} for name, reason, detail in every],
        "labels_per_image": summary([record["labels"] for record in placed.values()]),
        "extension": added,
        "records": dict(records),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The table that the user sees."""
    labels = report["labels_per_image"]
    reasons = Counter(image["reason"].split(":")[0] for image in report["dropped"])
    rows = [
        ("photos labelled", f"{report['labelled']} of {report['photos']}"),
        ("photos dropped", f"{len(report['dropped'])} ({counts_of(reasons)})" if reasons else "0"),
        ("labels per photo", f"median {labels['median']:.0f} (5 %: {labels['p5']:.0f}, 95 %: {labels['p95']:.0f})"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())),
    ]
    if added := report["extension"]:
        rows.insert(3, ("new points", f"{added['points']}, {added['labels_per_image']['median']:.0f} labels per photo (median)"))
    return [f"  {name:<20}{value}" for name, value in rows]


def counts_of(reasons: Counter[str]) -> str:
    """The commonest reasons with their numbers."""
    return "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
