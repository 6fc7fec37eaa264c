from __future__ import annotations

import logging

import pytest

from d2s.errors import InputError
from processing.adapters.base import AdapterOptions
from processing.adapters.bkc import load

NAMES = [f"seq{1 + i // 2}/{i % 2:05d}.jpg" for i in range(10)]
"""Five sequences of two images; base names are shared."""


@pytest.fixture
def cameras(radial):
    return {3: radial((64, 48), (60.0, 32.0, 24.5, -0.03)), 8: radial((80, 60), (70.0, 40.5, 30.0, 0.02))}


@pytest.fixture
def write_scene(miniature, cameras, write_image, write_sfm_model):
    def write(model, images):
        camera_ids = [(3, 8)[i // 2 % 2] for i in range(10)]
        write_sfm_model(model, cameras, {name: (camera_ids[i], miniature.views[i]) for i, name in enumerate(NAMES)})
        for i, name in enumerate(NAMES):
            write_image(images / name, cameras[camera_ids[i]].size)
        view_of = dict(zip(NAMES, miniature.views, strict=True))
        return view_of, {name: cameras[camera_ids[i]] for i, name in enumerate(NAMES)}

    return write


def names_of(scene, split):
    return {image.name for image in scene.split(split)}


def write_list(path, *sequences, more=""):
    path.write_text("".join(f"{name}\n" for name in NAMES if name[3] in sequences) + more)


@pytest.mark.parametrize("layout", ["BKC/hall", "hall", "d2s"])
def test_public_layouts_reproject(tmp_path, write_scene, assert_radial, layout):
    folder = tmp_path / ("gt_3Dmodels/BKC/hall" if layout == "d2s" else layout)
    model = folder / "sfm_sift_full" if layout == "d2s" else folder
    view_of, camera_of = write_scene(model, tmp_path / "imgs_datasets/BKC/hall" if layout == "d2s" else folder)
    write_list(folder / "test_seq4.txt", "4")
    scene = load(AdapterOptions(tmp_path, "hall")).scene
    assert_radial(scene, view_of, camera_of)
    assert names_of(scene, "test") == {"seq4/00000.jpg", "seq4/00001.jpg"} and len(scene.split("train")) == 8
    assert scene.units == "metres" and scene.dataset == "BKC"


def test_scene_folder_itself(tmp_path, write_scene, assert_radial):
    view_of, camera_of = write_scene(tmp_path / "hall", tmp_path / "hall" / "images")
    write_list(tmp_path / "hall" / "test_seq4.txt", "4")
    scene = load(AdapterOptions(tmp_path / "hall")).scene
    assert scene.name == "hall"
    assert_radial(scene, view_of, camera_of)


def test_test_images_that_are_not_asked_for_are_held_out(tmp_path, write_scene):
    write_scene(tmp_path / "hall", tmp_path / "hall")
    write_list(tmp_path / "hall" / "test_seq5.txt", "5")
    write_list(tmp_path / "hall" / "test_all.txt", "3", "4", "5")
    source = load(AdapterOptions(tmp_path, "hall"))
    assert names_of(source.scene, "test") == {name for name in NAMES if name[3] == "5"}
    assert names_of(source.scene, "train") == {name for name in NAMES if name[3] in "12"}
    assert {d.name: d.reason for d in source.dropped} == {n: "test_all.txt holds it out of the map" for n in NAMES if n[3] in "34"}
    write_list(tmp_path / "hall" / "test_seq4.txt", "4")
    source = load(AdapterOptions(tmp_path, "hall"))
    assert names_of(source.scene, "test") == {name for name in NAMES if name[3] == "4"}
    source = load(AdapterOptions(tmp_path, "hall", list_test=tmp_path / "hall" / "test_seq5.txt"))
    assert names_of(source.scene, "test") == {name for name in NAMES if name[3] == "5"} and len(source.scene.split("train")) == 4


@pytest.mark.parametrize("given", [False, True])
def test_query_cameras_of_their_list(tmp_path, write_scene, given):
    """hloc's list of queries lies beside the model, or is given as --list_test and names the queries, too."""
    write_scene(tmp_path / "hall", tmp_path / "hall")
    write_list(tmp_path / "hall" / "test_seq4.txt", "4")
    path = (tmp_path if given else tmp_path / "hall") / "seq4_query_list_with_intrinsics.txt"
    path.write_text("seq4/00000.jpg SIMPLE_RADIAL 80 60 77 40 30 0.01\nseq4/00001.jpg PINHOLE 80 60 77 78 40 30\n")
    scene = load(AdapterOptions(tmp_path, "hall", list_test=path if given else None)).scene
    found = {image.name: (scene.camera(image).model.name, scene.camera(image).params[0]) for image in scene.split("test")}
    assert found == {"seq4/00000.jpg": ("SIMPLE_RADIAL", 77), "seq4/00001.jpg": ("PINHOLE", 77)}
    assert {scene.camera(image).params[0] for image in scene.split("train")} == {60, 70}


def test_listed_images_without_a_pose_are_dropped(tmp_path, write_scene):
    write_scene(tmp_path / "hall", tmp_path / "hall")
    write_list(tmp_path / "hall" / "test_seq4.txt", "4", more="seq4/00099.jpg\n")
    source = load(AdapterOptions(tmp_path, "hall"))
    assert len(source.scene.split("test")) == 2 and [image.name for image in source.dropped] == ["seq4/00099.jpg"]


def test_missing_list_is_said(tmp_path, write_scene, caplog):
    write_scene(tmp_path / "hall", tmp_path / "hall")
    with caplog.at_level(logging.WARNING):
        assert len(load(AdapterOptions(tmp_path, "hall")).scene.split("test")) == 2
    assert "has no test_seq4.txt" in caplog.text


def test_list_that_is_no_text_is_one_clear_error(tmp_path, write_scene):
    write_scene(tmp_path / "hall", tmp_path / "hall")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00seq")
    with pytest.raises(InputError, match="list.txt is not a text file"):
        load(AdapterOptions(tmp_path, "hall", list_test=tmp_path / "list.txt"))


def test_no_model_is_one_clear_error(tmp_path, write_image):
    write_image(tmp_path / "BKC" / "hall" / "seq1" / "00000.jpg")
    with pytest.raises(InputError, match="does not hold a COLMAP model"):
        load(AdapterOptions(tmp_path, "hall"))
