"""What is tried when the first answer is not sure, and when it is not tried."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera, project
from d2s.localization import effort as module
from d2s.localization.effort import Effort, Question, by_views
from d2s.localization.localizer import Localizer
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmark_map import LandmarkMap
from d2s.regressor.views import Views

CAMERA = parse_camera("SIMPLE_PINHOLE 640 480 500 320 240")
POSES = [np.column_stack([np.eye(3), [shift, 0.0, 0.0]]) for shift in (0.0, 0.4, 0.8)]
POINTS = 400
BLACK = np.zeros((480, 640, 3), np.uint8)


class Place:
    """Landmarks in front of three views; the network finds those of which `knows` says so, in the image of POSES[1]."""

    def __init__(self, knows: float) -> None:
        rng = np.random.default_rng(0)
        self.xyz = np.column_stack([rng.uniform(-1.5, 1.5, POINTS), rng.uniform(-1.2, 1.2, POINTS), rng.uniform(3, 6, POINTS)])
        look = rng.standard_normal((POINTS, 64)).astype(np.float32)
        self.look = look / np.linalg.norm(look, axis=1, keepdims=True)
        views = Views(np.stack(POSES), np.zeros(3, np.int64), POINTS * np.arange(4), np.tile(np.arange(POINTS), 3))
        self.info = ModelInfo("made", "room", "metres", {"name": "made"}, POINTS, 1e-12, cameras=(format_camera(CAMERA),), views=views)
        self.right, self.asked = rng.random(POINTS) < knows, 0

    def features(self) -> LocalFeatures:
        pixels, _ = project(CAMERA, pose.transform(POSES[1], self.xyz))
        return LocalFeatures(pixels.astype(np.float32), np.linspace(1, 0.1, POINTS, dtype=np.float32), self.look, (640, 480))

    def predict(self, features: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
        self.asked += 1
        xyz = np.where(self.right[:, None], self.xyz, np.random.default_rng(1).uniform(-3, 3, (POINTS, 3)) + [0, 0, 4])
        return xyz.astype(np.float32), np.full(POINTS, 0.9, np.float32)

    def landmark_map(self) -> LandmarkMap:
        return LandmarkMap(self.look, self.xyz, 2.0)  # nothing is that alike: no second look, which would find everything by itself

    def extract(self, images: list[np.ndarray]) -> list[LocalFeatures]:
        return [self.features() for _ in images]


def localizer(place: Place, **options) -> Localizer:
    return Localizer(place, extractor=place, effort=Effort(**options))  # type: ignore[arg-type]


def test_views_find_what_the_whole_map_did_not() -> None:
    place = Place(knows=0.02)
    asked = localizer(place)
    assert not asked.localize_features(place.features(), CAMERA).success
    found = by_views(asked, Question(BLACK, 0, CAMERA, place.features()))
    assert found is not None and found.num_inliers == POINTS
    distance, angle = pose.pose_error(found.cam_from_map, POSES[1])
    assert distance < 1e-4 and angle < 1e-3


def test_what_is_found_in_another_way_is_judged_beside_the_matches_of_the_whole_map() -> None:
    """Thirty matches that agree say less where hundreds of the photo's own contradict them."""
    place = Place(knows=0.0)
    asked = localizer(place)
    features, xyz, reliability = asked.predict(place.features())
    matches = place.xyz.astype(np.float32), np.arange(POINTS) < 30
    against, alone = (asked.solve(features, xyz, certain, CAMERA, matches=matches) for certain in (reliability, 0 * reliability))
    assert (against.num_inliers, against.kept) == (30, POINTS) and alone.kept < 90 and alone.num_inliers >= 30
    np.testing.assert_allclose(against.cam_from_map, POSES[1], atol=1e-5)
    weighed = [asked.judge.weigh(result, CAMERA, asked.estimator.max_error).evidence for result in (against, alone)]
    assert weighed[0] < weighed[1] - 0.5


def test_a_model_without_views_has_none_to_ask() -> None:
    place = Place(knows=1.0)
    place.info = replace(place.info, views=None)
    assert by_views(localizer(place), Question(BLACK, 0, CAMERA, place.features())) is None


