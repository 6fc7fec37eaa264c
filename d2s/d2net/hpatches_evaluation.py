"""HPatches for several methods: their scores, the table on the terminal and the JSON file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2s.d2net.hpatches import KINDS, PlanarSequence
from d2s.d2net.hpatches_rows import Row
from d2s.d2net.matching_accuracy import THRESHOLDS, SequenceScore, score_sequence, summarise
from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.scene.atomic import write_json

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
GROUPS = ("all", *KINDS.values())
SHOWN = (1, 3, 5, 10)
"""Thresholds in the table, pixels."""
LOG_EVERY = 20


@dataclass(frozen=True)
class Result:
    """The scores of one row; `top_k`: how many keypoints of each image took part, None for all."""

    name: str
    top_k: int | None
    settings: dict[str, Any]
    scores: list[SequenceScore]

    @property
    def title(self) -> str:
        """Its name in the table and the plot."""
        return self.name if self.top_k is None else f"{self.name}, best {self.top_k}"

    def summary(self) -> dict[str, Any]:
        """What `summarise` says of the scores."""
        return summarise(self.scores)


def evaluate(row: Row, sequences: Sequence[PlanarSequence], top_k: Sequence[int] = (), device: str = "cpu") -> list[Result]:
    """The row with all its keypoints, and with the best of each number in `top_k`. Features are read once for all of them."""
    results = [Result(row.name, count, row.settings(), []) for count in (None, *top_k)]
    for number, sequence in enumerate(tqdm(sequences, desc=row.name, leave=False, disable=None), 1):  # None: a bar on terminals only
        features = row.features(sequence)
        for result in results:
            best = features if result.top_k is None else [_best(f, result.top_k, row.name) for f in features]
            result.scores.append(score_sequence(sequence, best, device))
        if number % LOG_EVERY == 0 or number == len(sequences):
            log.info("%s: %d of %d sequences", row.name, number, len(sequences))
    return results


def _best(features: LocalFeatures, count: int, name: str) -> LocalFeatures:
    if np.isnan(features.scores).any():
        raise InputError(f"--top_k needs scores, and the files of {name} have none.", "Leave out --top_k, or extract with scores.")
    return features.top(count)


def table(results: Sequence[Result]) -> str:
    """The rows as text: counts, then MMA in percent of all sequences, and of each kind."""
    width = max(len("method"), *(len(result.title) for result in results))
    cells = 6 * len(SHOWN)
    head = f"{'':<{width}}  {'keypoints':>9} {'matches':>8}" + "".join(f" | {group:^{cells}}" for group in GROUPS)
    limits = "".join(f"{f'{limit}px':>6}" for limit in SHOWN)
    lines = [head, f"{'method':<{width}}  {'per image':>9} {'per pair':>8}" + f" | {limits}" * len(GROUPS)]
    for result in results:
        summary = result.summary()
        values = "".join(f" | {_cells(summary['mma'][group])}" for group in GROUPS)
        lines.append(f"{result.title:<{width}}  {summary['keypoints']['mean']:>9.0f} {summary['matches']['all']:>8.1f}{values}")
    return "\n".join(lines)


def _cells(mma: list[float] | None) -> str:
    if mma is None:
        return f"{'-':>6}" * len(SHOWN)
    return "".join(f"{100 * mma[THRESHOLDS.index(limit)]:6.1f}" for limit in SHOWN)


def write_results(path: Path, results: Sequence[Result], excluded: Sequence[str]) -> None:
    """Everything as JSON: per row its settings, its summary, and MMA and matches of every sequence."""
    scores = results[0].scores
    rows = [
        {
            "name": result.name,
            "top_k": result.top_k,
            "settings": result.settings,
            **result.summary(),
            "sequences": {s.name: {"matches": float(np.mean(s.matches)), "mma": s.within.mean(axis=0).tolist()} for s in result.scores},
        }
        for result in results
    ]
    write_json(
        path,
        {
            "format_version": FORMAT_VERSION,
            "benchmark": "HPatches sequences",
            "sequences": {kind: sum(score.kind == kind for score in scores) for kind in KINDS.values()},
            "excluded": list(excluded),
            "thresholds_px": list(THRESHOLDS),
            "rows": rows,
        },
    )
