"""Which files names, folders and patterns stand for, and what an unreadable one does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.stream.image_files import ImageFiles, find_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.png", "a.JPG", "sub/c.png", "sub/.hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes())
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["."], ["a.JPG", "b.png", "sub/c.png"]),
        (["*"], ["a.JPG", "b.png"]),
        (["*.png", "b.png", "a.JPG"], ["b.png", "a.JPG"]),
        (["**/*.png"], ["b.png", "sub/c.png"]),
        (["sub"], ["sub/c.png"]),
        (["notes.txt"], ["notes.txt"]),
    ],
    ids=["folder", "pattern", "each once", "below", "sub-folder", "a named file is taken as it is"],
)
def test_names_folders_and_patterns(folder, given, expected):
    assert [str(path) for path in find_images(given)] == expected


def test_a_name_with_brackets_is_a_name(folder):
    (folder / "room[1].png").write_bytes((folder / "b.png").read_bytes())
    assert [path.name for path in find_images(["room[1].png"])] == ["room[1].png"]


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [("missing.png", MissingFileError, "missing.png"), ("*.webp", InputError, "matches no image"), ("empty", InputError, "no images")],
)
def test_nothing_found_is_an_error(folder, given, error, word):
    (folder / "empty").mkdir()
    with pytest.raises(error, match=word):
        find_images([given])


def test_one_unreadable_file_of_several_is_a_frame_with_a_problem(folder):
    frames = list(ImageFiles(find_images(["b.png", "notes.txt", "a.JPG"])))
    assert [frame.pixels is None for frame in frames] == [False, True, False]
    assert "notes.txt" in frames[1].problem and frames[0].pixels.shape == (4, 5, 3)
    with pytest.raises(FormatError, match="notes.txt"):
        list(ImageFiles(find_images(["notes.txt"])))
