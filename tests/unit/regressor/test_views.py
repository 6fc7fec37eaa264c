"""Mapping views: what they saw, which are most alike a query, and their file."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from d2s.errors import FormatError
from d2s.regressor.views import Views, load_views, save_views

SEEN = [[0, 1, 2], [], [2, 3, 4, 5], [5, 6]]


def some_views() -> Views:
    poses = np.stack([np.column_stack([np.eye(3), np.full(3, float(i))]) for i in range(len(SEEN))])
    return Views(poses, np.array([0, 1, 0, 1]), np.cumsum([0, *map(len, SEEN)]), np.array(sum(SEEN, [])))


def test_views_know_what_they_saw() -> None:
    views = some_views()
    assert len(views) == 4 and [views.seen(i).tolist() for i in range(4)] == SEEN


@pytest.mark.parametrize(("shown", "best"), [([0, 1], [0]), ([5, 6], [3, 2]), ([2, 3, 4, 5, 6], [2, 3, 0]), ([], []), ([99], [])])
def test_most_alike(shown: list[int], best: list[int]) -> None:
    """By the landmarks that they share with the query, for their own number; views without any never come."""
    assert some_views().most_alike(np.array(shown, dtype=np.int64), 3) == best


def test_a_view_without_landmarks_takes_none_of_the_next(tmp_path) -> None:
    assert 1 not in some_views().most_alike(np.arange(7), 4)


def test_file(tmp_path) -> None:
    views = some_views()
    save_views(tmp_path / "views.safetensors", views)
    back = load_views(tmp_path / "views.safetensors", cameras=2, landmarks=7)
    np.testing.assert_array_equal(back.cam_from_map, views.cam_from_map)
    assert [back.seen(i).tolist() for i in range(4)] == SEEN and back.camera.tolist() == [0, 1, 0, 1]
    assert load_file(tmp_path / "views.safetensors")["landmark"].dtype == np.uint16


@pytest.mark.parametrize(
    "change",
    [
        {"landmark": np.array([0, 1, 2, 2, 3, 4, 5, 5, 7], np.uint16)},
        {"camera": np.array([0, 1, 2, 1], np.int32)},
        {"start": np.array([0, 3, 3, 7, 8], np.int32)},
        {"start": np.array([0, 5, 3, 7, 9], np.int32)},
        {"cam_from_map": np.full((4, 3, 4), np.nan, np.float32)},
        {"cam_from_map": np.zeros((3, 3, 4), np.float32)},
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, change) -> None:
    path = tmp_path / "views.safetensors"
    save_views(path, some_views())
    save_file({**load_file(path), **change}, path)
    with pytest.raises(FormatError, match="damaged"):
        load_views(path, cameras=2, landmarks=7)
    path.write_bytes(b"nothing")
    with pytest.raises(FormatError, match="damaged"):
        load_views(path, cameras=2, landmarks=7)
