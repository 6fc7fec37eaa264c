"""Confidence, refusal, and what a place's validation images change."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from d2s.errors import FormatError
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, unproject
from d2s.geometry.pose_field import PoseField, Reach, motion
from d2s.localization.calibration import MAX_SHIFT, Observation, calibrate, most_likely_shift, shared_error
from d2s.localization.covariance import spread_r_deg, spread_t
from d2s.localization.doubt import doubt
from d2s.localization.result import LocalizationResult
from d2s.localization.signals import SIGNALS, signals_of
from d2s.localization.table import make_estimator
from d2s.localization.trust import AS_MAPPED, WIDER, Calibration, Judge, constants_from_json, general_constants

CAMERA = parse_camera("PINHOLE 640 480 525 525 320 240")
TRUE = pose.from_qvec_tvec([0.8, 0.1, -0.5, 0.2], [0.3, -1.0, 2.0])
MAX_ERROR = 12.0


def made(inliers: int = 600, extracted: int = 1000, noise: float = 1.0, spread: float = 1.0, reliable: float = 0.4) -> LocalizationResult:
    """A result with so many inliers in a window of the image, seen with so much noise."""
    random = np.random.default_rng(0)
    pixels = random.uniform(0, [640, 480], (extracted, 2))
    pixels[:inliers] = 200 * (1 - spread) + random.uniform(0, [640 * spread, 480 * spread], (inliers, 2))
    rays = np.column_stack([unproject(CAMERA, pixels), np.ones(extracted)])
    xyz = pose.transform(pose.inverse(TRUE), rays * random.uniform(2, 6, (extracted, 1)))
    pixels += random.normal(0, noise, pixels.shape)
    mask = np.arange(extracted) < inliers
    reliability = np.full(extracted, reliable, np.float32)
    used = np.ones(extracted, dtype=bool)
    return LocalizationResult(True, TRUE, "", {}, pixels.astype(np.float32), xyz.astype(np.float32), reliability, used, mask, TRUE)


GOOD = made()
BY_CHANCE = made(24, 2000, noise=4.5, spread=0.4, reliable=0.01)


def signal(result: LocalizationResult, name: str) -> float:
    return float(signals_of(result, CAMERA, MAX_ERROR, None)[SIGNALS.index(name)])


def test_signals_say_what_their_names_promise():
    assert signal(GOOD, "surprise") == pytest.approx(math.log(201))  # no chance has more zeros
    assert signal(made(4), "surprise") == 0 < signal(made(20), "surprise") < signal(made(30), "surprise") < signal(GOOD, "surprise")
    assert signal(made(30, 200), "surprise") > signal(made(30, 2000), "surprise")  # the fewer of many, the likelier by chance
    assert signal(made(noise=2.0), "residual") == pytest.approx(2 * 1.177 / MAX_ERROR, rel=0.1)  # median of a Rayleigh distribution


def test_signals_do_not_ask_how_alike_descriptors_are_on_another_day():
    assert np.array_equal(signals_of(GOOD, CAMERA, MAX_ERROR, None), signals_of(made(reliable=0.01), CAMERA, MAX_ERROR, None))


def test_matches_for_another_place_raise_doubt():
    estimator = make_estimator(max_error=MAX_ERROR)
    elsewhere = pose.compose(motion(np.array([0, 0.3, 0, 2.0, 0, 0])), TRUE)
    random = np.random.default_rng(0)
    pixels = random.uniform(0, [640, 480], (300, 2)).astype(np.float32)
    local = np.column_stack([unproject(CAMERA, pixels), np.ones(300)]) * random.uniform(2, 6, (300, 1))
    for there, noise, low, high in ((0, 150, 0, 0), (20, 0, 0, 0), (100, 50, 0.6, 0.75), (170, 0, 1, 1)):
        xyz = pose.transform(pose.inverse(TRUE), local)
        xyz[:there] = pose.transform(pose.inverse(elsewhere), local[:there])
        xyz[there : there + noise] = random.uniform(-9, 9, (noise, 3))
        assert low <= doubt(TRUE, pixels, xyz.astype(np.float32), np.ones(300, np.float32), CAMERA, estimator) <= high


@pytest.mark.parametrize("inliers", [0, 1, 3, 4])
def test_hardly_any_inliers_have_signals_too(inliers):
    result = Judge(min_confidence=0.0)(made(inliers, 50), CAMERA, MAX_ERROR)
    assert np.isfinite(signals_of(made(inliers, 50), CAMERA, MAX_ERROR, None)).all()
    assert inliers > 3 or result.confidence < 0.3  # three fit any pose
    json.dumps(result.to_json("x"), allow_nan=False)


def test_a_supported_pose_is_trusted_and_a_chance_one_refused():
    good, chance = (Judge()(result, CAMERA, MAX_ERROR) for result in (GOOD, BY_CHANCE))
    assert good.success and good.confidence > 0.95 and good.refused_pose is None and good.reason == ""
    assert not chance.success and chance.confidence < 0.25 and chance.cam_from_world is None and chance.center is None
    np.testing.assert_array_equal(chance.refused_pose, TRUE)
    assert chance.reason.startswith("probably not in this place")
    assert f"confidence {chance.confidence:.2f} is below {general_constants().threshold:.2f}" in chance.reason
    value = json.loads(json.dumps(chance.to_json("x"), allow_nan=False))
    assert value["qvec"] is None and value["success"] is False and value["confidence"] == pytest.approx(chance.confidence, abs=1e-4)
    np.testing.assert_allclose(value["refused_pose"]["center"], pose.center(TRUE))


def test_a_pose_that_fits_elsewhere_too_is_doubted():
    doubted = Judge(min_confidence=0.9)(replace(GOOD, doubt=0.9), CAMERA, MAX_ERROR)
    assert doubted.confidence < 0.9 < Judge()(GOOD, CAMERA, MAX_ERROR).confidence
    assert doubted.reason.startswith("the image fits another part of this place") and doubted.refused_pose is not None
    assert Judge()(replace(GOOD, doubt=0.9), CAMERA, MAX_ERROR).success  # look-alikes within the place keep no other place out
    chance = Judge()(replace(BY_CHANCE, doubt=0.9), CAMERA, MAX_ERROR)
    assert chance.reason.startswith("probably not in this place")
    odds = [Judge(min_confidence=0.0)(replace(GOOD, doubt=d), CAMERA, MAX_ERROR).confidence for d in (0.0, 0.3, 0.6, 1.0)]
    assert odds == sorted(odds, reverse=True) and odds[-1] < 0.75 < 0.95 < odds[0]


def test_the_threshold_can_be_chosen():
    assert not Judge(min_confidence=1.0)(GOOD, CAMERA, MAX_ERROR).success
    assert Judge(min_confidence=0.0)(BY_CHANCE, CAMERA, MAX_ERROR).success
    assert Judge(min_confidence=0.0)(replace(GOOD, success=False, cam_from_world=None, cam_from_map=None), CAMERA, MAX_ERROR).trust is None


def test_a_place_that_looks_alike_everywhere_refuses_by_request_only():
    """The place's own calibration lowers what is shown; photos of other places are told by the evidence without it."""
    alike = Calibration(shift=-8.0, images=5)
    shown = Judge(alike)(GOOD, CAMERA, MAX_ERROR)
    assert shown.success and shown.confidence < 0.3
    refused = Judge(alike, 0.3)(GOOD, CAMERA, MAX_ERROR)
    assert not refused.success and f"confidence {shown.confidence:.2f} is below 0.30" in refused.reason
    lenient = Judge(Calibration(shift=12.0, images=5))(BY_CHANCE, CAMERA, MAX_ERROR)
    assert not lenient.success and lenient.confidence > 0.3


