"""Which photos are held out."""

from __future__ import annotations

import pytest
from PIL import ExifTags, Image

from processing.own_photos.held_out import capture_order, group_sizes, held_out


def photo(path, time: str = "", fraction: str = ""):
    exif = Image.Exif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    if time:
        tags[ExifTags.Base.DateTimeOriginal] = time
    if fraction:
        tags[ExifTags.Base.SubsecTimeOriginal] = fraction
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 6)).save(path, exif=exif)


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["IMG_10.jpg", "IMG_9.jpg", "a/2.jpg", "a/11.jpg", "IMG_100.jpg"]
    for name in names:
        photo(tmp_path / name)
    assert capture_order(tmp_path, names) == ["IMG_9.jpg", "IMG_10.jpg", "IMG_100.jpg", "a/2.jpg", "a/11.jpg"]


def test_the_time_of_taking_counts_more_than_names(tmp_path):
    photo(tmp_path / "b.jpg", "2026:05:01 10:00:00", "250")
    photo(tmp_path / "c.jpg", "2026:05:01 10:00:00", "1")
    photo(tmp_path / "a.jpg", "2026:05:01 10:00:01")
    assert capture_order(tmp_path, ["a.jpg", "b.jpg", "c.jpg"]) == ["c.jpg", "b.jpg", "a.jpg"]


def test_a_photo_without_time_sends_its_folder_back_to_names(tmp_path):
    photo(tmp_path / "x" / "b.jpg", "2026:05:01 10:00:00")
    photo(tmp_path / "x" / "a.jpg")
    photo(tmp_path / "y" / "b.jpg", "2026:05:01 09:00:00")
    photo(tmp_path / "y" / "a.jpg", "2026:05:01 10:00:00")
    assert capture_order(tmp_path, ["x/a.jpg", "x/b.jpg", "y/a.jpg", "y/b.jpg"]) == ["x/a.jpg", "x/b.jpg", "y/b.jpg", "y/a.jpg"]


@pytest.mark.parametrize("count", [20, 30, 57, 100, 130, 900])
def test_held_out_photos_are_spread_and_some_lose_a_neighbour_too(count):
    names = [f"{i:04d}" for i in range(count)]
    chosen = [names.index(name) for name in held_out(names)]
    assert 3 <= len(chosen) <= 25 and len(set(chosen)) == len(chosen) and chosen == sorted(chosen)
    assert 0.02 * count <= len(chosen) <= 0.16 * count
    assert chosen[0] > 0 and chosen[-1] < count - 1
    starts = [row for row in chosen if row - 1 not in chosen]
    gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert len(starts) < len(chosen)  # pairs among them
    assert all(sum(row + k in chosen for k in range(3)) <= 2 for row in chosen)  # never three in a row
    assert not gaps or max(gaps) <= 2 * min(gaps)


def test_of_few_photos_few_are_held_out_and_no_pair():
    for count in range(5, 20):
        chosen = [int(name) for name in held_out([str(i) for i in range(count)])]
        assert 1 <= len(chosen) <= 2 and 0 not in chosen and count - 1 not in chosen
        assert all(b - a > 1 for a, b in zip(chosen, chosen[1:], strict=False))


def test_none_where_none_is_wanted():
    assert held_out([str(i) for i in range(50)], 0.0) == [] and held_out([str(i) for i in range(8)], 0.0) == []


def test_groups_of_one_and_two():
    assert group_sizes(7) == [1, 2, 1, 2, 1] and group_sizes(5) == [1, 2, 1, 1] and group_sizes(0) == []