def test_a_hard_photo_is_localized_after_all_and_says_what_was_spent() -> None:
    fast, auto = (localizer(Place(knows=0.02), level=level).localize(BLACK, CAMERA) for level in ("fast", "auto"))
    assert not fast.success and "effort" not in fast.ms
    assert auto.success and auto.ms["effort"] >= auto.ms["views"] > 0 and auto.ms["total"] >= auto.ms["effort"]
    assert auto.to_json("a.jpg")["ms"]["effort"] == pytest.approx(auto.ms["effort"], abs=0.01)


@pytest.mark.parametrize(("level", "asked"), [("fast", 1), ("auto", 1), ("most", 3)])
def test_sure_answers_cost_nothing_more_unless_most_is_asked(level: str, asked: int) -> None:
    """Three: the first, views, and one turn, which is sure; with fewer keypoints than usual there are no more to have."""
    place = Place(knows=1.0)
    place.info = replace(place.info, features={"name": "made"})
    result = localizer(place, level=level).localize(BLACK, CAMERA)
    assert result.success and place.asked == asked


def test_nothing_more_is_begun_after_the_budget(monkeypatch) -> None:
    begun = []
    monkeypatch.setattr(module, "LOOKS", {name: lambda localizer, question: begun.append(1) for name in "abc"})
    clock = iter(np.arange(0.0, 100.0, 1.0))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    place = Place(knows=0.0)
    first = replace(localizer(place).localize_features(place.features(), CAMERA), ms={})
    start = module.time.perf_counter()
    module.try_harder(localizer(place, budget_ms=3500.0), first, Question(BLACK, 0, CAMERA, place.features()), start)
    assert 1 <= len(begun) < 3


def answer(success: bool, confidence: float, doubt: float = 0.0):
    result = localizer(Place(knows=1.0)).localize_features(Place(knows=1.0).features(), CAMERA)
    return replace(result, success=success, doubt=doubt, trust=replace(result.trust, confidence=confidence))


@pytest.mark.parametrize(
    ("found", "best", "taken"),
    [
        (answer(True, 0.8), answer(True, 0.7), True),
        (answer(True, 0.6), answer(True, 0.7), False),
        (answer(True, 0.6), answer(False, 0.7), True),
        (answer(False, 0.9), answer(True, 0.6), False),
        (answer(True, 0.9, doubt=0.6), answer(True, 0.6), False),
        (answer(True, 0.9, doubt=0.6), answer(False, 0.4), True),
    ],
)
def test_which_answer_is_believed(found, best, taken) -> None:
    """An image that fits two places fits them as well when it is looked at harder: its first answer stays."""
    assert module._better(found, best) is taken


def test_a_doubtful_answer_is_not_looked_at_again() -> None:
    assert module._sure(answer(True, 0.6, doubt=0.7)) and not module._sure(answer(True, 0.6)) and not module._sure(answer(False, 0.95))


def test_levels_and_budgets_that_are_none() -> None:
    with pytest.raises(InputError, match="fast"):
        Effort("hard")
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="budget"):
            Effort("auto", budget)


def test_weights_that_bear_turns_look_at_turned_photos_of_maps_made_with_the_usual_ones(monkeypatch, tmp_path) -> None:
    asked = localizer(Place(knows=1.0))
    made = []
    monkeypatch.setattr(asked, "extractor_of", lambda times, weights=None: made.append((times, weights)) or asked.extractor)
    monkeypatch.setattr(module, "find_weights", lambda name: tmp_path / name)
    aliked = {"name": "aliked", "num_keypoints": POINTS}
    for sha256, expected in ((module.WEIGHTS["aliked"].sha256, [(1, "aliked-n16rot")]), ("another file's", [])):
        asked.info, made[:] = replace(asked.info, features={**aliked, "weights_sha256": sha256}), []
        assert module.turned(asked, Question(BLACK, 0, CAMERA, Place(1.0).features())) is not None
        assert made == expected
    monkeypatch.setattr(module, "find_weights", lambda name: None)
    assert module._turn_bearing(asked) is None


def test_a_single_pixel_can_be_turned() -> None:
    """Turned by half, its array has negative strides that PyTorch does not take."""
    from d2s.features.network import _to_tensor

    assert _to_tensor(np.rot90(np.full((1, 1, 3), 7, np.uint8), 2)).shape == (3, 1, 1)