@pytest.mark.parametrize(
    "worse",
    [{"inliers": 30}, {"noise": 4.0}, {"spread": 0.1}],
)
def test_whatever_is_worse_is_trusted_less(worse):
    good, bad = (Judge(min_confidence=0.0).weigh(result, CAMERA, MAX_ERROR)[0] for result in (GOOD, made(**worse)))
    assert bad < good


def test_a_calibration_moves_odds_and_widens_covariances():
    plain = Judge(Calibration(images=5), 0.0)(GOOD, CAMERA, MAX_ERROR)
    place = Judge(Calibration(shift=-1.0, t=0.3, r=math.radians(2), images=5), 0.0)(GOOD, CAMERA, MAX_ERROR)
    odds = [math.log(result.confidence / (1 - result.confidence)) for result in (plain, place)]
    assert odds[1] - odds[0] == pytest.approx(-1, abs=1e-6)
    assert place.trust.sigma_t == pytest.approx(math.hypot(plain.trust.sigma_t, WIDER * 0.3 * math.sqrt(3)))
    assert place.trust.sigma_r_deg == pytest.approx(math.hypot(plain.trust.sigma_r_deg, WIDER * 2 * math.sqrt(3)))


def test_a_photo_that_fits_as_well_as_the_validation_images_is_as_certain_as_they_are():
    residual = Judge().weigh(GOOD, CAMERA, MAX_ERROR).residual
    places = [Calibration(images=5, residual=usual) for usual in (None, 0.8 * residual, residual, 2 * residual)]
    unknown, worse, same, better = (Judge(place, 0.0)(GOOD, CAMERA, MAX_ERROR).trust for place in places)
    assert unknown.sigma_t == worse.sigma_t == pytest.approx(WIDER / AS_MAPPED * same.sigma_t) and same.sigma_t == better.sigma_t


