"""`report.html`: how well a place is localized, on one page that needs no network and can be read on a phone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.evaluation import html, wording
from d2s.evaluation.figures import TopView, error_curve
from d2s.evaluation.pictures import draw_keypoints, jpeg_uri
from d2s.evaluation.score import CM_PER_PERCENT, METRES, Score, median_ms
from d2s.features.images import read_image
from d2s.localization.result import STAGES, LocalizationResult
from d2s.scene.atomic import write_text
from d2s.scene.manifest import Scene

logger = logging.getLogger(__name__)

NUM_BEST, NUM_WORST, MAX_ROWS = 4, 8, 400
LEGEND = (
    '<p class="legend small"><span><i class="dot" style="background:#12b552"></i>reliable, agrees with the pose</span>'
    '<span><i class="dot" style="border:2px solid #12b552"></i>reliable, does not agree</span>'
    '<span><i class="dot" style="background:#e5402f"></i>rejected by the network</span></p>'
)


@dataclass(frozen=True)
class Report:
    """What a report is made from.

    `results` (by image name) give keypoints and predicted points; without them (re-scoring) those parts are left out.
    """

    scene: Scene
    scores: Sequence[Score]
    metrics: Mapping[str, Any]
    results: Mapping[str, LocalizationResult] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the page."""
        write_text(path, self.page())

    def page(self) -> str:
        """The page as text."""
        body = [
            self._head(),
            self._tiles(),
            '<div class="pair">' + html.section("Queries within", html.bars(wording.recalls(self.metrics))) + self._cost() + "</div>",
            '<div class="pair">' + "".join(html.section(*curve) for curve in self._curves()) + "</div>",
            html.section("From above", f"<figure>{self._top_view()}</figure>", "wide"),
            self._pictures(),
            self._failures(),
            self._all_queries(),
            self._settings(),
        ]
        return html.page(f"{self.scene.dataset} / {self.scene.name}", "\n".join(part for part in body if part))

    def _head(self) -> str:
        note = wording.unit_note(self.metrics)
        features = f" with {self.metrics['features']} features" if self.metrics.get("features") else ""
        text = f"{self.metrics['n_queries']} {self.metrics.get('split', 'test')} images localized{features}. {note}"
        return f'<h1>{escape(self.scene.dataset)} / {escape(self.scene.name)}</h1><p class="soft">{escape(text)}</p>'

    def _tiles(self) -> str:
        m = self.metrics
        tight, loose = wording.recalls(m)[3], wording.recalls(m)[4]
        return html.tiles(
            [
                ("median position error", self._distance(m["median_t"])),
                ("median rotation error", wording.angle(m["median_r_deg"])),
                (f"within {tight[0]}", wording.share(tight[1])),
                (f"within {loose[0]}", wording.share(loose[1])),
                ("not localized", f"{m['n_failed']} of {m['n_queries']}"),
                ("per image, median", wording.milliseconds(m["ms"]["total"])),
                ("size of the map", wording.size(m.get("map_bytes"))),
                ("training", wording.duration(m.get("train_seconds"))),
            ]
        )

    def _distance(self, t: float | None) -> str:
        return wording.distance(t, self.metrics["units"], self.metrics["scene_extent"])

    def _cost(self) -> str:
        rows = [
            (stage, wording.milliseconds(median_ms(self.scores, stage)), wording.milliseconds(median_ms(self.scores, stage, 0.9)))
            for stage in STAGES
        ]
        counts = [(name, _count(self.metrics[f"mean_{name}"])) for name in ("extracted", "kept", "inliers")]
        return html.section(
            "Cost of one image",
            html.table(("stage", "median", "90 %"), rows) + "<br>" + html.table(("keypoints", "mean"), counts),
        )

    def _curves(self) -> list[tuple[str, str]]:
        metric, extent = self.metrics["units"] == METRES, self.metrics["scene_extent"]
        factor, unit = (100.0, "cm") if metric else (100.0 / extent if extent > 0 else np.nan, "% of the extent")
        marks = [v if metric else v / CM_PER_PERCENT for v in (1, 2, 5, 10, 25, 50)]
        return [
            ("Position", error_curve([factor * s.t for s in self.scores], f"position error, {unit}", marks)),
            ("Rotation", error_curve([s.r_deg for s in self.scores], "rotation error, degrees", (0.2, 0.5, 1, 2, 5, 10))),
        ]

    def _top_view(self) -> str:
        missing = np.full((3, 4), np.nan)
        return TopView(
            mapping=_poses([image.cam_from_world for image in self.scene.split("train")]),
            true=_poses([s.image.cam_from_world for s in self.scores]),
            estimated=_poses([missing if s.cam_from_world is None else s.cam_from_world for s in self.scores]),
            points=self._points(),
            unit="metres" if self.metrics["units"] == METRES else "scene units",
        ).draw()

    def _points(self) -> NDArray[np.float64]:
        clouds = [r.xyz[r.inliers].astype(np.float64) for r in self.results.values() if r.success]
        return np.concatenate([np.zeros((0, 3)), *clouds])

    def _pictures(self) -> str:
        ranked = [s for s in sorted(self.scores, key=_badness) if s.image.name in self.results]
        if not ranked:
            return ""
        num_best = min(NUM_BEST, (len(ranked) + 1) // 2)
        best, worst = ranked[:num_best], ranked[num_best:][-NUM_WORST:][::-1]
        galleries = (("Best queries", best), ("Worst queries", worst))
        return "".join(html.section(title, LEGEND + self._gallery(scores)) for title, scores in galleries if scores)

    def _gallery(self, scores: Sequence[Score]) -> str:
        return '<div class="pictures">' + "".join(self._picture(score) for score in scores) + "</div>"

    def _picture(self, score: Score) -> str:
        name = escape(score.image.name)
        counts = f"{_count(score.inliers)} inliers of {_count(score.kept)} reliable of {_count(score.extracted)}"
        failure = f'<span class="bad">{escape(score.reason)}</span>'
        error = f"{self._distance(score.t)}, {wording.angle(score.r_deg)}" if score.success else failure
        caption = f'<b>{error}</b><br>{counts}<br><span class="soft">{name}</span>'
        try:
            image = read_image(self.scene.path(score.image))
        except InputError as problem:
            return html.picture("data:,", score.image.name, f"{caption}<br>{escape(problem.problem)}")
        return html.picture(jpeg_uri(draw_keypoints(image, self.results[score.image.name])), score.image.name, caption)

    def _failures(self) -> str:
        failed = [s for s in self.scores if not s.success]
        if not failed:
            return ""
        rows = [(s.image.name, _count(s.extracted), _count(s.kept), s.reason) for s in failed[:MAX_ROWS]]
        return html.section(f"Not localized ({len(failed)})", html.table(("image", "extracted", "kept", "reason"), rows, text_columns=(3,)))

    def _all_queries(self) -> str:
        ranked = sorted(self.scores, key=_badness, reverse=True)
        rows = [self._row(score) for score in ranked[:MAX_ROWS]]
        more = f" (the {MAX_ROWS} worst of {len(ranked)}; all are in per_image.csv)" if len(ranked) > MAX_ROWS else ""
        content = html.table(("image", "position", "rotation", "inliers", "kept", "time"), rows)
        return f"<section><details><summary>All queries, worst first{more}</summary>{content}</details></section>"

    def _row(self, s: Score) -> tuple[str, ...]:
        errors = self._distance(s.t), wording.angle(s.r_deg)
        return s.image.name, *errors, _count(s.inliers), _count(s.kept), wording.milliseconds(s.ms.get("total"))

    def _settings(self) -> str:
        m = self.metrics
        known = ("features", "num_keypoints", "pnp", "max_error", "reliability_threshold", "model", "seed")
        rows = [(name, str(m[name])) for name in known if m.get(name) is not None]
        versions = ", ".join(f"{name} {version}" for name, version in m.get("versions", {}).items())
        return html.section("Settings", html.table(("", ""), rows) + f'<p class="soft small"><br>{escape(versions)}</p>')


def _poses(poses: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    return np.array([pose for pose in poses if pose is not None], dtype=np.float64).reshape(-1, 3, 4)


def _badness(score: Score) -> tuple[float, float]:
    return score.t, score.r_deg


def _count(value: float | None) -> str:
    return wording.NONE if value is None else f"{value:.0f}"
