"""Searching near a pose prior, on storeys that look alike."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera
from d2s.geometry.pose_field import motion
from d2s.localization.base import PoseEstimate
from d2s.localization.prior import as_prior, estimate_near, match_near, wide_radius
from d2s.localization.table import make_estimator

UP = np.array([0.0, 20.0, 0.0])


def moved(cam_from_world: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The camera somewhere else, looking the same way."""
    return np.column_stack([cam_from_world[:, :3], cam_from_world[:, 3] - cam_from_world[:, :3] @ shift])


def rough(cam_from_world: np.ndarray, turn: float = 0.08, way: float = 0.3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    axis, shift = random.standard_normal((2, 3))
    return pose.compose(motion(np.concatenate([turn * axis / np.linalg.norm(axis), way * shift / np.linalg.norm(shift)])), cam_from_world)


def test_a_right_prior_finds_the_storey_that_the_search_confuses(hall):
    hall.misled = {5}
    localizer, features = hall.localizer(), hall.features(5)
    alone = localizer.localize_features(features, hall.camera)
    assert alone.success and hall.error(alone, 5) > 10, "the test needs a search that is misled"
    helped = localizer.localize_features(features, hall.camera, prior=rough(hall.cam_from_world(5)))
    assert hall.error(helped, 5) < 0.05 and helped.from_prior
    assert helped.num_inliers > alone.num_inliers


def test_a_prior_helps_where_the_search_finds_nothing(hall):
    hall.blind = {5}
    prior = rough(hall.cam_from_world(5))
    helped = hall.localizer().localize_features(hall.features(5), hall.camera, prior=prior)
    assert hall.error(helped, 5) < 0.05


def test_a_wrong_prior_does_not_win_against_a_better_supported_pose(hall):
    features = hall.features(5)
    wrong = moved(hall.cam_from_world(5), UP)
    result = hall.localizer().localize_features(features, hall.camera, prior=wrong)
    if result.rival is None:
        assert hall.error(result, 5) < 0.05
    else:  # both storeys fit: the prior may decide, but nobody is told that it is sure
        assert result.confidence <= 0.5


@pytest.mark.parametrize("away", [[0, np.pi, 0, 0, 0, 0.0], [0, np.pi, 0, 0, 0, -50.0], [0, 0, 0, 500.0, 0, 0]])
def test_a_prior_in_another_place_changes_nothing(hall, away):
    far = pose.compose(motion(np.array(away)), hall.cam_from_world(5))
    plain = hall.localizer().localize_features(hall.features(5), hall.camera)
    result = hall.localizer().localize_features(hall.features(5), hall.camera, prior=far)
    np.testing.assert_array_equal(result.cam_from_world, plain.cam_from_world)
    assert not result.from_prior and result.rival is None


def test_an_image_of_another_place_fails_with_a_prior_too(hall):
    features = hall.features(5)
    random = np.random.default_rng(3)
    shuffled = type(features)(features.keypoints, features.scores, random.permutation(features.descriptors), features.image_size)
    for prior in (None, hall.cam_from_world(5)):
        result = hall.localizer().localize_features(shuffled, hall.camera, prior=prior)
        assert not result.success and result.cam_from_world is None and result.reason


def test_the_pose_is_not_pulled_towards_the_prior(hall):
    features = hall.features(5)
    results = [
        hall.localizer().localize_features(features, hall.camera, prior=rough(hall.cam_from_world(5), seed=seed)) for seed in range(3)
    ]
    for result in results[1:]:
        assert pose.pose_error(result.cam_from_world, results[0].cam_from_world)[0] < 1e-3


def test_matches_keep_within_the_radius(hall):
    camera, features = parse_camera(hall.camera), hall.features(5)
    everything = match_near(hall.cam_from_world(5), features, hall.landmark_map(), camera, None)
    close = match_near(hall.cam_from_world(5), features, hall.landmark_map(), camera, 2.0)
    off = match_near(rough(hall.cam_from_world(5), 0.2), features, hall.landmark_map(), camera, 2.0)
    assert len(everything.rows) >= len(close.rows) > 0.9 * len(features) > len(off.rows)
    assert (np.diff(close.rows) > 0).all() and close.xyz.shape == (len(close.rows), 3)


def test_matches_near_the_prior_need_more_than_chance(hall):
    """Twenty matches within 8 px of a prior lie within 6 px of it more often than not, whatever they show."""
    camera, features = parse_camera(hall.camera), hall.features(5)
    matches = match_near(hall.cam_from_world(5), features, hall.landmark_map(), camera, 8.0)

    class Generous:
        max_error = 6.0

        def estimate(self, pixels, xyz, camera):
            inliers = np.arange(len(pixels)) < 0.6 * len(pixels)  # what chance alone would give
            return PoseEstimate(True, hall.cam_from_world(5), inliers)

    by_chance = estimate_near(matches, features, camera, Generous(), 8.0)
    assert not by_chance.success and "chance" in by_chance.reason and not by_chance.inliers.any()
    assert estimate_near(matches, features, camera, make_estimator("poselib", 6.0), wide_radius(camera)).success


def test_ways_to_write_a_prior(hall):
    given = hall.cam_from_world(7)
    for value in (given, pose.homogeneous(given), np.concatenate(pose.to_qvec_tvec(given))):
        np.testing.assert_allclose(as_prior(value), given, atol=1e-12)
    for wrong in (np.eye(3), [1, 0, 0, 0, 0, 0], [np.nan, 0, 0, 0, 0, 0, 0], 2 * np.eye(4)):
        with pytest.raises(InputError):
            as_prior(wrong)


def test_a_model_without_landmarks_says_so(hall, monkeypatch):
    monkeypatch.setattr(hall, "landmark_map", lambda: None)
    with pytest.raises(InputError, match="no landmarks.*model 3"):
        hall.localizer().localize_features(hall.features(5), hall.camera, prior=hall.cam_from_world(5))
