"""Frames one after the other: faster, as exact, and never sure without a reason."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.localization.sequence import CONFIRMED, LONGEST_GAP, PATIENCE, SequenceLocalizer

FRAMES = range(16)


def walk(hall, frames=FRAMES, seconds=0.1, **options):
    sequence = SequenceLocalizer(hall.localizer(), **options)
    return [sequence.localize(hall.image(i), hall.camera, seconds * i) for i in frames]


def test_most_frames_need_no_search_of_the_whole_map(hall):
    results = walk(hall)
    assert all(hall.error(result, i) < 0.05 for i, result in enumerate(results))
    alone = [result.from_prior and result.ms["regressor"] == 0 for result in results]
    assert not any(alone[:CONFIRMED]) and sum(alone) > 0.6 * len(alone)
    assert hall.searches == len(results) - sum(alone)
    assert set(results[-1].ms) == {"features", "regressor", "pnp", "total"}


def test_poses_are_those_of_single_images(hall):
    """Not smoothed: each is what its own image says."""
    for i, result in enumerate(walk(hall)):
        single = hall.localizer().localize_features(hall.features(i), hall.camera)
        assert np.abs(result.cam_from_world - single.cam_from_world).max() < 0.02


def test_the_whole_map_is_searched_now_and_then(hall):
    walk(hall, recheck=4)
    assert hall.searches >= len(FRAMES) / 4
    hall.searches = 0
    walk(hall, recheck=1)
    assert hall.searches == len(FRAMES)


def test_one_misled_search_does_not_take_the_track_away(hall):
    hall.misled = {CONFIRMED + 1, 12}
    results = walk(hall, recheck=1)
    assert all(hall.error(result, i) < 0.05 for i, result in enumerate(results))


def test_a_track_on_the_wrong_storey_is_left_again(hall):
    hall.misled = {0}
    results = walk(hall)
    assert hall.error(results[0], 0) > 10
    wrong = [i for i, result in enumerate(results) if hall.error(result, i) > 1]
    assert all(results[i].confidence <= 0.5 for i in wrong[1:]), "while both storeys fit, nobody is told that one is sure"
    assert all(result.ms["regressor"] > 0 for result in results[: len(wrong) + 1]), "and the whole map is searched in every frame"


def test_a_frame_without_a_pose_is_a_failure_and_the_track_goes_on(hall):
    hall.empty = {10, 11}
    results = walk(hall)
    assert [i for i, result in enumerate(results) if not result.success] == [10, 11]
    assert results[10].cam_from_world is None and results[10].reason
    assert hall.error(results[12], 12) < 0.05


def test_a_track_is_forgotten_after_a_while(hall):
    hall.empty = set(range(8, 8 + PATIENCE))
    sequence = SequenceLocalizer(hall.localizer())
    for i in range(8 + PATIENCE):
        sequence.localize(hall.image(i), hall.camera, 0.1 * i)
    assert sequence._track is None
    assert hall.error(sequence.localize(hall.image(20), hall.camera, 2.0), 20) < 0.05


def test_a_cut_in_the_video_is_no_problem(hall):
    frames = [*range(6), 22, 21, 3]
    results = walk(hall, frames)
    assert all(hall.error(result, i) < 0.05 for i, result in zip(frames, results, strict=True))


def test_velocity_brings_the_prediction_to_the_next_frame(hall):
    sequence = SequenceLocalizer(hall.localizer())
    for i in range(6):
        sequence.localize(hall.image(i), hall.camera, 0.1 * i)
    np.testing.assert_allclose(sequence._track.predict(0.6), hall.cam_from_world(6), atol=0.02)
    np.testing.assert_allclose(sequence._track.predict(0.8), hall.cam_from_world(8), atol=0.1)
    np.testing.assert_array_equal(sequence._track.predict(0.5 + 2 * LONGEST_GAP), sequence._track.cam_from_map)
    sequence.reset()
    assert sequence._track is None


@pytest.mark.parametrize("stamps", [[0, 0, 0, 0, 0, 0], [5, 4, 3, 2, 1, 0], [0, 100, 200, 300, 400, 500]])
def test_strange_timestamps_cost_speed_only(hall, stamps):
    sequence = SequenceLocalizer(hall.localizer())
    results = [sequence.localize(hall.image(i), hall.camera, float(when)) for i, when in enumerate(stamps)]
    assert all(hall.error(result, i) < 0.05 for i, result in enumerate(results))


def test_a_prior_starts_a_sequence(hall):
    hall.misled = {0}
    sequence = SequenceLocalizer(hall.localizer())
    assert hall.error(sequence.localize(hall.image(0), hall.camera, 0.0, hall.cam_from_world(0)), 0) < 0.05


def test_what_cannot_work_is_said_at_once(hall, monkeypatch):
    with pytest.raises(InputError, match="at least 1"):
        SequenceLocalizer(hall.localizer(), recheck=0)
    monkeypatch.setattr(hall, "landmark_map", lambda: None)
    with pytest.raises(InputError, match="no landmarks"):
        SequenceLocalizer(hall.localizer())
