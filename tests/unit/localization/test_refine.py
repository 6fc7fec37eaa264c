"""Refinement with the true camera."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project, unproject
from d2s.localization.correspondences import Correspondences
from d2s.localization.refine import _small_motion, pose_jacobian, refine_pose

TRUE = pose.from_qvec_tvec([0.9, 0.2, -0.3, 0.1], [1.0, -2.0, 0.5])
CAMERAS = [
    "PINHOLE 640 480 500 520 320 240",
    "OPENCV 640 480 525 520 310 245 -0.1 0.02 0.001 0.002",
    "SIMPLE_RADIAL_FISHEYE 640 480 250 320 240 0.01",
]


def made_points(camera, noise=0.0, weights=None, count=200):
    random = np.random.default_rng(0)
    pixels = random.uniform([60, 60], [580, 420], (count, 2))
    depth = random.uniform(1, 5, (count, 1))
    points = np.column_stack([unproject(camera, pixels), np.ones(count)]) * depth
    xyz = pose.transform(pose.inverse(TRUE), points)
    return Correspondences.clean(pixels + noise * random.normal(size=(count, 2)), xyz, camera, weights)


def moved(size):
    return pose.compose(_small_motion(size * np.array([1, -1, 0.5, 2, 1, -1.0])), TRUE)


@pytest.mark.parametrize("text", CAMERAS)
def test_derivative_matches_differences(text):
    camera = parse_camera(text)
    points = pose.transform(TRUE, made_points(camera).xyz)
    jacobian = pose_jacobian(camera, points)
    for axis, delta in enumerate(1e-6 * np.eye(6)):
        forward, backward = (project(camera, pose.transform(_small_motion(d), points))[0] for d in (delta, -delta))
        np.testing.assert_allclose(jacobian[:, :, axis], (forward - backward) / 2e-6, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("text", CAMERAS)
def test_exact_points_pull_back_a_moved_pose(text):
    points = made_points(parse_camera(text))
    distance, angle = pose.pose_error(refine_pose(moved(0.004), points, 12.0), TRUE)
    assert distance < 1e-8 and angle < 1e-7


def test_weights_count():
    random = np.random.default_rng(1)
    camera = parse_camera(CAMERAS[0])
    exact = made_points(camera)
    noise = np.where(np.arange(200)[:, None] < 150, 4.0, 0.1) * random.normal(size=(200, 2))
    weights = np.where(np.arange(200) < 150, 0.01, 1.0)
    errors = [
        pose.pose_error(refine_pose(TRUE, Correspondences.clean(exact.pixels + noise, exact.xyz, camera, w), 12.0), TRUE)[0]
        for w in (weights, None)
    ]
    assert errors[0] < 0.5 * errors[1]


def test_a_useless_start_is_given_back():
    points = made_points(parse_camera(CAMERAS[0]))
    start = pose.compose(pose.from_qvec_tvec([0, 1, 0, 0], [0, 0, 0]), TRUE)
    np.testing.assert_array_equal(refine_pose(start, points, 12.0), start)
