"""This map beside matching, on the same queries, features and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2s.errors import FormatError
from d2s.evaluation import html, wording
from d2s.evaluation.pose_files import PREDICTIONS, RESULTS, read_predictions, read_results, write_predictions, write_results
from d2s.evaluation.score import Score, median_ms, score_images, summarize
from d2s.localization.result import LocalizationResult
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import SceneImage

FOLDER, SIZE = "matching", "map.json"


@dataclass(frozen=True)
class Comparison:
    """What matching made of the same queries, and the bytes that it keeps."""

    scores: Sequence[Score]
    map_bytes: int

    def table(self, ours: Sequence[Score], metrics: Mapping[str, Any]) -> str:
        """Both methods side by side."""
        units, extent = metrics["units"], metrics["scene_extent"]
        theirs = summarize(self.scores, units, extent)
        recalls = list(zip(wording.recalls(metrics), wording.recalls(theirs), strict=True))[::2]  # every other one tells the story
        rows = [
            ("median error", wording.median(metrics), wording.median(theirs)),
            ("not localized", str(metrics["n_failed"]), str(theirs["n_failed"])),
            *((f"within {name}", wording.share(mine), wording.share(other)) for (name, mine), (_, other) in recalls),
            ("map", wording.size(metrics.get("map_bytes")), wording.size(self.map_bytes)),
            ("after the features", wording.milliseconds(_after_features(ours)), wording.milliseconds(_after_features(self.scores))),
        ]
        note = "Matching keeps the descriptors of all mapping photos and compares a query with the ten that look most like it."
        return html.table(("", "this map", "matching"), rows) + f'<p class="soft small"><br>{note}</p>'


def _after_features(scores: Sequence[Score]) -> float | None:
    """Milliseconds from features to pose: the part in which the methods differ."""
    stages = [median_ms(scores, stage) for stage in ("regressor", "pnp")]
    return None if None in stages else sum(stage for stage in stages if stage is not None)


def save_comparison(folder: Path, results: Mapping[str, LocalizationResult], map_bytes: int) -> None:
    """Write what matching gave, in the formats of every evaluation; the size comes last, and without it nothing counts."""
    (folder / SIZE).unlink(missing_ok=True)
    write_results(folder / RESULTS, {name: r.cam_from_world for name, r in results.items() if r.cam_from_world is not None})
    write_predictions(folder / PREDICTIONS, (result.to_json(name) for name, result in results.items()))
    write_json(folder / SIZE, {"map_bytes": map_bytes})


def load_comparison(folder: Path, images: Sequence[SceneImage]) -> Comparison | None:
    """What `save_comparison` wrote, scored; None where it is not there. Raises FormatError."""
    if not (folder / SIZE).is_file():
        return None
    size = read_json(folder / SIZE)
    if not isinstance(size, dict) or not isinstance(size.get("map_bytes"), int):
        raise FormatError(f"{folder / SIZE} is damaged.", "Remove it, or compare again.")
    scores = score_images(images, read_results(folder / RESULTS), read_predictions(folder / PREDICTIONS))
    return Comparison(scores, size["map_bytes"])
