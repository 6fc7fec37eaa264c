from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.alignment import Similarity, robust_similarity, similarity_from_points
from d2s.geometry.camera import make_camera, project

SEEDS = st.integers(0, 2**32 - 1)


def random_similarity(random: np.random.Generator) -> tuple[float, np.ndarray, np.ndarray]:
    return float(np.exp(random.uniform(-3, 3))), pose.rotation_from_qvec(random.normal(size=4)), random.normal(0, 5, 3)


@given(SEEDS, st.integers(3, 30), st.booleans())
def test_recovers_the_similarity(seed, count, flat):
    random = np.random.default_rng(seed)
    scale, rotation, translation = random_similarity(random)
    source = random.normal(0, 2, (count, 3)) * (1, 1, 0 if flat else 1)
    found = similarity_from_points(source, scale * source @ rotation.T + translation)
    assert found.scale == pytest.approx(scale, rel=1e-8)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, translation, atol=1e-6 * max(scale, 1))


@given(SEEDS)
def test_is_the_least_squares_solution(seed):
    random = np.random.default_rng(seed)
    scale, rotation, translation = random_similarity(random)
    source = random.normal(0, 2, (12, 3))
    target = scale * source @ rotation.T + translation + scale * random.normal(0, 0.1, (12, 3))
    found = similarity_from_points(source, target)
    best = ((found.apply_points(source) - target) ** 2).sum()
    assert best <= ((scale * source @ rotation.T + translation - target) ** 2).sum() + 1e-12
    nudge = pose.rotation_from_qvec(np.append(1.0, random.normal(0, 1e-3, 3)))
    assert best <= ((found.scale * source @ (found.rotation @ nudge).T + found.translation - target) ** 2).sum() + 1e-12


def test_never_returns_a_reflection():
    source = np.random.default_rng(0).normal(size=(10, 3))
    assert np.linalg.det(similarity_from_points(source, source * (1, 1, -1)).rotation) == pytest.approx(1)


@given(SEEDS)
def test_moved_poses_see_moved_points_in_the_same_pixels(seed):
    random = np.random.default_rng(seed)
    scale, rotation, translation = random_similarity(random)
    source = random.normal(0, 2, (8, 3))
    similarity = similarity_from_points(source, scale * source @ rotation.T + translation)
    cam_from_world = pose.from_qvec_tvec(random.normal(size=4), [0.0, 0.0, 12.0])
    camera = make_camera("PINHOLE", 640, 480, [500, 500, 320, 240])
    before, _ = project(camera, pose.transform(cam_from_world, source))
    moved = similarity.apply_pose(cam_from_world)
    after, _ = project(camera, pose.transform(moved, similarity.apply_points(source)))
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(pose.center(moved), similarity.apply_points(pose.center(cam_from_world)[None])[0], atol=1e-6)
    np.testing.assert_allclose(similarity.inverse().apply_pose(moved), cam_from_world, atol=1e-6)
    np.testing.assert_allclose(similarity.apply_pose(cam_from_world[None])[0], moved)


def test_refuses_what_does_not_determine_it():
    line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="one line"):
        similarity_from_points(line, line)
    with pytest.raises(InputError, match="one line"):
        similarity_from_points(np.ones((4, 3)), np.ones((4, 3)))
    with pytest.raises(InputError, match="three pairs"):
        similarity_from_points(line[:2], line[:2])


def test_robust_similarity_ignores_wrong_pairs():
    rng = np.random.default_rng(5)
    source = rng.normal(size=(30, 3))
    truth = Similarity(2.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    target = truth.apply_points(source) + rng.normal(0, 0.01, (30, 3))
    target[:11] += rng.normal(0, 20, (11, 3))
    found, inliers = robust_similarity(source, target)
    assert not inliers[:11].any() and inliers[11:].sum() >= 17
    assert found.scale == pytest.approx(2.5, rel=0.01)
    np.testing.assert_allclose(found.apply_points(source[11:]), truth.apply_points(source[11:]), atol=0.05)
    plain = similarity_from_points(source, target)
    assert abs(plain.scale - 2.5) > 0.1  # otherwise the pairs were not wrong enough to tell
