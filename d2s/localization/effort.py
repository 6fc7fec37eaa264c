"""Effort follows doubt: a photo whose first answer is not convincing is looked at again, in dearer ways, before it is refused.

The first answer takes a twentieth of a second. Where its confidence is below SURE, these follow, cheapest first, until one is sure or the
time is up: twice as many keypoints; the photo's matches with single views of the map by LightGlue, where its weights are there, else by
mutual nearest neighbours; the photo turned by quarters. The answer with the greatest confidence is given, and `ms` says what was spent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError, MissingPackageError, WeightsError, unknown_choice
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.upright import extract_upright
from d2s.features.weights import WEIGHTS, find_weights
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.localization.result import LocalizationResult
from d2s.localization.trust import DOUBTFUL
from d2s.matching.nearest import mutual_nearest_neighbors
from d2s.matching.table import Matcher, make_matcher

if TYPE_CHECKING:
    from d2s.localization.localizer import Localizer

logger = logging.getLogger(__name__)
LEVELS = ("fast", "auto", "most")
SURE = 0.9
"""Confidence from which nothing more is tried."""
VIEWS = 4
"""Views of the map that a photo is matched with one by one; LightGlue takes some 0.3 seconds for each."""
MATCHED_KEYPOINTS = 1024
MORE = 2
"""So many times the usual number of keypoints."""
TURNING = {"aliked": "aliked-n16rot"}
"""Weights whose descriptors compare with those of the usual ones and bear turns of the photo up to 45 degrees, where the usual ones end at
20: with quarter turns, every angle is within reach."""


@dataclass(frozen=True)
class Effort:
    """`level`: "fast" tries nothing more, "auto" where the first answer is not sure, "most" everything, always. `budget_ms`: milliseconds
    since the question came after which nothing more is begun; None: no limit.
    """

    level: str = "auto"
    budget_ms: float | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise unknown_choice("effort", self.level, LEVELS)
        if self.budget_ms is not None and not 0 < self.budget_ms < float("inf"):
            raise InputError(f"A time budget of {self.budget_ms} milliseconds is none.", "Give a number above 0, or leave it out.")


DEFAULT_EFFORT = Effort()


@dataclass(frozen=True)
class Question:
    """A photo: its pixels as stored, the quarter turns that make it upright, its camera (None: unknown), its features."""

    pixels: NDArray[np.uint8]
    turns: int
    camera: pycolmap.Camera | None
    features: LocalFeatures


def try_harder(localizer: Localizer, first: LocalizationResult, question: Question, start: float) -> LocalizationResult:
    """The first answer, or a better one; `start`: `time.perf_counter()` when the question came. Adds "effort" and what each look took to
    the answer's ms.
    """
    effort, best, began = localizer.effort, first, time.perf_counter()
    if effort.level == "fast" or (effort.level == "auto" and _sure(first)):
        return first
    ms: dict[str, float] = {}
    for name, look in LOOKS.items():
        begin = time.perf_counter()
        if effort.budget_ms is not None and 1e3 * (begin - start) >= effort.budget_ms:
            break
        found = look(localizer, question)
        ms[name] = 1e3 * (time.perf_counter() - begin)
        if found is not None and _better(found, best):
            best = found
        if effort.level == "auto" and _sure(best):
            break
    return replace(best, ms={**first.ms, **ms, "effort": 1e3 * (time.perf_counter() - began)})


def _sure(result: LocalizationResult) -> bool:
    """Whether looking harder is of no use. An image that fits two places is one of them: more of the same image fits both as well."""
    return result.success and (result.confidence >= SURE or result.doubt >= DOUBTFUL)


def _better(found: LocalizationResult, best: LocalizationResult) -> bool:
    """Whether to believe `found` rather than `best`. Where the image fits two places, the first answer stays: on the fox asked from its
    side, whose map has a ghost with some more inliers, taking the more confident answer turned 15 right poses of 15 into 9.
    """
    if best.success and found.doubt >= DOUBTFUL:
        return False
    return (found.success, found.confidence, found.num_inliers) > (best.success, best.confidence, best.num_inliers)


def more_keypoints(localizer: Localizer, question: Question) -> LocalizationResult | None:
    """The answer from twice as many keypoints."""
    if len(question.features) < localizer.info.num_keypoints or "num_keypoints" not in localizer.info.features:  # there are no more
        return None
    return _answer(localizer, question, extract_upright(localizer.extractor_of(MORE), [question.pixels], [question.turns])[0], MORE)


def by_views(localizer: Localizer, question: Question) -> LocalizationResult | None:
    """The answer from matches with the views of the map that are most alike, one after the other."""
    views, landmarks = localizer.info.views, localizer.known_landmarks()
    if views is None or landmarks is None or not len(question.features):
        return None
    features, xyz, reliability = localizer.predict(question.features)
    described = landmarks.describe(features.descriptors)
    shown = mutual_nearest_neighbors(described, landmarks.descriptors)[:, 1].astype(np.int64)
    some = features.top(MATCHED_KEYPOINTS)
    # LightGlue knows the feature's own channels, not those that landmarks are projected to.
    own = landmarks.projection is None
    matcher = _view_matcher(str(localizer.info.features.get("name", "")) if own else "", localizer.device)
    found, used = np.zeros((len(features), 3), np.float32), np.zeros(len(features), dtype=bool)
    for number in reversed(views.most_alike(shown, VIEWS)):  # the best has the last word
        seen = views.seen(number)
        camera = parse_camera(localizer.info.cameras[views.camera[number]])
        as_image = _as_image(landmarks.xyz[seen], landmarks.descriptors[seen], views.cam_from_map[number], camera)
        rows, columns = matcher(replace(some, descriptors=described[: len(some)]), as_image).T
        found[rows], used[rows] = landmarks.xyz[seen[columns]], True
    return localizer.solve(features, xyz, reliability, question.camera, matches=(found, used))


def _as_image(
    xyz: NDArray[np.float64], descriptors: NDArray[np.float32], cam_from_map: NDArray[np.float64], camera: pycolmap.Camera
) -> LocalFeatures:
    """Landmarks as the features of an image that saw them."""
    pixels, _ = project(camera, pose.transform(cam_from_map, xyz))
    pixels = np.clip(np.nan_to_num(pixels), 0, [camera.width - 1, camera.height - 1])
    return LocalFeatures(pixels.astype(np.float32), np.ones(len(xyz), np.float32), descriptors, (camera.width, camera.height))


@lru_cache(maxsize=4)
def _view_matcher(feature: str, device: str) -> Matcher:
    """LightGlue where its weights are on this machine, else mutual nearest neighbours."""
    name = f"lightglue-{feature}"
    try:
        if name in WEIGHTS and find_weights(name) is not None:
            return make_matcher("lightglue", feature, device)
    except (MissingPackageError, WeightsError) as error:
        logger.info("Hard photos are matched without LightGlue: %s", error)
    return make_matcher("nn", feature, device)


def turned(localizer: Localizer, question: Question) -> LocalizationResult | None:
    """The best answer for the photo turned by quarters: most features are not found again on a turned photo.

    Where there are weights that bear turns, they look at all four, so that no angle is far from one of them.
    """
    bearing = _turn_bearing(localizer)
    answers = []
    for turns in (1, 3, 2) if bearing is None else (0, 1, 3, 2):
        features = extract_upright(bearing or localizer.extractor, [question.pixels], [question.turns + turns])[0]
        answers.append(_answer(localizer, question, features))
        if _sure(answers[-1]):
            break
    return max(answers, key=lambda answer: (answer.success, answer.confidence, answer.num_inliers))


def _turn_bearing(localizer: Localizer) -> Extractor | None:
    """The extractor with the weights of TURNING, where they are on this machine and the map was made with the usual ones."""
    feature = localizer.info.features
    name = str(feature.get("name", ""))
    if name not in TURNING or feature.get("weights_sha256") != WEIGHTS[name].sha256:
        return None
    try:
        return localizer.extractor_of(1, TURNING[name]) if find_weights(TURNING[name]) is not None else None
    except WeightsError as error:
        logger.info("Turned photos are looked at with the usual weights: %s", error)
        return None


def _answer(localizer: Localizer, question: Question, features: LocalFeatures, times: int = 1) -> LocalizationResult:
    features, xyz, reliability = localizer.predict(features, times)
    return localizer.solve(features, xyz, reliability, question.camera)


Look = Callable[["Localizer", Question], "LocalizationResult | None"]
LOOKS: dict[str, Look] = {"more_keypoints": more_keypoints, "views": by_views, "turned": turned}
