from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2s.errors import FormatError
from d2s.geometry import pose

ANGLES = st.one_of(
    st.floats(0, np.pi),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, 1e-3, np.pi / 2, np.pi - 1e-3, np.pi - 1e-6, np.pi - 1e-9, np.pi]),
)
COORDINATES = st.floats(-50, 50)
AXES = st.tuples(COORDINATES, COORDINATES, COORDINATES).filter(lambda axis: np.linalg.norm(axis) > 1e-3)


def rotation_about(axis, angle: float) -> np.ndarray:
    """Rodrigues' formula, independent of the quaternions under test."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


@st.composite
def poses(draw) -> np.ndarray:
    rotation = rotation_about(draw(AXES), draw(ANGLES))
    return np.column_stack([rotation, draw(st.tuples(COORDINATES, COORDINATES, COORDINATES))])


@given(poses())
def test_inverse_is_on_both_sides(a):
    np.testing.assert_allclose(pose.compose(a, pose.inverse(a)), pose.IDENTITY, atol=1e-10)
    np.testing.assert_allclose(pose.compose(pose.inverse(a), a), pose.IDENTITY, atol=1e-10)
    np.testing.assert_allclose(pose.inverse(pose.inverse(a)), a, atol=1e-10)


@given(poses(), poses(), poses())
def test_composition_is_associative_and_has_an_identity(a, b, c):
    np.testing.assert_allclose(pose.compose(pose.compose(a, b), c), pose.compose(a, pose.compose(b, c)), atol=1e-9)
    np.testing.assert_array_equal(pose.compose(a, pose.IDENTITY), a)
    np.testing.assert_array_equal(pose.compose(pose.IDENTITY, a), a)
    np.testing.assert_allclose(pose.inverse(pose.compose(a, b)), pose.compose(pose.inverse(b), pose.inverse(a)), atol=1e-9)


@given(poses(), poses())
def test_composition_acts_as_one_transform_after_the_other(a, b):
    points = np.random.default_rng(0).normal(0, 10, (5, 3))
    np.testing.assert_allclose(pose.transform(pose.compose(a, b), points), pose.transform(a, pose.transform(b, points)), atol=1e-9)
    np.testing.assert_allclose(pose.transform(pose.inverse(a), pose.transform(a, points)), points, atol=1e-9)


@given(st.lists(poses(), min_size=1, max_size=4))
def test_stacks_of_poses_are_treated_one_by_one(items):
    stack = np.stack(items)
    np.testing.assert_allclose(pose.inverse(stack), [pose.inverse(a) for a in items])
    np.testing.assert_allclose(pose.compose(stack, stack), [pose.compose(a, a) for a in items])
    np.testing.assert_allclose(pose.center(stack), [pose.center(a) for a in items])
    np.testing.assert_allclose(pose.qvec_from_rotation(stack[..., :3]), [pose.qvec_from_rotation(a[:, :3]) for a in items], atol=1e-12)


@given(poses())
def test_center_is_mapped_to_the_origin(a):
    np.testing.assert_allclose(pose.transform(a, pose.center(a)[None]), np.zeros((1, 3)), atol=1e-9)


@given(poses())
def test_quaternion_round_trip(a):
    qvec, tvec = pose.to_qvec_tvec(a)
    assert np.linalg.norm(qvec) == pytest.approx(1) and qvec[0] >= 0
    np.testing.assert_allclose(pose.from_qvec_tvec(qvec, tvec), a, atol=1e-12)
    np.testing.assert_allclose(pose.from_qvec_tvec(-3 * qvec, tvec), a, atol=1e-12)


@given(AXES, ANGLES)
def test_quaternion_has_the_axis_and_half_the_angle(axis, angle):
    qvec = pose.qvec_from_rotation(rotation_about(axis, angle))
    expected = np.append(np.cos(angle / 2), np.sin(angle / 2) * np.asarray(axis) / np.linalg.norm(axis))
    # At half a turn both signs stand for the same rotation.
    assert min(np.abs(qvec - expected).max(), np.abs(qvec + expected).max() + (angle < np.pi - 1e-6)) < 1e-9


@given(AXES, ANGLES)
def test_rotation_angle(axis, angle):
    assert pose.rotation_angle_deg(rotation_about(axis, angle)) == pytest.approx(np.degrees(angle), abs=1e-6)


@given(poses(), poses())
def test_pose_error_is_symmetric_and_zero_for_equal_poses(a, b):
    assert pose.pose_error(a, b) == pytest.approx(pose.pose_error(b, a), abs=1e-9)
    assert pose.pose_error(a, a) == pytest.approx((0, 0), abs=1e-9)


@given(poses(), poses(), AXES, ANGLES, AXES)
def test_pose_error_is_what_the_camera_was_moved_by_in_any_world(a, world, axis, angle, step):
    moved_center = pose.center(a) + np.asarray(step)
    rotation = rotation_about(axis, angle) @ a[:, :3]
    moved = np.column_stack([rotation, -rotation @ moved_center])
    expected = (np.linalg.norm(step), np.degrees(angle))
    assert pose.pose_error(moved, a) == pytest.approx(expected, abs=1e-6)
    assert pose.pose_error(pose.compose(moved, world), pose.compose(a, world)) == pytest.approx(expected, abs=1e-6)


@given(poses())
def test_matrices_from_files_are_accepted_and_made_exact(a):
    rounded = np.round(pose.homogeneous(a), 4)
    read = pose.from_matrix(rounded)
    np.testing.assert_allclose(read[:, :3] @ read[:, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(read, a, atol=2e-4)


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.full((4, 4), np.nan), np.diag([2.0, 2, 2, 1]), np.diag([1.0, 1, -1, 1]), np.zeros((3, 4)), np.full((4, 4), np.inf)],
)
def test_what_is_not_a_pose_is_refused(matrix):
    with pytest.raises(FormatError, match="pose"):
        pose.from_matrix(matrix)


@pytest.mark.parametrize("qvec", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 1]])
def test_what_is_not_a_quaternion_is_refused(qvec):
    with pytest.raises(FormatError, match="quaternion"):
        pose.from_qvec_tvec(qvec, [0, 0, 0])


def test_identity_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="read-only"):
        pose.IDENTITY[0, 0] = 2
