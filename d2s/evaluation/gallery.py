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
from d2s.evaluation.grades import GOOD, Grading
from d2s.evaluation.pictures import draw_keypoints, jpeg_uri, shrink
from d2s.evaluation.report_data import Marked
from d2s.evaluation.score import Score
from d2s.features.images import read_image
from d2s.geometry.pose import pose_error
from d2s.scene.manifest import Scene, SceneImage

NUM_BEST, NUM_WRONG, NUM_WEAKEST = 4, 8, 4
"""Queries in pictures at most: the best, those with something wrong, and the least accurate of all others."""
NEIGHBOUR_SIDE = 300
LEGEND = (
    '<p class="legend small"><span><i class="dot" style="background:#12b552"></i>reliable, agrees with the pose</span>'
    '<span><i class="dot" style="border:2px solid #12b552"></i>reliable, does not agree</span>'
    '<span><i class="dot" style="background:#e5402f"></i>rejected by the network</span></p>'
)


def badness(score: Score) -> tuple[float, float]:
    """Sorts the best query first; failures, whose errors are infinite, come last."""
    return score.t, score.r_deg


@dataclass(frozen=True)
class Shown:
    """The queries that a page shows: `wrong` and `weakest` worst first, `best` best first."""

    wrong: list[Score]
    weakest: list[Score]
    best: list[Score]

    def names(self) -> list[str]:
        """Their images."""
        return [score.image.name for score in (*self.wrong, *self.weakest, *self.best)]


def choose(scores: Sequence[Score], grading: Grading) -> Shown:
    """What to show of all queries."""
    ranked = sorted(scores, key=badness)
    good = [score for score in ranked if grading.grade(score) == GOOD]
    wrong = [score for score in reversed(ranked) if grading.grade(score) != GOOD]
    num_best = min(NUM_BEST, (len(good) + 1) // 2)
    return Shown(wrong[:NUM_WRONG], good[num_best:][-NUM_WEAKEST:][::-1], good[:num_best])


@dataclass(frozen=True)
class Gallery:
    """Pictures of queries whose keypoints are known."""

    scene: Scene
    scores: Sequence[Score]
    keypoints: Mapping[str, Marked]
    doctor: Doctor

    def html(self) -> str:
        """The sections; empty where no keypoints are known."""
        shown = choose([s for s in self.scores if s.image.name in self.keypoints], self.doctor.grading)
        parts = []
        if shown.wrong:
            cases = '<div class="cases">' + "".join(self._case(score) for score in shown.wrong) + "</div>"
            total = sum(self.doctor.grading.grade(score) != GOOD for score in self.scores)
            parts.append(html.section(f"What went wrong ({_part(len(shown.wrong), total)})", LEGEND + cases))
        if shown.weakest:
            title = "Least accurate of the good queries" if shown.wrong else "Least accurate queries"
            parts.append(html.section(title, LEGEND + self._pictures(shown.weakest)))
        if shown.best:
            parts.append(html.section("Best queries", self._pictures(shown.best)))
        return "".join(parts)

    def _pictures(self, scores: Sequence[Score]) -> str:
        return '<div class="pictures">' + "".join(self._query(score, self._read(score.image)) for score in scores) + "</div>"

    def _case(self, score: Score) -> str:
        """A query beside the nearest mapping image, with its causes."""
        image = self._read(score.image)
        near = None if score.image.cam_from_world is None else self.doctor.nearest(score.image.cam_from_world)
        mapped = None if near is None else self._read(near.image)
        causes = self.doctor.causes(score)
        if causes and isinstance(image, np.ndarray) and isinstance(mapped, np.ndarray):
            causes += picture_causes(image, mapped)
        beside = "" if near is None else self._neighbour(near, mapped, "nearest mapping photo")
        taken = self._taken_for(score, causes)
        if taken is not None:
            beside += self._neighbour(taken, self._read(taken.image), "taken for")
        pictures = f"{self._query(score, image)}<div>{beside}</div>"
        return f'<div class="case"><div class="both">{pictures}</div>{_sentences(causes)}</div>'

    def _taken_for(self, score: Score, causes: Sequence[Cause]) -> Nearest | None:
        """The mapping image that a query was taken for, where it was put elsewhere; distances are to where it truly was."""
        if score.cam_from_world is None or not any(cause.code == "lookalike" for cause in causes):
            return None
        found = self.doctor.nearest(score.cam_from_world)
        if found is None or found.image.cam_from_world is None or score.image.cam_from_world is None:
            return None
        return Nearest(found.image, *pose_error(found.image.cam_from_world, score.image.cam_from_world))

    def _query(self, score: Score, image: NDArray[np.uint8] | str) -> str:
        found = f"{_distance(self.doctor, score.t)}, {wording.angle(score.r_deg)} off"
        counts = f"{wording.count(score.inliers)} inliers of {wording.count(score.kept)} reliable of {wording.count(score.extracted)}"
        head = found if score.success else '<span class="bad">not localized</span>'
        caption = f'<b>{head}</b><br>{counts}<br><span class="soft">{escape(score.image.name)}</span>'
        if isinstance(image, str):
            return html.no_picture(image, caption)
        return html.picture(jpeg_uri(draw_keypoints(image, self.keypoints[score.image.name])), score.image.name, caption)

    def _neighbour(self, near: Nearest, image: NDArray[np.uint8] | str | None, what: str) -> str:
        where = f"{_distance(self.doctor, near.distance)}, {near.angle:.0f}° from it"
        caption = f'{what} ({where})<br><span class="soft">{escape(near.image.name)}</span>'
        if not isinstance(image, np.ndarray):
            return html.no_picture(image or "", caption)
        return html.picture(jpeg_uri(shrink(image, NEIGHBOUR_SIDE)[0]), near.image.name, caption)

    def _read(self, image: SceneImage) -> NDArray[np.uint8] | str:
        """The picture, or why there is none."""
        try:
            return read_image(self.scene.path(image))
        except InputError as error:
            return error.problem


def _part(shown: int, total: int) -> str:
    return f"{shown}" if shown == total else f"{shown} of {total}"


def _distance(doctor: Doctor, t: float) -> str:
    return wording.distance(t, doctor.units, doctor.extent)


def _sentences(causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    return "<ul>" + "".join(f'<li data-cause="{cause.code}">{escape(cause.text)}</li>' for cause in causes) + "</ul>"
