from __future__ import annotations

import logging

import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.base import AdapterOptions
from processing.adapters.lists import ImageList, assign_splits, every_nth, find_entries, match_names, normal_name, read_list


def test_list_file_skips_comments_and_keeps_line_numbers(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeff# queries\na.jpg\n\n  sub\\b c.jpg \n./d.jpg SIMPLE_RADIAL 640 480 500 320 240 0\n", encoding="utf-8")
    listed = read_list(path)
    assert listed.names == ("a.jpg", "sub/b c.jpg", "d.jpg")
    assert listed.where(1) == f"{path}:4"


def test_missing_empty_and_binary_lists_are_input_errors(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere.txt does not exist"):
        read_list(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(FormatError, match="names no image"):
        read_list(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(FormatError, match="not a text file"):
        read_list(tmp_path / "binary.txt")
    with pytest.raises(FormatError, match="not a text file"):
        read_list(tmp_path)


def test_exact_names_win_over_similar_ones():
    known = ["left/0001.jpg", "right/0001.jpg", "left/0001.png"]
    assert match_names(ImageList("l", ("right/0001.jpg", "left/0001.png")), known) == ["right/0001.jpg", "left/0001.png"]


def test_another_extension_is_accepted_for_a_whole_list_and_said(caplog):
    known = ["seq-01/frame-000000.color.jpg", "seq-01/frame-000001.color.jpg"]
    with caplog.at_level(logging.INFO):
        found = match_names(ImageList("l.txt", ("seq-01/frame-000001.color.png",)), known)
    assert found == ["seq-01/frame-000001.color.jpg"]
    assert "l.txt" in caplog.text and "another extension" in caplog.text


def test_extension_is_not_guessed_when_two_files_could_be_meant():
    with pytest.raises(InputError, match="unknown images: a.png"):
        match_names(ImageList("l", ("a.png",)), ["a.jpg", "a.tif"])


def test_two_entries_never_share_an_image():
    with pytest.raises(InputError, match="unknown images"):
        match_names(ImageList("l", ("left/a.jpg", "right/a.jpg")), ["a.jpg", "b.jpg"])


def test_repeated_entries_are_harmless():
    assert match_names(ImageList("l", ("a.png", "a.png")), ["a.jpg"]) == ["a.jpg", "a.jpg"]


def test_shared_base_names_are_never_matched_without_the_folder():
    with pytest.raises(InputError, match=r"0001.jpg \(l:7\)"):
        match_names(ImageList("l", ("0001.jpg",), (7,)), ["left/0001.jpg", "right/0001.jpg"])


def test_unknown_names_are_counted_and_the_first_named_with_their_lines():
    listed = ImageList("l.txt", ("a.jpg", "w.jpg", "x.jpg", "y.jpg", "z.jpg"), (1, 2, 3, 5, 8))
    with pytest.raises(InputError) as error:
        match_names(listed, ["a.jpg", "b.jpg"])
    assert "w.jpg (l.txt:2), x.jpg (l.txt:3), y.jpg (l.txt:5) and 1 more" in str(error.value)


def test_pose_table_may_hold_more_and_less_than_the_images():
    table = ImageList("t", ("s/1.png", "s/2.png", "s/3.png"))
    assert find_entries(table, ["s/2.jpg", "s/4.jpg"]) == {"s/2.jpg": 1}
    assert find_entries(table, ["other/2.jpg"]) == {}


def test_every_nth_begins_with_the_first():
    names = [f"{i:02d}" for i in range(20)]
    assert [name for name, split in every_nth(names).items() if split == "test"] == ["00", "08", "16"]


NAMES = [f"{i:02d}.jpg" for i in range(10)]


def write_list(path, names):
    path.write_text("\n".join(names) + "\n")
    return path


def test_without_lists_every_eighth_is_a_query():
    splits = assign_splits(NAMES, NAMES, AdapterOptions())
    assert sorted(name for name, split in splits.items() if split == "test") == ["00.jpg", "08.jpg"]
    splits = assign_splits(NAMES, NAMES, AdapterOptions(extra={"test_every": 5}))
    assert sorted(name for name, split in splits.items() if split == "test") == ["00.jpg", "05.jpg"]
    with pytest.raises(InputError, match="test_every is 1"):
        assign_splits(NAMES, NAMES, AdapterOptions(extra={"test_every": 1}))


def test_test_list_alone_leaves_the_rest_for_mapping(tmp_path):
    options = AdapterOptions(list_test=write_list(tmp_path / "test.txt", NAMES[3:5]))
    splits = assign_splits(NAMES, NAMES, options)
    assert {name for name, split in splits.items() if split == "test"} == set(NAMES[3:5])
    assert len(splits) == len(NAMES)


def test_train_list_alone_leaves_the_rest_as_queries(tmp_path):
    options = AdapterOptions(list_train=write_list(tmp_path / "train.txt", NAMES[:7]))
    splits = assign_splits(NAMES, NAMES, options)
    assert {name for name, split in splits.items() if split == "test"} == set(NAMES[7:])


def test_val_list_alone_keeps_the_default_queries_out_of_it(tmp_path):
    options = AdapterOptions(list_val=write_list(tmp_path / "val.txt", NAMES[:2]))
    splits = assign_splits(NAMES, NAMES, options)
    assert [splits[name] for name in NAMES[:3]] == ["val", "val", "test"]


def test_images_named_by_no_list_are_left_out():
    own = {"train": ImageList("train", tuple(NAMES[:4])), "test": ImageList("test", tuple(NAMES[5:7]))}
    assert set(assign_splits(NAMES, NAMES, AdapterOptions(), own)) == {*NAMES[:4], *NAMES[5:7]}


def test_the_users_list_replaces_and_outranks_the_data_sets(tmp_path):
    own = {"train": ImageList("train", tuple(NAMES[:5])), "test": ImageList("test", tuple(NAMES[5:]))}
    options = AdapterOptions(list_test=write_list(tmp_path / "test.txt", NAMES[4:6]))
    splits = assign_splits(NAMES, NAMES, options, own)
    assert splits == {**dict.fromkeys(NAMES[:4], "train"), **dict.fromkeys(NAMES[4:6], "test")}


def test_an_image_in_two_lists_is_an_error():
    own = {"train": ImageList("train.txt", tuple(NAMES)), "test": ImageList("test.txt", (NAMES[2],), (1,))}
    with pytest.raises(InputError, match=r"02.jpg is named by two lists: train.txt and test.txt:1"):
        assign_splits(NAMES, NAMES, AdapterOptions(), own)


def test_a_list_may_name_images_that_cannot_be_used():
    own = {"test": ImageList("test", ("lost.jpg", NAMES[0]))}
    splits = assign_splits(NAMES, [*NAMES, "lost.jpg"], AdapterOptions(), own)
    assert "lost.jpg" not in splits and splits[NAMES[0]] == "test"


@pytest.mark.parametrize(("written", "name"), [("./a/b.jpg", "a/b.jpg"), ("a\\b.jpg", "a/b.jpg"), ("a//b.jpg", "a/b.jpg")])
def test_names_are_normalised(written, name):
    assert normal_name(written) == name
