"""`report.html`: how well a place is localized, on one page that needs no network and can be read on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.evaluation import html, wording
from d2s.evaluation.causes import Cause, Doctor
from d2s.evaluation.comparison import Comparison
from d2s.evaluation.cost import cost_sections
from d2s.evaluation.coverage import Coverage, Visibility, measure_coverage
from d2s.evaluation.figures import error_curve
from d2s.evaluation.gallery import Gallery, badness
from d2s.evaluation.grades import Grading, grading
from d2s.evaluation.map_figure import PlaceMap, shade_legend, ups, view_from_above
from d2s.evaluation.reliability import reliability_section
from d2s.evaluation.report_data import ReportData
from d2s.evaluation.scene_view import Query, SceneView
from d2s.evaluation.score import CM_PER_PERCENT, METRES, Score
from d2s.evaluation.summary import Summary, coverage_sentences, not_good
from d2s.scene.atomic import write_text
from d2s.scene.manifest import Scene

MAX_ROWS = 400
OURS, MATCHING = "this map", "matching"


@dataclass(frozen=True)
class Report:
    """What a report is made from.

    `data` gives points and keypoints; without them (poses of another program) the page has no pictures. `visibility` says what mapping
    images saw, for the map of coverage; `matching` is what this map is compared with.
    """

    scene: Scene
    scores: Sequence[Score]
    metrics: Mapping[str, Any]
    data: ReportData = field(default_factory=ReportData)
    visibility: Visibility | None = None
    matching: Comparison | None = None

    def write(self, path: Path) -> None:
        """Write the page."""
        write_text(path, self.page())

    def page(self) -> str:
        """The page as text."""
        body = [
            self._head(),
            self._tiles(),
            '<div class="pair">' + "".join(html.section(*curve) for curve in self._curves()) + "</div>",
            '<div class="pair">' + html.section("Queries within", html.bars(wording.recalls(self.metrics))) + self._matching() + "</div>",
            html.section("The place in 3D", self._view()),
            html.section("Where it works", self._maps(), "wide"),
            Gallery(self.scene, self.scores, self.data.keypoints, self._doctor).html(),
            self._failures(),
            self._trust(),
            '<div class="pair">' + cost_sections(self.scores, self.metrics) + "</div>",
            self._all_queries(),
            self._settings(),
        ]
        return html.page(f"{self.scene.dataset} / {self.scene.name}", "\n".join(part for part in body if part))

    @cached_property
    def _grading(self) -> Grading:
        return grading(self.metrics["units"], self.metrics["scene_extent"])

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        images = [*self.scene.split("train"), *(score.image for score in self.scores)]
        return view_from_above(_poses([image.cam_from_world for image in images]), ups(self.scene, images))

    @cached_property
    def _coverage(self) -> Coverage | None:
        if self.visibility is None:
            return None
        return measure_coverage(self.visibility, self.scene, [score.image for score in self.scores], self._axes)

    @cached_property
    def _doctor(self) -> Doctor:
        mapping = [image for image in self.scene.split("train") if image.cam_from_world is not None]
        names = [score.image.name for score in self.scores]
        shares = {} if self._coverage is None else dict(zip(names, self._coverage.query_shares.tolist(), strict=True))
        others = [image for image in mapping if image.name not in set(names)]  # where mapping images are the queries, there are none
        up = np.cross(*self._axes)
        return Doctor(self.scores, others or mapping, self._grading, self.metrics["units"], self.metrics["scene_extent"], up, shares)

    @cached_property
    def _causes(self) -> dict[str, list[Cause]]:
        return {score.image.name: self._doctor.causes(score) for score in not_good(self.scores, self._grading)}

    def _head(self) -> str:
        summary = Summary(self.scores, self.metrics, self._grading, self._causes, self._coverage)
        note = wording.unit_note(self.metrics)
        return (
            f"<h1>{escape(self.scene.dataset)} / {escape(self.scene.name)}</h1>"
            + html.paragraphs(summary.sentences(), "lead")
            + (html.paragraphs([note], "soft") if note else "")
            + "<h3>What to do next</h3>"
            + html.bullets(summary.advice())
        )

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

    def _curves(self) -> list[tuple[str, str]]:
        metric, extent = self.metrics["units"] == METRES, self.metrics["scene_extent"]
        factor, unit = (100.0, "cm") if metric else (100.0 / extent if extent > 0 else np.nan, "% of the extent")
        shown = (0.5, 75.0) if metric else (0.5 / CM_PER_PERCENT, 75.0 / CM_PER_PERCENT)
        good = self._grading.good
        methods = {OURS: self.scores} if self.matching is None else {OURS: self.scores, MATCHING: self.matching.scores}
        position = {name: [factor * s.t for s in scores] for name, scores in methods.items()}
        rotation = {name: [s.r_deg for s in scores] for name, scores in methods.items()}
        return [
            ("Position", error_curve(position, f"position error, {unit}", shown, factor * good.t)),
            ("Rotation", error_curve(rotation, "rotation error, degrees", (0.1, 15.0), good.deg)),
        ]

    def _matching(self) -> str:
        return "" if self.matching is None else html.section("Beside matching", self.matching.table(self.scores, self.metrics))

    def _mapping_poses(self) -> NDArray[np.float64]:
        return _poses([image.cam_from_world for image in self.scene.split("train")])

    @property
    def _unit(self) -> str:
        return "m" if self.metrics["units"] == METRES else "units"

    def _view(self) -> str:
        queries = [
            Query(s.image.name, s.image.cam_from_world, s.cam_from_world, self._grading.grade(s), self._error(s))
            for s in self.scores
            if s.image.cam_from_world is not None
        ]
        rgb = np.where(self.data.found[:, None], self.data.rgb, np.uint8(140)).astype(np.uint8)
        camera = self.scene.camera(self.scores[0].image)
        return SceneView(
            self.data.points.astype(np.float64),
            rgb,
            self._mapping_poses(),
            queries,
            np.cross(*self._axes),
            camera,
            self._grading.names(),
            self._unit,
        ).html()

    def _error(self, score: Score) -> str:
        return f"{self._distance(score.t)}, {wording.angle(score.r_deg)} off" if score.success else score.reason

    def _maps(self) -> str:
        missing = np.full((3, 4), np.nan)
        place = PlaceMap(
            mapping=self._mapping_poses(),
            true=_poses([s.image.cam_from_world for s in self.scores]),
            estimated=_poses([missing if s.cam_from_world is None else s.cam_from_world for s in self.scores]),
            grades=[self._grading.grade(s) for s in self.scores],
            points=self.data.points.astype(np.float64),
            unit="metres" if self.metrics["units"] == METRES else "scene units",
            names=self._grading.names(),
            coverage=self._coverage,
            axes=self._axes,
        )
        words = "" if self._coverage is None else html.bullets(coverage_sentences(self._coverage, self.scores, self._grading))
        side = self._coverage is not None and self._coverage.tall
        figures = f"<figure>{place.from_above()}</figure>"
        if side:
            figures += f"<h3>From the side</h3><figure>{place.from_the_side()}</figure>"
        return f"{words}<h3>From above</h3>{'' if self._coverage is None else shade_legend()}{figures}"

    def _failures(self) -> str:
        failed = [s for s in self.scores if not s.success]
        if not failed:
            return ""
        rows = [(s.image.name, wording.count(s.extracted), wording.count(s.kept), self._why(s)) for s in failed[:MAX_ROWS]]
        table = html.table(("image", "extracted", "kept", "reason"), rows, text_columns=(3,))
        return html.section(f"Not localized ({len(failed)})", table)

    def _why(self, score: Score) -> str:
        return " ".join(cause.text for cause in self._causes[score.image.name])

    def _trust(self) -> str:
        figure, caption = reliability_section(self.metrics.get("trust"))
        if not figure:
            return ""
        return html.section("Can its confidence be trusted?", f'<p class="soft">{escape(caption)}</p><div class="narrow">{figure}</div>')

    def _all_queries(self) -> str:
        ranked = sorted(self.scores, key=badness, reverse=True)
        rows = [self._row(score) for score in ranked[:MAX_ROWS]]
        more = f" (the {MAX_ROWS} worst of {len(ranked)}; all are in per_image.csv)" if len(ranked) > MAX_ROWS else ""
        content = html.table(("image", "position", "rotation", "inliers", "kept", "time"), rows)
        return f"<section><details><summary>All queries, worst first{more}</summary>{content}</details></section>"

    def _row(self, s: Score) -> tuple[str, ...]:
        errors = self._distance(s.t), wording.angle(s.r_deg)
        return s.image.name, *errors, wording.count(s.inliers), wording.count(s.kept), wording.milliseconds(s.ms.get("total"))

    def _settings(self) -> str:
        m = self.metrics
        known = ("features", "num_keypoints", "pnp", "max_error", "reliability_threshold", "min_confidence", "model", "seed")
        rows = [(name, str(m[name])) for name in known if m.get(name) is not None]
        versions = ", ".join(f"{name} {version}" for name, version in m.get("versions", {}).items())
        return html.section("Settings", html.table(("", ""), rows) + f'<p class="soft small"><br>{escape(versions)}</p>')


def _poses(poses: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    return np.array([pose for pose in poses if pose is not None], dtype=np.float64).reshape(-1, 3, 4)
