from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from d2s.features.base import LocalFeatures
from d2s.scene.extra_images import ExtraImage
from d2s.scene.label_store import Labels
from processing.pseudo.copies import CopyOptions, copies_of, labels_by_position


def features(keypoints):
    keypoints = np.array(keypoints, np.float32)
    return LocalFeatures(keypoints, np.ones(len(keypoints), np.float32), np.eye(len(keypoints), 8), (100, 100))


@pytest.fixture
def labels():
    """Rows 0 and 1 are labels, row 2 is undecided, row 3 a negative."""
    xyz = np.array([[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]], np.float32)
    weight = np.array([0.5, 0.75, 0, 1], np.float32)
    return Labels(xyz, weight % 1 > 0, np.array([3, 4, 0, 0], np.int32), xyz[:, 0], weight, np.array([1, 3, 0, 0], np.int32))


def test_labels_follow_the_position_whatever_the_order_of_the_keypoints(labels):
    photo = features([[10, 10], [20, 20], [30, 30], [40, 40]])
    copy = features([[41, 40], [20.5, 20], [70, 70], [10, 9], [30, 30], [21, 20]])
    found = labels_by_position(photo, labels, copy, 1.5)
    assert found.valid.tolist() == [False, True, False, True, False, False]  # the last: row 1 is taken by a nearer keypoint
    assert found.xyz[[1, 3]].tobytes() == labels.xyz[[1, 0]].tobytes()
    assert found.weight.tolist() == [1, 0.75, 0, 0.5, 0, 0]
    assert found.votes.tolist() == [0, 3, 0, 1, 0, 0]
    assert found.track_length.tolist() == [0, 4, 0, 3, 0, 0]
    assert not found.xyz[~found.valid].any()


def test_copies_are_darker_and_brighter_and_always_the_same(tmp_path):
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(tmp_path / "x.png")
    dark, bright = copies_of(ExtraImage("x.png", "x.png"), tmp_path, CopyOptions(), 3)
    assert (dark.name, bright.name) == ("x.dark.png", "x.bright.png")
    assert 0.4 <= dark.factor <= 0.8
    assert dark.load()[0, 0, 0] == round(200 * dark.factor)
    assert bright.load()[0, 0, 0] == min(255, round(200 * bright.factor)) > 200
    assert [c.factor for c in copies_of(ExtraImage("x.png", "x.png"), tmp_path, CopyOptions(), 3)] == [dark.factor, bright.factor]
    assert copies_of(ExtraImage("y.png", "y.png"), tmp_path, CopyOptions(), 3)[0].factor != dark.factor
