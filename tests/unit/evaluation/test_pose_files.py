"""results.txt and predictions.jsonl."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import FormatError, MissingFileError
from d2s.evaluation.pose_files import read_predictions, read_results, write_predictions, write_results
from d2s.geometry import pose


def test_round_trip_with_spaces_in_names(tmp_path):
    random = np.random.default_rng(0)
    poses = {f"seq 1/frame {i}.png": pose.from_qvec_tvec(random.normal(size=4), random.normal(size=3)) for i in range(20)}
    write_results(tmp_path / "results.txt", poses)
    again = read_results(tmp_path / "results.txt")
    assert list(again) == list(poses)
    for name in poses:
        np.testing.assert_allclose(again[name], poses[name], atol=1e-14)


def test_line_is_name_quaternion_translation_world_to_camera(tmp_path):
    half_turn = np.array([[-1.0, 0, 0, 5], [0, 1, 0, 6], [0, 0, -1, 7]])
    write_results(tmp_path / "r.txt", {"a.jpg": half_turn})
    name, *numbers = (tmp_path / "r.txt").read_text().split()
    assert name == "a.jpg"
    np.testing.assert_allclose(np.abs([float(n) for n in numbers]), [0, 0, 1, 0, 5, 6, 7], atol=1e-12)


@pytest.mark.parametrize(
    "line", ["a.jpg 1 0 0 0 1 2", "a.jpg 1 0 0 0 1 2 x", "a.jpg 0 0 0 0 1 2 3", "a.jpg nan 0 0 0 1 2 3", "1 0 0 0 1 2 3"]
)
def test_bad_line_is_named(tmp_path, line):
    path = tmp_path / "results.txt"
    path.write_text("# comment\n\nfine.jpg 1 0 0 0 1 2 3\n" + line + "\n")
    with pytest.raises(FormatError, match="line 4"):
        read_results(path)


def test_second_pose_of_an_image_is_refused(tmp_path):
    (tmp_path / "r.txt").write_text("a 1 0 0 0 1 2 3\na 1 0 0 0 1 2 3\n")
    with pytest.raises(FormatError, match="line 2: a second pose"):
        read_results(tmp_path / "r.txt")


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(MissingFileError):
        read_results(tmp_path / "r.txt")
    assert read_predictions(tmp_path / "p.jsonl") == {}
    write_results(tmp_path / "r.txt", {})
    assert read_results(tmp_path / "r.txt") == {}


def test_predictions_round_trip_and_damage(tmp_path):
    path = tmp_path / "predictions.jsonl"
    lines = [{"image": "a", "kept": 3}, {"image": "b", "reason": "dark"}]
    write_predictions(path, lines)
    assert read_predictions(path) == {"a": lines[0], "b": lines[1]}
    path.write_text(path.read_text()[:-5])
    with pytest.raises(FormatError, match="predictions.jsonl"):
        read_predictions(path)
