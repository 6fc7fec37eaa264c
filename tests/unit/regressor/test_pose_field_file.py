"""The file of a pose field: round trip, files of earlier versions, damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from d2s.errors import FormatError
from d2s.geometry.pose_field import PoseField, Reach
from d2s.regressor.pose_field_file import load_pose_field, save_pose_field

REACH = Reach(1.5, 40.0, 0.1, "sum"), Reach(2.5, 20.0, 0.2, "quadratic")
FIELD = PoseField(np.tile(np.eye(3, 4), (5, 1, 1)), np.full((5, 6), 0.25), np.arange(6.0), REACH, (0.001, 0.02))
AWAY = np.concatenate([np.eye(3), [[3.0], [0], [0]]], axis=1)


def test_round_trip(tmp_path):
    save_pose_field(tmp_path / "field.safetensors", FIELD)
    loaded = load_pose_field(tmp_path / "field.safetensors")
    np.testing.assert_array_equal(loaded.anchors, FIELD.anchors)
    np.testing.assert_array_equal(loaded.weights, FIELD.weights)
    np.testing.assert_array_equal(loaded.mean, FIELD.mean)
    assert (loaded.reach, loaded.spread) == (REACH, (0.001, 0.02))
    np.testing.assert_allclose(loaded.correct(AWAY), FIELD.correct(AWAY))
    assert loaded.deviations(AWAY) == pytest.approx(FIELD.deviations(AWAY))


def test_fields_of_earlier_versions_have_a_gaussian_kernel_and_do_not_say_how_sure_they_are(tmp_path):
    save_pose_field(tmp_path / "new", FIELD)
    tensors = load_file(tmp_path / "new")
    del tensors["spread"], tensors["noise"]
    tensors["reach"] = np.array([1.5, 40.0])
    tensors["uncertain"] = np.ones(2)  # of the whole field; what it said is part of such a model's record of trust
    save_file(tensors, tmp_path / "old")
    old = load_pose_field(tmp_path / "old")
    assert old.deviations(np.eye(3, 4)) == (0.0, 0.0)
    np.testing.assert_allclose(old.correct(AWAY), replace(FIELD, reach=(Reach(1.5, 40.0),) * 2).correct(AWAY))
    del tensors["weights"]
    save_file(tensors, tmp_path / "damaged")
    with pytest.raises(FormatError, match="damaged"):
        load_pose_field(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", np.full(6, np.nan)),
        ("spread", np.array([np.nan, 0.1])),
        ("weights", np.zeros((4, 6), np.float32)),
        ("noise", np.array([0.0, 0.1])),
        ("noise", np.zeros(0)),
        ("reach", np.array([1.5])),
        ("reach", np.array([[1.5, 40.0, -1.0], [1.5, 40.0, 0.0]])),
    ],
)
def test_a_field_that_could_only_mislead_is_refused_when_it_is_loaded(tmp_path, name, value):
    save_pose_field(tmp_path / "good", FIELD)
    save_file({**load_file(tmp_path / "good"), name: value}, tmp_path / "bad")
    with pytest.raises(FormatError, match="damaged"):
        load_pose_field(tmp_path / "bad")
