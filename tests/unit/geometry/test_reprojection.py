from __future__ import annotations

import numpy as np

from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from d2s.geometry.reprojection import reprojection_errors

CAMERA = make_camera("SIMPLE_RADIAL", 640, 480, [500, 320, 240, -0.05])


def test_errors_are_distances_in_pixels():
    random = np.random.default_rng(0)
    cam_from_world = pose.from_qvec_tvec(random.normal(size=4), [0.1, 0.2, 6.0])
    xyz = random.uniform(-1, 1, (30, 3))
    pixels, _ = project(CAMERA, pose.transform(cam_from_world, xyz))
    np.testing.assert_allclose(reprojection_errors(CAMERA, cam_from_world, xyz, pixels), 0, atol=1e-9)
    np.testing.assert_allclose(reprojection_errors(CAMERA, cam_from_world, xyz, pixels + (3, -4)), 5, atol=1e-9)


def test_points_behind_are_infinitely_far():
    errors = reprojection_errors(CAMERA, pose.IDENTITY, [[0, 0, -1], [0, 0, 0], [0, 0, 1]], np.full((3, 2), 100.0))
    assert np.isinf(errors[:2]).all() and np.isfinite(errors[2])


def test_no_points():
    assert reprojection_errors(CAMERA, pose.IDENTITY, np.zeros((0, 3)), np.zeros((0, 2))).shape == (0,)
