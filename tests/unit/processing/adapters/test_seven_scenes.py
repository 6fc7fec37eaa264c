from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.base import AdapterOptions
from processing.adapters.rgbd_frames import read_pose
from processing.adapters.seven_scenes import load

COLOR = (525.0, 525.0, 320.0, 240.0)


def splits_of(source):
    return {image.name: image.split for image in source.scene.images}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_original_poses_reproject(tmp_path, miniature, write_seven_scenes, suffix):
    view_of = write_seven_scenes(tmp_path / "7scenes" / "chess", suffix)
    source = load(AdapterOptions(tmp_path, "chess"))
    assert source.poses_known and not source.dropped and source.scene.units == "metres" and source.scene.name == "chess"
    miniature.assert_reprojects(source.scene, view_of, lambda name: COLOR)


@pytest.mark.parametrize(("given", "scene"), [("", "chess"), ("chess", "chess"), ("chess", "")])
def test_the_scene_is_found_at_any_level(tmp_path, write_seven_scenes, given, scene):
    write_seven_scenes(tmp_path / "chess")
    source = load(AdapterOptions(tmp_path / given, scene))
    assert source.scene.name == "chess" and source.scene.image_dir == tmp_path / "chess"


def test_without_lists_every_eighth_image_is_a_query(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    splits = splits_of(load(AdapterOptions(tmp_path, "chess")))
    assert [name for name, split in splits.items() if split == "test"] == ["seq-01/frame-000000.color.png", "seq-02/frame-000002.color.png"]


def test_sequence_files_split(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    (tmp_path / "chess" / "TrainSplit.txt").write_text("sequence1\n")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence2 \r\n\n")
    splits = splits_of(load(AdapterOptions(tmp_path, "chess")))
    assert {(name[:6], split) for name, split in splits.items()} == {("seq-01", "train"), ("seq-02", "test")}


def test_sequence_that_was_not_unpacked_is_named(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence2\nsequence3\n")
    with pytest.raises(MissingFileError, match=r"TestSplit.txt:2 names sequence3"):
        load(AdapterOptions(tmp_path, "chess"))
    (tmp_path / "chess" / "TestSplit.txt").write_text("second\n")
    with pytest.raises(FormatError, match=r"TestSplit.txt:1 is 'second'"):
        load(AdapterOptions(tmp_path, "chess"))


def test_image_lists_split_and_drop_the_rest(tmp_path, write_seven_scenes):
    names = list(write_seven_scenes(tmp_path / "chess", "jpg"))
    (tmp_path / "chess" / "list_train.txt").write_text("\n".join(names[:5]).replace(".jpg", ".png"))
    (tmp_path / "chess" / "list_test.txt").write_text("\n".join(names[5:8]))
    source = load(AdapterOptions(tmp_path, "chess"))
    assert [image.split for image in source.scene.images] == ["train"] * 5 + ["test"] * 3
    assert [(image.name, image.reason) for image in source.dropped] == [(name, "named by no image list") for name in names[8:]]


def test_frame_that_exists_twice_is_used_once(tmp_path, write_seven_scenes, write_image):
    names = list(write_seven_scenes(tmp_path / "chess"))
    write_image(tmp_path / "chess" / names[0].replace(".png", ".jpg"), (640, 480))
    assert [image.name for image in load(AdapterOptions(tmp_path, "chess")).scene.images] == names


def test_pseudo_ground_truth_with_a_focal_length_per_image(tmp_path, miniature, write_seven_scenes):
    view_of = write_seven_scenes(tmp_path / "chess")
    focal_of = {name: 520.0 + index % 3 for index, name in enumerate(view_of)}
    shuffled = list(reversed(list(view_of.items())))
    lines = [f"{name} {view.colmap_fields()} {focal_of[name]}" for name, view in shuffled]
    (tmp_path / "chess" / "pgt_sfm.txt").write_text("\n".join([*lines, "seq-09/frame-000000.color.png 1 0 0 0 0 0 0 525"]))
    source = load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    assert len(source.scene.cameras) == 3
    miniature.assert_reprojects(source.scene, view_of, lambda name: (focal_of[name], focal_of[name], 320.0, 240.0))


def test_given_camera_replaces_all_focal_lengths(tmp_path, miniature, write_seven_scenes):
    view_of = write_seven_scenes(tmp_path / "chess")
    lines = [f"{name} {view.colmap_fields()} {500 + index}" for index, (name, view) in enumerate(view_of.items())]
    (tmp_path / "chess" / "pgt_sfm.txt").write_text("\n".join(lines))
    scene = load(AdapterOptions(tmp_path, "chess", gt="sfm", camera="SIMPLE_PINHOLE 640 480 530 320 240")).scene
    assert len(scene.cameras) == 1
    miniature.assert_reprojects(scene, view_of, lambda name: (530.0, 530.0, 320.0, 240.0))


def test_images_without_pseudo_pose_are_dropped(tmp_path, write_seven_scenes):
    view_of = write_seven_scenes(tmp_path / "chess")
    lines = [f"{name} {view.colmap_fields()} 525" for name, view in list(view_of.items())[2:]]
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(lines))
    source = load(AdapterOptions(tmp_path, "chess", gt="dslam", gt_file=path))
    assert [image.name for image in source.dropped] == list(view_of)[:2]
    assert all("no pose in mine.txt" in image.reason for image in source.dropped)


@pytest.mark.parametrize(
    "line", ["a 1 0 0 0 0 0 0", "a 0 0 0 0 0 0 0 525", "a 1 0 0 0 0 0 nan 525", "a 1 0 0 0 0 0 0 0", "a 1 0 0 0 0 0 zero 525"]
)
def test_malformed_pseudo_ground_truth_is_named_with_its_line(tmp_path, write_seven_scenes, line):
    write_seven_scenes(tmp_path / "chess")
    (tmp_path / "chess" / "pgt_sfm.txt").write_text(f"# poses\n{line}\n")
    with pytest.raises(FormatError, match=r"pgt_sfm.txt:2 is not a pose"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm"))


def test_missing_pseudo_ground_truth_and_unknown_choice(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    with pytest.raises(MissingFileError, match="pgt_sfm.txt does not exist"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    with pytest.raises(InputError, match="original, sfm, dslam"):
        load(AdapterOptions(tmp_path, "chess", gt="best"))


def test_given_camera_replaces_the_intrinsics(tmp_path, miniature, write_seven_scenes):
    view_of = write_seven_scenes(tmp_path / "chess")
    source = load(AdapterOptions(tmp_path, "chess", camera="PINHOLE 640 480 500 510 300 250"))
    miniature.assert_reprojects(source.scene, view_of, lambda name: (500.0, 510.0, 300.0, 250.0))
    with pytest.raises(InputError, match=r"is 640x480, but its camera is for 320x240"):
        load(AdapterOptions(tmp_path, "chess", camera="PINHOLE 320 240 250 255 150 125"))
    with pytest.raises(InputError, match="PINHOLE"):
        load(AdapterOptions(tmp_path, "chess", camera="PINHOLE 640 480 500"))


@pytest.mark.parametrize("number", ["nan", "-1.#IND", "1.#QNAN", "inf", "-inf", "-nan(ind)"])
def test_poses_that_the_data_set_marks_invalid_are_dropped(tmp_path, write_seven_scenes, number):
    name = next(iter(write_seven_scenes(tmp_path / "chess")))
    path = tmp_path / "chess" / name.replace(".color.png", ".pose.txt")
    path.write_text(" ".join([number] * 4 + ["\n"]) * 4)
    source = load(AdapterOptions(tmp_path, "chess"))
    assert [(image.name, "invalid" in image.reason) for image in source.dropped] == [(name, True)]


def test_missing_pose_file_drops_the_image(tmp_path, write_seven_scenes):
    name = next(iter(write_seven_scenes(tmp_path / "chess")))
    (tmp_path / "chess" / name.replace(".color.png", ".pose.txt")).unlink()
    source = load(AdapterOptions(tmp_path, "chess"))
    assert [(image.name, image.reason) for image in source.dropped] == [(name, "it has no pose file frame-000000.pose.txt")]


def test_no_pose_at_all_is_an_error(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    for path in Path(tmp_path).rglob("*.pose.txt"):
        path.unlink()
    with pytest.raises(InputError, match="No image in .* has a usable pose"):
        load(AdapterOptions(tmp_path, "chess"))


SCALED = "2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1\n"
MIRRORED = "1 0 0 0\n0 1 0 0\n0 0 -1 0\n0 0 0 1\n"
THREE_ROWS = "1 0 0 0\n0 1 0 0\n0 0 1 0\n"
RAGGED = "1 0 0 0\n0 1 0\n0 0 1 0\n0 0 0 1\n"


@pytest.mark.parametrize("text", ["", "hello", "1 2 3", THREE_ROWS, RAGGED, SCALED, MIRRORED])
def test_malformed_pose_files_are_named(tmp_path, text):
    path = tmp_path / "frame-000007.pose.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match="frame-000007.pose.txt"):
        read_pose(path)


def test_binary_pose_file_is_named(tmp_path):
    path = tmp_path / "frame-000007.pose.txt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(FormatError, match="frame-000007.pose.txt"):
        read_pose(path)


def test_rounded_rotations_are_made_rotations(tmp_path, miniature):
    path = tmp_path / "p.txt"
    np.savetxt(path, miniature.views[0].world_from_cam, fmt="%.4f")
    rotation = read_pose(path)[:, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)


def test_corrupt_image_is_named(tmp_path, write_seven_scenes):
    name = next(iter(write_seven_scenes(tmp_path / "chess")))
    (tmp_path / "chess" / name).write_bytes(b"no picture")
    with pytest.raises(FormatError, match="frame-000000.color.png is not a readable image"):
        load(AdapterOptions(tmp_path, "chess"))


def test_missing_empty_and_wrong_folders(tmp_path, write_seven_scenes):
    with pytest.raises(InputError, match="needs --dataset_dir"):
        load(AdapterOptions(None, "chess"))
    with pytest.raises(MissingFileError, match="nowhere is not a folder"):
        load(AdapterOptions(tmp_path / "nowhere", "chess"))
    (tmp_path / "chess").mkdir()
    with pytest.raises(InputError, match="chess is empty"):
        load(AdapterOptions(tmp_path, "chess"))
    with pytest.raises(MissingFileError, match="Scene 'fire' was not found.*chess"):
        load(AdapterOptions(tmp_path, "fire"))
    (tmp_path / "chess" / "seq-01.zip").write_text("")
    with pytest.raises(InputError, match=r"chess has no colour images, but seq-01.zip is not unpacked. Unpack it there: unzip '.*/chess/"):
        load(AdapterOptions(tmp_path, "chess"))
    (tmp_path / "chess" / "seq-01.zip").unlink()
    (tmp_path / "chess" / "seq-1.txt").write_text("")
    with pytest.raises(InputError, match="does not hold folders seq-XX"):
        load(AdapterOptions(tmp_path, "chess"))
    (tmp_path / "chess" / "seq-01").mkdir()
    with pytest.raises(InputError, match="has no colour images"):
        load(AdapterOptions(tmp_path, "chess"))


def test_no_training_image_left(tmp_path, write_seven_scenes):
    names = list(write_seven_scenes(tmp_path / "chess"))
    (tmp_path / "all.txt").write_text("\n".join(names))
    with pytest.raises(InputError, match="No training image is left"):
        load(AdapterOptions(tmp_path, "chess", list_test=tmp_path / "all.txt"))
