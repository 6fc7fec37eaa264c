"""The field from refined poses to given ones, on paths whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.pose_field import BLOCKS, KERNELS, PoseField, Reach, fit_pose_field, motion, small_motion


def path(count: int, seed: int = 0) -> np.ndarray:
    """Poses along a smooth path through a room of a few metres, looking around."""
    t = np.linspace(0, 4 * np.pi, count)
    centers = np.stack([2 * np.sin(t), np.cos(2 * t), 0.3 * np.sin(3 * t)], axis=1)
    rotations = [motion(np.array([0.2 * np.sin(a), 0.8 * np.sin(a / 2), 0.1 * np.cos(a), 0, 0, 0]))[:, :3] for a in t]
    return np.stack([np.concatenate([r, -r @ c[:, None]], axis=1) for r, c in zip(rotations, centers, strict=True)])


def drifted(poses: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """The same poses off by a constant of the sensor and by drift that grows across the room."""
    rng = np.random.default_rng(1)
    moved = []
    for p in poses:
        x = pose.center(p)
        offset = np.concatenate([[0.01, -0.02, 0.005], [0.05 + 0.02 * x[0], 0.02 * x[1], -0.03]])
        moved.append(pose.compose(motion(offset + noise * rng.standard_normal(6)), p))
    return np.stack(moved)


def errors(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([pose.pose_error(x, y) for x, y in zip(a, b, strict=True)])


def test_motion_and_vector_are_inverse() -> None:
    vector = np.array([0.1, -0.2, 0.3, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(small_motion(motion(vector)), vector, atol=1e-12)


def test_a_held_out_stretch_is_brought_back() -> None:
    refined = path(240)
    given = drifted(refined)
    held = np.zeros(240, dtype=bool)
    held[100:120] = True
    field = fit_pose_field(refined[~held], given[~held])
    assert isinstance(field, PoseField)
    corrected = np.stack([field.correct(p) for p in refined[held]])
    before, after = errors(refined[held], given[held]), errors(corrected, given[held])
    assert np.median(before[:, 0]) > 0.04
    assert np.median(after[:, 0]) < 0.1 * np.median(before[:, 0])
    assert np.median(after[:, 1]) < 0.1 * np.median(before[:, 1])


def test_among_images_it_is_as_sure_as_the_given_poses_are() -> None:
    refined = path(240)
    sure, unsure = (fit_pose_field(refined, drifted(refined, noise)) for noise in (0.0, 0.01))
    assert sure is not None and unsure is not None
    assert max(np.max([sure.deviations(p) for p in refined], axis=0)) < 0.004
    among = np.median([unsure.deviations(p) for p in refined], axis=0)
    assert ((among > 0.008) & (among < 0.015)).all()  # the noise of the given poses, and a little of its own


def test_it_is_less_sure_the_farther_it_is_from_all_images() -> None:
    refined = path(240)
    field = fit_pose_field(refined, drifted(refined, 1e-3))
    assert field is not None
    away = [np.concatenate([refined[0][:, :3], refined[0][:, 3:] + [[0], [0], [d]]], axis=1) for d in (0.0, 1.0, 3.0, 10.0, 1000.0)]
    turned, moved = np.array([field.deviations(p) for p in away]).T
    assert (np.diff(moved)[:-1] > 0).all() and (np.diff(turned)[:-1] > 0).all()
    assert moved[-1] == pytest.approx(field.spread[1] * np.sqrt(1 + field.reach[1].noise)) and moved[-1] > 5 * moved[0]


def test_its_deviations_explain_the_errors_on_stretches_that_it_has_not_seen() -> None:
    refined = path(480)
    rng = np.random.default_rng(3)
    along = np.linspace(0, 40, 480)
    drift = 0.02 * np.stack([np.sin(along + phase) for phase in rng.uniform(0, 6, 6)], axis=1)
    given = np.stack([pose.compose(motion(d), p) for d, p in zip(drift, refined, strict=True)])
    squared = []
    for held in np.array_split(np.arange(480), 8)[::2]:
        rest = np.setdiff1d(np.arange(480), held)
        field = fit_pose_field(refined[rest], given[rest])
        if field is not None:
            for i in held:
                left = small_motion(pose.compose(given[i], pose.inverse(field.correct(refined[i]))))[3:]
                squared.append(float(left @ left) / field.deviations(refined[i])[1] ** 2)
    assert len(squared) > 100
    assert 0.5 < np.sqrt(np.median(squared) / 2.366) < 2


def test_far_from_all_images_the_mean_motion_remains() -> None:
    refined = path(120)
    field = fit_pose_field(refined, drifted(refined))
    assert field is not None
    far = np.concatenate([np.eye(3), [[500.0], [0], [0]]], axis=1)
    np.testing.assert_allclose(field.correct(far), pose.compose(motion(field.mean), far), rtol=1e-6, atol=1e-9)  # the kernel's tail is long


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_anchor_loses_its_say_with_distance_and_with_angle(kernel: str) -> None:
    reach = Reach(2.0, 40.0, kernel=kernel)
    away = np.linspace(0, 10, 30)
    by_distance, by_angle = reach.likeness(away, 0 * away), reach.likeness(0 * away, 20 * away)
    np.testing.assert_allclose(by_distance, by_angle)
    assert by_distance[0] == 1 and (np.diff(by_distance) < 0).all()
    assert (reach.likeness(away, 20 * away)[1:] < by_distance[1:]).all()


def test_rotation_and_translation_have_a_reach_of_their_own() -> None:
    away = np.concatenate([np.eye(3), [[3.0], [0], [0]]], axis=1)
    field = PoseField(np.eye(3, 4)[None], np.full((1, 6), 0.1), np.zeros(6), (Reach(1.0, 40.0), Reach(1e6, 40.0)), (1.0, 1.0))
    moved = small_motion(pose.compose(field.correct(away), pose.inverse(away)))
    np.testing.assert_allclose(moved, np.repeat([0.1 * np.exp(-4.5), 0.1], 3), rtol=1e-6)
    turned, shifted = field.deviations(away)
    assert turned == pytest.approx(np.sqrt(2 - np.exp(-9) / 2)) and shifted == pytest.approx(np.sqrt(1.5))


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_no_field_where_the_poses_differ_by_noise_only(noise: float) -> None:
    refined = path(240)
    rng = np.random.default_rng(2)
    given = np.stack([pose.compose(motion(noise * rng.standard_normal(6)), p) for p in refined])
    assert fit_pose_field(refined, given) is None


def test_too_few_images_give_no_field() -> None:
    refined = path(2 * max(BLOCKS) - 1)
    assert fit_pose_field(refined, drifted(refined)) is None


def test_a_long_path_is_thinned() -> None:
    refined = path(1500)
    field = fit_pose_field(refined, drifted(refined, noise=1e-3))
    assert field is not None
    assert len(field.anchors) == 600
