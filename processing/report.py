"""`report.json` and the table at the end of preprocessing: what was kept, what was dropped and why, and how good the labels are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from d2s.scene.manifest import Scene
from processing.adapters.base import DroppedImage


def summary(values: ArrayLike) -> dict[str, float]:
    """Count, mean and percentiles of some numbers; only the count when there are none."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return {"count": 0}
    low, median, high = np.percentile(values, [5, 50, 95])
    return {
        "count": int(values.size), "mean": float(values.mean()), "min": float(values.min()), "p5": float(low), "median": float(median),
        "p95": float(high), "max": float(values.max()),
    }  # fmt: skip


def make_report(
    scene: Scene,
    dropped: Sequence[DroppedImage],
    labels_per_image: Mapping[str, int],
    sfm: Mapping[str, Any],
    labels: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of report.json."""
    return {
        "dataset": scene.dataset,
        "scene": scene.name,
        "units": scene.units,
        "features": scene.features,
        "images": {
            "kept": [{"name": image.name, "split": image.split, "labels": labels_per_image.get(image.name)} for image in scene.images],
            "dropped": [{"name": image.name, "reason": image.reason} for image in dropped],
            "count": dict(Counter(image.split for image in scene.images)),
        },
        "labels_per_image": summary(list(labels_per_image.values())),
        "sfm": dict(sfm),
        **labels,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The table that the user sees."""
    count, labels = report["images"]["count"], report["labels_per_image"]
    length, error = report["track_length"], report["reprojection_error"]
    splits = ", ".join(f"{count[split]} {split}" for split in ("train", "val", "test") if split in count)
    rows = [
        ("images kept", f"{sum(count.values())} ({splits})"),
        ("images dropped", _dropped(report["images"]["dropped"])),
        ("labels per image", f"median {labels['median']:.0f} (5 %: {labels['p5']:.0f}, 95 %: {labels['p95']:.0f})"),
        ("3D points", f"{length['count']}, seen in {length['median']:.0f} images (median)"),
        ("reprojection error", f"{error['median']:.2f} px (median), {error['p95']:.2f} px (95 %)"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())),
    ]
    return [f"  {name:<20}{value}" for name, value in rows]


def _dropped(dropped: Sequence[Mapping[str, str]]) -> str:
    reasons = Counter(image["reason"] for image in dropped)
    return "0" if not dropped else f"{len(dropped)} ({'; '.join(f'{n} {reason}' for reason, n in reasons.most_common(3))})"
