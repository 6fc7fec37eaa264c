"""Why a query failed or is far off, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.evaluation import wording
from d2s.evaluation.coverage import ENOUGH
from d2s.evaluation.grades import FAILED, GOOD, Grading
from d2s.evaluation.score import Score
from d2s.geometry import pose
from d2s.scene.manifest import SceneImage

Array = NDArray[np.float64]

FEW_FEATURES, FEW_KEPT, BLURRED, DARK = 0.4, 0.35, 0.35, 0.4
"""Below these shares of what is usual, the number of features and of reliable ones, detail and brightness explain a failure."""
LOOKALIKE = 0.08
"""An error of this share of the extent puts a photo somewhere else in the place."""
FAR_DEG, FAR_STEPS = 35.0, 6.0
"""A mapping view that looks elsewhere by so much, or is farther away than so many times the usual distance, is of little help."""


@dataclass(frozen=True)
class Cause:
    """`code` says the kind (for counting), `text` a sentence."""

    code: str
    text: str


@dataclass(frozen=True)
class Nearest:
    """The mapping image closest to a pose, its distance (scene unit) and the angle between the views (degrees)."""

    image: SceneImage
    distance: float
    angle: float


@dataclass(frozen=True)
class Doctor:
    """Finds causes. `mapping` are mapping images with poses; `up` (3,) points up in the world; `shares` by image name as in `coverage`."""

    scores: Sequence[Score]
    mapping: Sequence[SceneImage]
    grading: Grading
    units: str
    extent: float
    up: Array
    shares: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def _poses(self) -> Array:
        return np.array([image.cam_from_world for image in self.mapping], dtype=np.float64).reshape(-1, 3, 4)

    @cached_property
    def _usual_distance(self) -> float:
        """Median distance of a query's nearest mapping view."""
        some = self.scores[:: 1 + len(self.scores) // 100]
        found = [self.nearest(s.image.cam_from_world) for s in some if s.image.cam_from_world is not None]
        return float(np.median([n.distance for n in found if n is not None])) if self.mapping and found else math.inf

    def nearest(self, cam_from_world: Array) -> Nearest | None:
        """The most similar mapping view: a tenth of the extent counts as much as 30 degrees."""
        if not self.mapping:
            return None
        distance = np.linalg.norm(pose.center(self._poses) - pose.center(cam_from_world), axis=1)
        angle = pose.rotation_angle_deg(self._poses[:, :, :3] @ np.swapaxes(cam_from_world[:, :3], 0, 1))
        best = int(np.argmin(distance / max(0.1 * self.extent, 1e-9) + angle / 30))
        return Nearest(self.mapping[best], float(distance[best]), float(angle[best]))

    def causes(self, score: Score) -> list[Cause]:
        """What can be said without looking at the picture, the most telling first; empty for a good pose."""
        grade = self.grading.grade(score)
        if grade == GOOD:
            return []
        found = [self._elsewhere(score), self._unseen(score), self._far(score), *self._counts(score)]
        causes = [cause for cause in found if cause is not None]
        if grade == FAILED:
            causes.insert(0, self._refused(score))
        return causes or [Cause("inaccurate", "It found its place, but not precisely.")]

    def _refused(self, score: Score) -> Cause:
        """No pose, or one that was not trusted."""
        if not math.isfinite(score.found_t):
            return Cause("nothing", f"No pose: {score.reason}.")
        off = f"{self._far_words(score.found_t)}, {wording.angle(score.found_r_deg)}"
        return Cause("refused", f"A pose was found, {off} off, but not trusted: {score.reason}.")

    def _elsewhere(self, score: Score) -> Cause | None:
        true, found = score.image.cam_from_world, score.cam_from_world
        if true is None or found is None or score.t < max(LOOKALIKE * self.extent, 4 * self.grading.fair.t):
            return None
        offset = pose.center(found) - pose.center(true)
        vertical = abs(float(offset @ self.up)) > 0.7 * float(np.linalg.norm(offset))
        storey = " straight above or below, as on another storey" if vertical else ""
        near = self.nearest(found)
        like = f": it was taken for {near.image.name}, so the two places look alike" if near else ""
        return Cause("lookalike", f"Put {self._far_words(score.t)} away{storey}{like}.")

    def _unseen(self, score: Score) -> Cause | None:
        share = self.shares.get(score.image.name)
        if share is None or share >= ENOUGH:
            return None
        return Cause("unseen", f"Mapping photos show {100 * share:.0f} % as much of what it looks at as is usual here.")

    def _far(self, score: Score) -> Cause | None:
        near = None if score.image.cam_from_world is None else self.nearest(score.image.cam_from_world)
        if near is None or (near.angle < FAR_DEG and near.distance < FAR_STEPS * self._usual_distance):
            return None
        where = f"{self._far_words(near.distance)} away and looks {near.angle:.0f}° elsewhere"
        return Cause("far", f"The nearest mapping photo was taken {where}.")

    def _counts(self, score: Score) -> list[Cause | None]:
        extracted, kept = self._usual("extracted"), self._usual("kept")
        found: list[Cause | None] = []
        if score.extracted is not None and score.extracted < FEW_FEATURES * extracted:
            found.append(Cause("plain", f"Few features: {score.extracted}, usually {extracted:.0f} (plain surfaces, blur or darkness)."))
        elif score.kept is not None and score.kept < FEW_KEPT * kept:
            found.append(Cause("unknown", f"Little was recognised: {score.kept} keypoints, usually {kept:.0f}."))
        elif score.inliers is not None and score.success and score.kept and score.inliers < FEW_KEPT * score.kept:
            found.append(Cause("disagree", f"Only {score.inliers} of {score.kept} recognised keypoints agree with the pose."))
        return found

    def _usual(self, name: str) -> float:
        known = [getattr(s, name) for s in self.scores if getattr(s, name) is not None]
        return float(np.median(known)) if known else 0.0

    def _far_words(self, t: float) -> str:
        return wording.distance(t, self.units, self.extent)


def picture_causes(query: NDArray[np.uint8], mapped: NDArray[np.uint8]) -> list[Cause]:
    """What two pictures (H, W, 3) tell: the query against the nearest mapping image, which shows much the same."""
    (detail, light), (usual_detail, usual_light) = _look(query), _look(mapped)
    causes = []
    if light < DARK * usual_light:
        causes.append(Cause("dark", f"Dark: {100 * light / usual_light:.0f} % as bright as the nearest mapping photo."))
    if detail < BLURRED * usual_detail:
        share = 100 * detail / usual_detail
        causes.append(Cause("blurred", f"Blurred or without texture: {share:.0f} % of the detail of the nearest mapping photo."))
    return causes


def _look(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Detail (mean size of the Laplacian at a width of 480 pixels, relative to the contrast) and brightness of a picture."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, (480, max(1, round(480 * gray.shape[0] / gray.shape[1]))), interpolation=cv2.INTER_AREA).astype(np.float32)
    return float(np.abs(cv2.Laplacian(gray, cv2.CV_32F)).mean() / max(float(gray.std()), 1.0)), max(float(gray.mean()), 1.0)
