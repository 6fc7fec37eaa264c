"""`d2s d2net match` as a user starts it, and what it draws."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.cli import run_module
from d2s.d2net.image_pair import DOT, HEIGHT, WIDEST, PairMatches, draw_matches, match_pair
from d2s.features.base import LocalFeatures

from .conftest import texture


def features(keypoints: np.ndarray, descriptors: np.ndarray) -> LocalFeatures:
    return LocalFeatures(keypoints.astype(np.float32), np.ones(len(keypoints), np.float32), descriptors.astype(np.float32), (100, 80))


def test_a_homography_tells_right_matches_from_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 80, (30, 2))
    matrix = np.array([[0.9, 0.1, 5], [-0.1, 1.1, 3], [1e-4, 0, 1]])
    moved = cv2.perspectiveTransform(places[None], matrix)[0]
    moved[20:] += rng.choice([-1, 1], (10, 2)) * rng.uniform(15, 60, (10, 2))
    order = rng.permutation(30)
    matches = match_pair(features(places, np.eye(30)), features(moved[order], np.eye(30)[order]))
    np.testing.assert_allclose(matches.first, places, atol=1e-4)
    np.testing.assert_allclose(matches.second, moved, atol=1e-4)
    assert matches.inliers.tolist() == [True] * 20 + [False] * 10


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_matches_have_no_inliers(count: int) -> None:
    few = features(np.arange(2.0 * count).reshape(count, 2), np.eye(5)[:count])
    assert match_pair(few, few).inliers.tolist() == [False] * count


def test_lines_and_dots_are_where_the_matches_are() -> None:
    images = np.zeros((80, 100, 3), np.uint8), np.zeros((160, 100), np.uint8)
    matches = PairMatches(
        np.array([[9.5, 19.5], [49.5, 59.5]], np.float32), np.array([[49.5, 79.5], [24.5, 119.5]], np.float32), np.array([True, False])
    )
    drawn = draw_matches(images, matches).astype(int)
    assert drawn.shape == (HEIGHT, 900 + 450, 3)  # 9 and 4.5 times as large
    dots, lines = (drawn == DOT).all(axis=2), drawn[..., 1] > 2 * drawn[..., 0] + 20  # lines are green, with smooth edges
    rows, columns = np.nonzero(lines)
    assert abs(columns.min() - 90) <= 1 and abs(columns.max() - (900 + 225)) <= 1 and rows.min() >= 178 and rows.max() <= 362
    assert dots[540, 450] and dots[540, 900 + 112] and dots.sum() < 60


def test_a_strip_makes_no_endless_picture() -> None:
    """At full height it would be 144,000 px wide."""
    images = np.zeros((10, 2000, 3), np.uint8), np.zeros((90, 100, 3), np.uint8)
    matches = PairMatches(np.array([[999.5, 4.5]], np.float32), np.array([[49.5, 44.5]], np.float32), np.array([False]))
    drawn = draw_matches(images, matches)
    assert drawn.shape == (HEIGHT, WIDEST + 800, 3)
    rows, columns = np.nonzero((drawn == DOT).all(axis=2))
    assert {7, 360} <= set(rows.tolist()) and {WIDEST // 2, WIDEST + 400} <= set(columns.tolist())


def test_the_command(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = texture(150, 120, 0)
    for name, part in (("a.png", scene[:96, :120]), ("b.png", scene[8:104, 12:132])):
        cv2.imwrite(str(tmp_path / name), part)
    images, common = [str(tmp_path / "a.png"), str(tmp_path / "b.png")], ["--model_file", str(model_file), "--cudaid", "-1"]
    output = tmp_path / "pair.jpg"
    assert run_module("d2net", ["match", *images, "--output", str(output), *common]) == 0
    counts = re.search(r"(\d+) matches, (\d+) inliers", capsys.readouterr().out)
    assert counts and int(counts[1]) >= int(counts[2]) > 15
    assert cv2.imread(str(output)).shape == (HEIGHT, 1800, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "pair.jpg"]
    for more, message in (
        (["--output", str(tmp_path / "pair.gif")], "--output must end in .png or .jpg"),
        (["--max_error", "0"], "--max_error must be positive"),
    ):
        assert run_module("d2net", ["match", *images, *common, *more]) == 2
        assert message in capsys.readouterr().err
    assert run_module("d2net", ["match", images[0], str(tmp_path / "none.png"), *common]) == 2
    assert "none.png does not exist" in capsys.readouterr().err
