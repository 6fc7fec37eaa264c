"""Labels of copies: what is repeated, what is a negative, and what nobody can say."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from d2s.scene.label_store import Labels
from processing.augmentation.transfer import SourceView, labels_by_match, labels_by_warp, repeated

CAMERA = make_camera("SIMPLE_RADIAL", 640, 480, [500, 320, 240, -0.05])
CAM_FROM_WORLD = pose.from_qvec_tvec([0.9, 0.1, -0.2, 0.3], [0.4, -0.3, 1.0])
LABELLED, UNLABELLED = 30, 10


def points(count: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rays = np.column_stack([random.uniform(-0.5, 0.5, (count, 2)), np.ones(count)]) * random.uniform(2, 6, (count, 1))
    return pose.transform(pose.inverse(CAM_FROM_WORLD), rays)


def pixels_of(xyz: np.ndarray) -> np.ndarray:
    return project(CAMERA, pose.transform(CAM_FROM_WORLD, xyz))[0]


@pytest.fixture
def source() -> SourceView:
    """30 keypoints with labels on a grid 60 px apart, 10 without, and a point of the map at (600, 440) that no keypoint shows."""
    grid = np.stack(np.meshgrid(np.arange(60.0, 600, 60), np.arange(60.0, 440, 60)), axis=-1).reshape(-1, 2)[: LABELLED + UNLABELLED]
    rays = np.asarray(CAMERA.cam_from_img(np.vstack([grid, [[600.0, 440.0]]]) + 0.5))
    xyz = pose.transform(pose.inverse(CAM_FROM_WORLD), np.column_stack([rays, np.ones(len(rays))]) * 3.0).astype(np.float32)
    count = LABELLED + UNLABELLED
    valid = np.arange(count) < LABELLED
    descriptors = np.eye(count, 64, dtype=np.float32)
    features = LocalFeatures(grid.astype(np.float32), np.ones(count, np.float32), descriptors, (640, 480))
    labels = Labels(
        np.where(valid[:, None], xyz[:count], 0).astype(np.float32), valid, np.full(count, 5, np.int32), np.full(count, 0.4, np.float32)
    )
    return SourceView(features, labels, CAMERA, CAM_FROM_WORLD, np.vstack([xyz[:LABELLED], xyz[-1:]]).astype(np.float64))


def by_warp(source, origin, tolerance=1.5, max_error=4.0, clear=4.0):
    return labels_by_warp(source, np.asarray(origin, dtype=np.float64), tolerance, max_error, clear)


def test_repeated_keypoints_get_the_labels_to_the_last_bit(source):
    order = np.random.default_rng(0).permutation(LABELLED + UNLABELLED)
    origin = source.features.keypoints[order] + np.random.default_rng(1).uniform(-0.9, 0.9, (len(order), 2))
    labels = by_warp(source, origin)
    assert np.array_equal(labels.valid, source.labels.valid[order])
    assert labels.xyz[labels.valid].tobytes() == source.labels.xyz[order][labels.valid].tobytes()
    assert (labels.track_length[labels.valid] == 5).all() and (labels.weights() == 1).all()
    assert source.errors(labels.xyz[labels.valid], origin[labels.valid]).max() < 1.5


@pytest.mark.parametrize(
    ("where", "valid", "weight"),
    [
        ((60.0, 60.0), True, 1),  # repeats a labelled keypoint
        ((61.0, 60.0), True, 1),
        ((62.0, 60.0), False, 0),  # too far to repeat it, too near to be nothing
        ((90.0, 90.0), False, 1),  # no point of the map is anywhere near
        ((602.0, 440.0), False, 0),  # a point of the map is, though the source image has no keypoint there
    ],
)
def test_rules(source, where, valid, weight):
    labels = by_warp(source, [where])
    assert (bool(labels.valid[0]), labels.weights()[0]) == (valid, weight)


def test_a_repeated_negative_is_a_negative_even_where_points_hide_behind_it(source):
    row = LABELLED + 3
    ray = np.append(np.ravel(CAMERA.cam_from_img(source.features.keypoints[row] + 0.5)), 1.0)
    behind = pose.transform(pose.inverse(CAM_FROM_WORLD), [5.0 * ray])
    hidden = SourceView(source.features, source.labels, CAMERA, CAM_FROM_WORLD, np.vstack([source.points, behind]))
    assert hidden.near_point(source.features.keypoints[row : row + 1], 1.0).all()
    labels = by_warp(hidden, source.features.keypoints[row : row + 1])
    assert not labels.valid[0] and labels.weights()[0] == 1


def test_a_label_whose_point_projects_elsewhere_is_not_passed_on(source):
    xyz = source.labels.xyz.copy()
    xyz[0] = source.labels.xyz[1]
    wrong = SourceView(
        source.features,
        Labels(xyz, source.labels.valid, source.labels.track_length, source.labels.error),
        CAMERA,
        CAM_FROM_WORLD,
        source.points,
    )
    labels = by_warp(wrong, source.features.keypoints[:2])
    assert labels.valid.tolist() == [False, True] and labels.weights().tolist() == [0, 1]


def test_no_keypoint_of_the_source_is_repeated_twice_and_the_nearest_wins(source):
    labels = by_warp(source, [[61.0, 60.0], [60.2, 60.0], [60.0, 61.2]])
    assert labels.valid.tolist() == [False, True, False] and labels.weights().tolist() == [0, 1, 0]
    assert repeated(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.6, 0.0], [0.7, 0.0]]), 1.5).tolist() == [0, 1]
    assert (
        repeated(np.zeros((0, 2)), np.zeros((3, 2)), 1.5).tolist() == [-1] * 3
        and len(repeated(np.zeros((3, 2)), np.zeros((0, 2)), 1.5)) == 0
    )


def test_a_copy_without_keypoints_has_no_labels(source):
    assert len(by_warp(source, np.zeros((0, 2)))) == 0


def test_points_behind_the_camera_are_near_nothing(source):
    behind = SourceView(
        source.features, source.labels, CAMERA, CAM_FROM_WORLD, pose.transform(pose.inverse(CAM_FROM_WORLD), [[0.0, 0.0, -3.0]])
    )
    assert not behind.near_point(np.array([[320.0, 240.0]]), 400.0).any()


def test_by_match_everything_else_is_a_negative_as_published(source):
    labels = labels_by_match(source, np.array([[0, 4], [2, LABELLED + 1]], np.int32), 4)
    assert labels.valid.tolist() == [True, False, False, False] and labels.weight is None
    assert labels.xyz[0].tobytes() == source.labels.xyz[4].tobytes()
