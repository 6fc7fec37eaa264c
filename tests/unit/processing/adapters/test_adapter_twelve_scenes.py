from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.base import AdapterOptions
from processing.adapters.twelve_scenes import load

SIZE = (1296, 968)
INTRINSICS = (1158.3, 1153.53, 649.0, 483.5)
INFO = """m_versionNumber = 4
m_sensorName = StructureSensor
m_colorWidth = 1296
m_colorHeight = 968
m_depthWidth = 640
m_depthHeight = 480
m_depthShift = 1000
m_calibrationColorIntrinsic = 1158.3 0 649 0 0 1153.53 483.5 0 0 0 1 0 0 0 0 1
m_calibrationColorExtrinsic = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1
m_calibrationDepthIntrinsic = 572 0 320 0 0 572 240 0 0 0 1 0 0 0 0 1
m_frames.size = 10
"""
SPLIT = "sequence0 [frames=4]  [start=0 ; end=3]\nsequence1 [frames=6]  [start=4 ; end=9]\n"


@pytest.fixture
def write_scene(miniature, write_image):
    """Writes the scene's folder with 10 frames; gives the view of every image."""

    def write(folder, size=SIZE):
        views = {}
        for index, view in enumerate(miniature.views):
            stem = f"data/frame-{index:06d}"
            write_image(folder / f"{stem}.color.jpg", size)
            write_image(folder / f"{stem}.depth.png")  # must not be taken for a colour image
            np.savetxt(folder / f"{stem}.pose.txt", view.world_from_cam)
            views[f"{stem}.color.jpg"] = view
        (folder / "info.txt").write_text(INFO)
        (folder / "split.txt").write_text(SPLIT)
        return views

    return write


@pytest.mark.parametrize("given", ["", "12scenes"])
@pytest.mark.parametrize("place", ["apt1/kitchen", "apt1_kitchen"])
@pytest.mark.parametrize("scene", ["apt1/kitchen", "apt1_kitchen"])
def test_poses_and_colour_camera_reproject(tmp_path, miniature, write_scene, given, place, scene):
    views = write_scene(tmp_path / "12scenes" / place)
    source = load(AdapterOptions(tmp_path / given, scene))
    assert not source.dropped and source.scene.units == "metres" and source.scene.name == scene
    miniature.assert_reprojects(source.scene, views, lambda name: INTRINSICS)


def test_the_first_sequence_is_the_query(tmp_path, write_scene):
    views = write_scene(tmp_path / "apt1" / "kitchen")
    splits = {image.name: image.split for image in load(AdapterOptions(tmp_path / "apt1" / "kitchen")).scene.images}
    assert [splits[name] for name in views] == ["test"] * 4 + ["train"] * 6


def test_frame_numbers_count_not_places_in_the_folder(tmp_path, write_scene):
    folder = tmp_path / "apt1" / "kitchen"
    write_scene(folder)
    (folder / "data" / "frame-000001.color.jpg").unlink()
    source = load(AdapterOptions(folder))
    assert [image.name[11:17] for image in source.scene.split("test")] == ["000000", "000002", "000003"]


def test_poses_marked_invalid_are_dropped(tmp_path, write_scene):
    folder = tmp_path / "apt1" / "kitchen"
    write_scene(folder)
    for index, number in ((2, "-1.#INF"), (5, "INF"), (6, "inf")):
        (folder / "data" / f"frame-{index:06d}.pose.txt").write_text(f"{number} {number} {number} {number}\n" * 4)
    source = load(AdapterOptions(folder))
    assert [(image.name[11:17], image.reason) for image in source.dropped] == [
        (frame, "the data set marks its pose as invalid") for frame in ("000002", "000005", "000006")
    ]
    assert len(source.scene.split("test")) == 3 and len(source.scene.split("train")) == 4


def test_intrinsics_follow_smaller_images(tmp_path, miniature, write_scene):
    views = write_scene(tmp_path / "apt1" / "kitchen", (648, 484))
    scene = load(AdapterOptions(tmp_path, "apt1/kitchen")).scene
    miniature.assert_reprojects(scene, views, lambda name: tuple(v / 2 for v in INTRINSICS))


def test_given_camera_needs_no_info_file(tmp_path, miniature, write_scene):
    views = write_scene(tmp_path / "apt1" / "kitchen", (64, 64))
    (tmp_path / "apt1" / "kitchen" / "info.txt").unlink()
    scene = load(AdapterOptions(tmp_path, "apt1/kitchen", camera="PINHOLE 64 64 60 61 33 31")).scene
    miniature.assert_reprojects(scene, views, lambda name: (60.0, 61.0, 33.0, 31.0))


