"""Query pictures of a report: the best ones, and the worst ones with what went wrong and the nearest mapping image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.evaluation import html, wording
from d2s.evaluation.causes import Cause, Doctor, Nearest, picture_causes
from d2s.evaluation.grades import GOOD
from d2s.evaluation.pictures import draw_keypoints, jpeg_uri, shrink
from d2s.evaluation.report_data import Marked
from d2s.evaluation.score import Score
from d2s.features.images import read_image
from d2s.scene.manifest import Scene, SceneImage

NUM_BEST, NUM_WORST = 3, 8
NEIGHBOUR_SIDE = 300
LEGEND = (
    '<p class="legend small"><span><i class="dot" style="background:#12b552"></i>reliable, agrees with the pose</span>'
    '<span><i class="dot" style="border:2px solid #12b552"></i>reliable, does not agree</span>'
    '<span><i class="dot" style="background:#e5402f"></i>rejected by the network</span></p>'
)


def badness(score: Score) -> tuple[float, float]:
    """Sorts the best query first; failures, whose errors are infinite, come last."""
    return score.t, score.r_deg


def best_and_worst(scores: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """The queries that a page shows: some of the best, best first, and the worst, worst first."""
    ranked = sorted(scores, key=badness)
    num_best = min(NUM_BEST, (len(ranked) + 1) // 2)
    return ranked[:num_best], ranked[num_best:][-NUM_WORST:][::-1]


@dataclass(frozen=True)
class Gallery:
    """Pictures of queries whose keypoints are known."""

    scene: Scene
    scores: Sequence[Score]
    keypoints: Mapping[str, Marked]
    doctor: Doctor

    def html(self) -> str:
        """The sections; empty where no keypoints are known."""
        best, worst = best_and_worst([s for s in self.scores if s.image.name in self.keypoints])
        title = "Least accurate queries" if all(self.doctor.grading.grade(s) == GOOD for s in worst) else "What went wrong"
        parts = []
        if worst:
            cases = '<div class="cases">' + "".join(self._case(score) for score in worst) + "</div>"
            parts.append(html.section(title, LEGEND + cases))
        if best:
            pictures = '<div class="pictures">' + "".join(self._plain(score) for score in best) + "</div>"
            parts.append(html.section("Best queries", pictures))
        return "".join(parts)

    def _case(self, score: Score) -> str:
        """A query beside the nearest mapping image, with its causes."""
        image = self._read(score.image)
        near = None if score.image.cam_from_world is None else self.doctor.nearest(score.image.cam_from_world)
        mapped = None if near is None else self._read(near.image)
        causes = self.doctor.causes(score)
        if causes and isinstance(image, np.ndarray) and isinstance(mapped, np.ndarray):
            causes += picture_causes(image, mapped)
        pictures = self._query(score, image) + ("" if near is None else self._neighbour(near, mapped))
        return f'<div class="case"><div class="both">{pictures}</div>{_sentences(causes)}</div>'

    def _plain(self, score: Score) -> str:
        return self._query(score, self._read(score.image))

    def _query(self, score: Score, image: NDArray[np.uint8] | str) -> str:
        found = f"{_distance(self.doctor, score.t)}, {wording.angle(score.r_deg)} off"
        counts = f"{wording.count(score.inliers)} inliers of {wording.count(score.kept)} reliable of {wording.count(score.extracted)}"
        head = found if score.success else '<span class="bad">not localized</span>'
        caption = f'<b>{head}</b><br>{counts}<br><span class="soft">{escape(score.image.name)}</span>'
        if isinstance(image, str):
            return html.no_picture(image, caption)
        return html.picture(jpeg_uri(draw_keypoints(image, self.keypoints[score.image.name])), score.image.name, caption)

    def _neighbour(self, near: Nearest, image: NDArray[np.uint8] | str | None) -> str:
        where = f"{_distance(self.doctor, near.distance)} and {near.angle:.0f}° from the query"
        caption = f'nearest mapping photo, {where}<br><span class="soft">{escape(near.image.name)}</span>'
        if not isinstance(image, np.ndarray):
            return html.no_picture(image or "", caption)
        return html.picture(jpeg_uri(shrink(image, NEIGHBOUR_SIDE)[0]), near.image.name, caption)

    def _read(self, image: SceneImage) -> NDArray[np.uint8] | str:
        """The picture, or why there is none."""
        try:
            return read_image(self.scene.path(image))
        except InputError as error:
            return error.problem


def _distance(doctor: Doctor, t: float) -> str:
    return wording.distance(t, doctor.units, doctor.extent)


def _sentences(causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    return "<ul>" + "".join(f'<li data-cause="{cause.code}">{escape(cause.text)}</li>' for cause in causes) + "</ul>"