def test_a_pose_field_widens_covariances_where_it_is_far_from_its_anchors():
    here = GOOD.cam_from_map
    field = PoseField(here[None], np.zeros((1, 6)), np.zeros(6), (Reach(1.0, 10.0, 1e-4),) * 2, (math.radians(2), 0.3))
    far = replace(field, anchors=pose.compose(motion(np.array([0, 0, 0, 100.0, 0, 0])), here)[None])
    plain, near, away = (Judge(Calibration(images=5), 0.0, field=one)(GOOD, CAMERA, MAX_ERROR).trust for one in (None, field, far))
    assert away.sigma_t == pytest.approx(math.hypot(plain.sigma_t, WIDER * 0.3 * math.sqrt(3)), rel=1e-3)
    assert away.sigma_r_deg == pytest.approx(math.hypot(plain.sigma_r_deg, WIDER * 2 * math.sqrt(3)), rel=1e-3)
    assert near.sigma_t == pytest.approx(math.hypot(plain.sigma_t, WIDER * 0.3 * math.sqrt(6e-4)), rel=1e-3)
    assert away.confidence == plain.confidence


def test_without_a_calibration_covariances_have_the_general_factor():
    residuals = Judge(Calibration(images=5), 0.0)(GOOD, CAMERA, MAX_ERROR).trust
    general = Judge(Calibration(), 0.0)(GOOD, CAMERA, MAX_ERROR).trust
    assert general.sigma_t == pytest.approx(general_constants().factor * residuals.sigma_t)
    assert general.sigma_r_deg == pytest.approx(general_constants().factor * residuals.sigma_r_deg)
    np.testing.assert_allclose([spread_t(general.covariance), spread_r_deg(general.covariance)], [general.sigma_t, general.sigma_r_deg])


def test_the_record_survives_json():
    record = Calibration(0.2, 0.01, 0.001, 12, 0.25, residual=0.1)
    assert Calibration.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert Calibration.from_json({}) == Calibration()


@pytest.mark.parametrize("value", [{"t": -1}, {"shift": math.nan}, {"shift": "x"}, {"colour": 1}, {"shift": None}])
def test_a_damaged_record_is_said(value):
    with pytest.raises(FormatError, match="trust is damaged"):
        Calibration.from_json(value)


def test_constants_for_other_signals_are_refused():
    with pytest.raises(FormatError, match="x.json.*surprise"):
        constants_from_json({"signals": ["weight"]}, "x.json")


def test_shifts_follow_the_images_as_far_as_they_say_something():
    even = np.zeros(40)
    half = np.arange(40) % 2 == 0
    assert most_likely_shift(even, half) == pytest.approx(0, abs=1e-9)
    assert most_likely_shift(even, np.arange(40) % 10 == 0) < -1
    assert most_likely_shift(even, np.ones(40, dtype=bool)) == MAX_SHIFT
    assert 0 < most_likely_shift(np.full(4, 3.0), np.ones(4, dtype=bool)) < 0.15  # four sure images that are right: little news
    assert most_likely_shift(np.zeros(0), np.zeros(0, dtype=bool)) == pytest.approx(0, abs=1e-9)


def test_the_error_that_all_points_share_is_found():
    random = np.random.default_rng(0)
    stated = np.diag([0.001**2] * 3 + [0.01**2] * 3)
    errors = random.normal(0, [math.hypot(0.001, 0.004)] * 3 + [math.hypot(0.01, 0.02)] * 3, (300, 6))
    errors[:20] *= 50  # wrong reference poses
    known = [(error, stated) for error in errors]
    assert shared_error(known, slice(0, 3)) == pytest.approx(0.004, rel=0.15)
    assert shared_error(known, slice(3, 6)) == pytest.approx(0.02, rel=0.15)
    assert shared_error([(0.1 * error, stated) for error in errors], slice(3, 6)) == 0


def test_a_place_is_calibrated_from_its_right_poses():
    random = np.random.default_rng(1)
    stated = np.diag([1e-4**2] * 3 + [1e-3**2] * 3)
    right = [Observation(2.0, random.normal(0, [0.002] * 3 + [0.03] * 3), stated, 0.2) for _ in range(60)]
    wrong = [Observation(2.0, np.array([0, 0, 0, 3.0, 0, 0]), stated) for _ in range(20)]
    missing = [Observation(-math.inf, None, None)] * 5
    record = calibrate(right + wrong + missing, 0.25)
    assert (record.images, record.tolerance_t, record.residual) == (60, 0.25, 0.2)
    assert record.t == pytest.approx(0.03, rel=0.25) and record.r == pytest.approx(0.002, rel=0.25)
    assert -1.2 < record.shift < -0.4  # 75 % right where the general constants expect 88 %
    assert calibrate(right, 0.25).shift > 0
    assert calibrate(right[:2], 0.25).images == 0 and calibrate([], 0.25) == Calibration(tolerance_t=0.25)
