"""What the user gave, told by its content; what is none of it is refused in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from d2s.errors import InputError
from processing.own_photos.kinds import find_kind


def photos(folder: Path, count: int, suffix: str = "jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (8, 6)).save(folder / f"{index}.{suffix}")
    return folder


def test_photos(tmp_path):
    given = find_kind(photos(tmp_path, 6))
    assert (given.kind, given.path, given.poses_known) == ("photos", tmp_path, False)


def test_known_poses_win_over_photos(tmp_path):
    photos(tmp_path / "images", 6)
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "images.txt").touch()
    assert find_kind(tmp_path).kind == "colmap" and find_kind(tmp_path).poses_known
    (tmp_path / "transforms.json").write_text("{}")
    assert find_kind(tmp_path).kind == "nerfstudio"
    assert find_kind(tmp_path / "transforms.json").path == tmp_path
    assert find_kind(tmp_path, "photos").kind == "photos" and find_kind(tmp_path, "colmap").kind == "colmap"


def test_videos(tmp_path):
    (tmp_path / "walk.MOV").touch()
    assert find_kind(tmp_path / "walk.MOV").kind == "video"
    assert find_kind(tmp_path).path == tmp_path / "walk.MOV"  # the only one in its folder
    (tmp_path / "unnamed").touch()
    assert find_kind(tmp_path / "unnamed", "video").kind == "video"
    (tmp_path / "other.mp4").touch()
    with pytest.raises(InputError, match=r"must hold one video, but holds: other.mp4, walk.MOV"):
        find_kind(tmp_path)
    (tmp_path / "other.mp4").unlink()
    assert find_kind(photos(tmp_path, 2)).kind == "video"  # with its preview pictures
    assert find_kind(photos(tmp_path, 5)).kind == "photos"  # a clip among photos


def test_a_video_that_is_named_like_a_photo(tmp_path):
    (tmp_path / "walk.jpg").write_bytes(b"\x00\x00\x00\x1cftypisom no photo")
    with pytest.raises(InputError, match=r"walk.jpg is named like a photo, but is none. .*--kind video"):
        find_kind(tmp_path / "walk.jpg")
    assert find_kind(tmp_path / "walk.jpg", "video").kind == "video"


def test_bad_input_is_one_clear_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    for path, problem in [
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / "empty", "is empty"),
        (tmp_path / "texts", "holds no photos"),
        (photos(tmp_path / "one", 1), "holds only one photo; a map needs at least 5"),
        (photos(tmp_path / "few", 4), "holds only 4 photos"),
        (tmp_path / "one" / "0.jpg", "is one photo"),
        (tmp_path / "notes.txt", "neither a folder nor named like a video"),
    ]:
        with pytest.raises(InputError, match=problem) as error:
            find_kind(path)
        assert error.value.remedy and str(path) in error.value.problem
    with pytest.raises(InputError, match="--kind colmap is a folder"):
        find_kind(tmp_path / "notes.txt", "colmap")


def test_heic_photos_have_a_remedy(tmp_path):
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(InputError, match="HEIC photos, which are not read.*Convert"):
        find_kind(tmp_path)
