"""The page in a few sentences: what was measured, how good it is, what to do next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2s.evaluation import wording
from d2s.evaluation.causes import Cause
from d2s.evaluation.coverage import ENOUGH, Coverage
from d2s.evaluation.grades import FAILED, FAIR, GOOD, POOR, Grading
from d2s.evaluation.reliability import wilson
from d2s.evaluation.score import Score

FEW_QUERIES, FEW_DIRECTIONS = 20, 0.6
ADVICE = {
    "lookalike": "Places here look alike. Add photos that show what differs between them (signs, furniture, the view out of a window).",
    "unseen": "Add mapping photos where the map below is pale and near the queries that failed, looking the same way as they did.",
    "far": "Some queries look where no mapping photo looked. Photograph those places from several directions and distances.",
    "blurred": "Some queries are blurred: hold the camera still, or take the sharpest of several frames.",
    "dark": "Some queries are much darker than the mapping photos: map in that light as well, or augment (d2s train --augment).",
    "plain": "Some queries show little texture: step back, so that more than one wall is in the picture.",
    "unknown": "Some queries show things that the map does not know: add photos of how the place looks now (docs/self_update.md).",
    "inaccurate": "Some poses are right but not precise: add mapping photos there, or try refined poses (docs/refined_poses.md).",
    "refused": "Queries were refused rather than answered wrongly; a threshold decides that (d2s localize --help).",
}
"""What to do about a cause, the most useful first."""


@dataclass(frozen=True)
class Summary:
    """`causes` by image name of the queries that are not good; `coverage` where it is known."""

    scores: Sequence[Score]
    metrics: Mapping[str, Any]
    grading: Grading
    causes: Mapping[str, Sequence[Cause]]
    coverage: Coverage | None = None

    def sentences(self) -> list[str]:
        """What was measured, and how good it is."""
        return [sentence for sentence in (self._measured(), self._quality(), self._rest(), self._certainty(), self._cost()) if sentence]

    def advice(self) -> list[str]:
        """What to do next, the most useful first."""
        counted = Counter(code for causes in self.causes.values() for code in {cause.code for cause in causes})
        advice = [text for code, text in ADVICE.items() if counted[code] >= max(1, 0.15 * len(self.causes))]
        if not advice:
            advice = ["Look at the pictures below: they show what was recognised in the queries that failed, and what was not."]
        if not self.causes:
            advice = ["Nothing has to be mended for photos like these. Photos in another season, light or arrangement are another test."]
        return [*advice, *self._directions()]

    def _directions(self) -> list[str]:
        if self.coverage is None or self.coverage.open.mean() >= FEW_DIRECTIONS:
            return []
        share = 100 * float(self.coverage.open.mean())
        return [f"Mapping photos cover {share:.0f} % of the directions in which a photo from here may look: add others, if they matter."]

    def _measured(self) -> str:
        m, what = self.metrics, "mapping photos" if self.metrics.get("split") == "train" else "photos that were not used for mapping"
        features = f" with {m['features']} features" if m.get("features") else ""
        return f"{len(self.scores)} {what} were localized{features}, and their poses compared with those that the data set gives."

    def _quality(self) -> str:
        good, fair, _, _ = self.grading.counts(self.scores)
        count = len(self.scores)
        text = f"{_of(good, count)} came out within {self.grading.good.text} of the truth"
        if fair:
            text += f", {_of(good + fair, count)} within {self.grading.fair.text}"
        if self.metrics["median_t"] is None:
            return f"{text}."
        return f"{text}; half of them are at most {wording.median(self.metrics)} off."

    def _rest(self) -> str:
        _, _, poor, failed = self.grading.counts(self.scores)
        parts = [f"{failed} got no pose" if failed else "", f"{poor} {'was' if poor == 1 else 'were'} put elsewhere" if poor else ""]
        worst = max((s.t for s in self.scores if s.success), default=math.nan)
        if not poor and not failed:
            return f"The worst is {wording.distance(worst, self.metrics['units'], self.metrics['scene_extent'])} off."
        return f"{' and '.join(part for part in parts if part)}.".capitalize()

    def _certainty(self) -> str:
        count = len(self.scores)
        if count >= FEW_QUERIES:
            return ""
        low, high = wilson(self.grading.counts(self.scores)[GOOD] / count, count)
        return f"With so few queries the share of good ones is only known to lie between {100 * low:.0f} and {100 * high:.0f} %."

    def _cost(self) -> str:
        m = self.metrics
        parts = [
            f"One photo takes {wording.milliseconds(m['ms']['total'])}" if m["ms"].get("total") else "",
            f"the map takes {wording.size(m['map_bytes'])}" if m.get("map_bytes") else "",
            f"training took {wording.duration(m['train_seconds'])}" if m.get("train_seconds") else "",
        ]
        text = ", ".join(part for part in parts if part)
        return f"{text[:1].upper()}{text[1:]}." if text else ""


def coverage_sentences(coverage: Coverage, scores: Sequence[Score], grading: Grading) -> list[str]:
    """What the map of coverage shows."""
    sentences = [
        f"Shades say in how many directions a photo from there would find at least {100 * ENOUGH:.0f} % of what a mapping photo finds: "
        f"{100 * float(np.mean(coverage.open)):.0f} % of all directions, on average over the places that were mapped."
    ]
    weak = int(coverage.weak().sum())
    if weak:
        sentences.append(f"{weak} of {len(coverage.centers)} cells (red edge) have less than half of what is usual: add photos there.")
    if len(coverage.query_shares) == len(scores):
        sentences += _by_support(coverage, scores, grading)
    return sentences


def _by_support(coverage: Coverage, scores: Sequence[Score], grading: Grading) -> list[str]:
    """How queries did that the map should know, and those that it hardly knows."""
    good = np.array([grading.grade(score) == GOOD for score in scores])
    thin = coverage.query_shares < ENOUGH
    if not thin.any():
        return ["All queries were taken where the map knows enough of what they look at."]
    return [
        f"Of {int((~thin).sum())} queries that look at well mapped things {_share(good[~thin])} came out within {grading.good.text}; "
        f"of {int(thin.sum())} that look at hardly mapped ones {_share(good[thin])}."
    ]


def _share(values: Any) -> str:
    return f"{100 * float(np.mean(values)):.0f} %" if len(values) else "none"


def _of(part: int, count: int) -> str:
    return f"All {count}" if part == count else f"{part} of {count}"


def not_good(scores: Sequence[Score], grading: Grading) -> list[Score]:
    """The queries that something is wrong with."""
    return [score for score in scores if grading.grade(score) in (FAIR, POOR, FAILED)]