def test_pseudo_ground_truth(tmp_path, miniature, write_scene):
    views = write_scene(tmp_path / "apt1" / "kitchen")
    for split, names in (("train", list(views)[4:]), ("test", list(views)[:3])):
        lines = [f"{name} {views[name].colmap_fields()} 1160" for name in names]
        (tmp_path / f"apt1_kitchen_{split}.txt").write_text("\n".join(lines))
    source = load(AdapterOptions(tmp_path, "apt1/kitchen", gt="sfm", gt_file=tmp_path))
    kept = {name: view for name, view in views.items() if "000003" not in name}
    miniature.assert_reprojects(source.scene, kept, lambda name: (1160.0, 1160.0, 648.0, 484.0))
    assert [(image.name[11:17], "no pose in" in image.reason) for image in source.dropped] == [("000003", True)]


@pytest.mark.parametrize("names", ["data/frame-{:06d}.color.jpg", "frame-{:06d}.color.jpg"])
@pytest.mark.parametrize("scene", ["apt1/kitchen", "apt1_kitchen"])
def test_sfm_layout_with_the_images_in_their_scene(tmp_path, radial, write_scene, write_sfm_model, assert_radial, names, scene):
    views = list(write_scene(tmp_path / "12scenes" / "apt1" / "kitchen").values())
    model = tmp_path / "12scenes" / "12scenes_sfm_triangulated" / "apt1_kitchen"
    camera = radial((648, 484), (579.0, 325.0, 241.0, 0.02))
    write_sfm_model(model, {8: camera}, {names.format(i): (8, view) for i, view in enumerate(views)})
    (model / "list_test.txt").write_text("\n".join(names.format(i) for i in range(3)))
    source = load(AdapterOptions(tmp_path, scene, gt="sfm"))
    on_disk = [image.name for image in source.scene.images]
    assert_radial(source.scene, dict(zip(on_disk, views, strict=True)), dict.fromkeys(on_disk, camera))
    assert [image.split for image in source.scene.images] == ["test"] * 3 + ["train"] * 7
    assert "12scenes_sfm_triangulated/apt1_kitchen" in source.scene.provenance["poses"]


@pytest.mark.parametrize("given", ["", "12scenes", "12scenes/12scenes_sfm_triangulated"])
def test_sfm_layout_with_the_images_beside_the_model(tmp_path, miniature, radial, write_image, write_sfm_model, assert_radial, given):
    """As the published code keeps it: no other folder of the scene is needed."""
    model = tmp_path / "12scenes" / "12scenes_sfm_triangulated" / "apt2_bed"
    camera = radial((64, 48), (60.0, 32.0, 24.0, 0.02))
    views = {f"frame-{i:06d}.color.jpg": view for i, view in enumerate(miniature.views)}
    write_sfm_model(model, {8: camera}, {name: (8, view) for name, view in views.items()}, "old bin")
    for name in views:
        write_image(model / name)
    (model / "list_test.txt").write_text("\n".join(list(views)[:2]))
    scene = load(AdapterOptions(tmp_path / given, "apt2_bed", gt="sfm")).scene
    assert_radial(scene, views, dict.fromkeys(views, camera))
    assert len(scene.split("test")) == 2


BROKEN = {
    "m_colorWidth = 1296\n": ("", "has no line m_colorWidth"),
    "m_calibrationColorIntrinsic = 1158.3": ("m_calibrationColorIntrinsic = ", "has no usable colour camera"),
    "1158.3 0 649": ("-5 0 649", "has no usable colour camera"),
    "m_colorHeight = 968": ("m_colorHeight = many", "has no usable colour camera"),
    "m_colorHeight = 968 ": ("m_colorHeight = 1296 ", "frame-000000.color.jpg is 1296x968, but its camera is for 1296x1296"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_info_is_named(tmp_path, write_scene, text):
    write_scene(tmp_path / "apt1" / "kitchen")
    path = tmp_path / "apt1" / "kitchen" / "info.txt"
    path.write_text(INFO.replace(text.rstrip(" "), BROKEN[text][0]))
    with pytest.raises(InputError, match=BROKEN[text][1]) as error:
        load(AdapterOptions(tmp_path, "apt1/kitchen"))
    assert "\n" not in str(error.value) and ("info.txt" in str(error.value) or "color.jpg" in str(error.value))


def test_missing_info_broken_split_and_missing_scene(tmp_path, write_scene):
    folder = tmp_path / "apt1" / "kitchen"
    write_scene(folder)
    (folder / "split.txt").write_text("sequence0 4\n")
    with pytest.raises(FormatError, match=r"split.txt:1 is 'sequence0 4'"):
        load(AdapterOptions(folder))
    (folder / "info.txt").unlink()
    (folder / "split.txt").write_text(SPLIT)
    with pytest.raises(MissingFileError, match="info.txt does not exist"):
        load(AdapterOptions(folder))
    with pytest.raises(MissingFileError, match="Scene 'apt1/living' was not found"):
        load(AdapterOptions(tmp_path, "apt1/living"))
    (tmp_path / "apt2.zip").write_text("")
    with pytest.raises(InputError, match="Scene 'apt2/bed' is still packed in .*apt2.zip"):
        load(AdapterOptions(tmp_path, "apt2/bed"))
