from __future__ import annotations

import json
import logging
import pickle
import shutil

import numpy as np
import pycolmap
import pytest

from d2s.errors import FormatError, InputError
from d2s.geometry import pose
from d2s.geometry.camera import project
from processing.adapters.base import AdapterOptions
from processing.adapters.indoor6 import load

NAMES = [f"{('phone', 'tablet')[i % 2]}/frame-{i // 2:04d}.jpg" for i in range(10)]
"""The same base names in two folders."""


@pytest.fixture
def cameras(radial):
    """A camera for every image, by COLMAP id; ids are neither the images' nor in their order."""
    return {90 - 7 * i: radial((64 + 16 * (i % 2), 48 + 12 * (i % 2)), (60.0 + i, 31.0 + i, 23.5, -0.05 + 0.01 * i)) for i in range(10)}


@pytest.fixture
def write_scene(miniature, cameras, write_image, write_sfm_model):
    """Writes a model, its images and its lists: queries 1 and 5, validation images 2 and 6."""

    def write(model, images, kind="old bin", model_names=NAMES, file_names=NAMES):
        write_sfm_model(model, cameras, {name: (90 - 7 * i, miniature.views[i]) for i, name in enumerate(model_names)}, kind)
        for i, name in enumerate(file_names):
            write_image(images / name, cameras[90 - 7 * i].size)
        (model / "list_test.txt").write_text(f"{model_names[1]}\n{model_names[5]}\n")
        (model / "list_test_val.txt").write_text("".join(f"{model_names[i]}\n" for i in (1, 2, 5, 6)))
        view_of = dict(zip(file_names, miniature.views, strict=True))
        return view_of, {name: cameras[90 - 7 * i] for i, name in enumerate(file_names)}

    return write


def splits(scene):
    return {split: [image.name for image in scene.split(split)] for split in ("train", "val", "test")}


def assert_public_split(scene, names=NAMES):
    found = splits(scene)
    assert set(found["test"]) == {names[1], names[5]} and set(found["val"]) == {names[2], names[6]}
    assert set(found["train"]) == {names[i] for i in (0, 3, 4, 7, 8, 9)}


@pytest.mark.parametrize("kind", ["txt", "bin", "old bin"])
@pytest.mark.parametrize("images", ["indoor6/indoor6_sfm_triangulated/scene1", "indoor6/scene1", "indoor6/scene1/images"])
def test_public_layout_reprojects(tmp_path, write_scene, assert_radial, kind, images):
    view_of, camera_of = write_scene(tmp_path / "indoor6" / "indoor6_sfm_triangulated" / "scene1", tmp_path / images, kind)
    scene = load(AdapterOptions(tmp_path, "scene1")).scene
    assert_radial(scene, view_of, camera_of)
    assert_public_split(scene)
    assert scene.units == "metres" and scene.dataset == "indoor6" and len(scene.cameras) == 10


def test_other_ways_to_name_the_scene(tmp_path, write_scene, assert_radial):
    view_of, camera_of = write_scene(tmp_path / "indoor6_sfm_triangulated" / "scene1", tmp_path / "scene1" / "images")
    for options in (AdapterOptions(tmp_path, "scene1"), AdapterOptions(tmp_path / "scene1"), AdapterOptions(tmp_path / "scene1", "scene1")):
        scene = load(options).scene
        assert scene.name == "scene1"
        assert_radial(scene, view_of, camera_of)


@pytest.mark.parametrize("renamed", ["files", "model"])
def test_working_names_of_the_published_code(tmp_path, write_scene, assert_radial, renamed):
    """Files are image%08d.png and the model has the original names, or the other way round; the lists are in the original names."""
    ids = [300 - 11 * i for i in range(10)]
    working = [f"image{index:08d}.png" for index in ids]
    folder = tmp_path / "gt_3Dmodels" / "indoor6" / "scene1"
    model_names, file_names = (NAMES, working) if renamed == "files" else (working, NAMES)
    images = tmp_path / "imgs_datasets" / "indoor6" / "scene1"
    view_of, camera_of = write_scene(folder / "sfm_sift_full", images, "old bin", model_names, file_names)
    (folder / "id_to_origin_name.txt").write_text(json.dumps(dict(zip(ids, NAMES, strict=True))))
    (folder / "sfm_sift_full" / "list_test.txt").write_text(f"{NAMES[1]}\n{NAMES[5]}\n")
    scene = load(AdapterOptions(tmp_path, "scene1")).scene
    assert_radial(scene, view_of, camera_of)
    assert_public_split(scene, file_names)


def test_original_download_with_the_model_beside_it(tmp_path, write_scene, assert_radial):
    """Images image-NNN.color.jpg, the model's name in the seventh field of the intrinsics; the pickle is there and is not read."""
    files = [f"image-{i:03d}.color.jpg" for i in range(10)]
    folder = tmp_path / "indoor6" / "scene1"
    view_of, camera_of = write_scene(tmp_path / "indoor6" / "indoor6_sfm_triangulated" / "scene1", folder / "images", file_names=files)
    for file, name in zip(files, NAMES, strict=True):
        (folder / "images" / file.replace("color.jpg", "intrinsics.txt")).write_text(f"64 48 60.0 32.0 24.0 0.0 {name}\n")
    (folder / "train_test_val.pkl").write_bytes(pickle.dumps(Bomb()))
    scene = load(AdapterOptions(tmp_path, "scene1")).scene
    assert_radial(scene, view_of, camera_of)
    assert_public_split(scene, files)


class Bomb:
    """Whoever unpickles this has lost."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was loaded",))


def test_pickle_alone_is_refused_in_one_line(tmp_path, write_image):
    write_image(tmp_path / "indoor6" / "scene1" / "images" / "image-000.color.jpg")
    (tmp_path / "indoor6" / "scene1" / "train_test_val.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"train_test_val.pkl is a Python pickle, which is not read.*colmap.zip") as error:
        load(AdapterOptions(tmp_path, "scene1"))
    assert str(tmp_path / "indoor6" / "indoor6_sfm_triangulated" / "scene1") in str(error.value)


def test_queries_take_the_cameras_of_their_list_and_others_those_of_the_training_model(tmp_path, miniature, cameras, write_scene, radial):
    folder = tmp_path / "gt_3Dmodels" / "indoor6" / "scene1"
    write_scene(folder / "sfm_sift_full", tmp_path / "imgs_datasets" / "indoor6" / "scene1")
    model = pycolmap.Reconstruction(str(folder / "sfm_sift_full"))
    for camera in model.cameras.values():
        camera.params = np.array(camera.params) + [5, 0, 0, 0]
    (folder / "sfm_superpoint+superglue").mkdir()
    model.write_binary(str(folder / "sfm_superpoint+superglue"))
    (folder / "query_list_with_intrinsics.txt").write_text(f"{NAMES[1]} PINHOLE 160 120 100 101 80 61\n# a comment\n{NAMES[5]}\n")
    scene = load(AdapterOptions(tmp_path, "scene1")).scene
    for image in scene.images:
        index = NAMES.index(image.name)
        params = list(scene.camera(image).params)
        if index == 1:  # the list's camera is for images of twice the width and height
            assert scene.camera(image).model.name == "PINHOLE" and params == [50, 50.5, 40, 30.5]
        else:
            np.testing.assert_allclose(params, np.array(cameras[90 - 7 * index].params) + [5, 0, 0, 0])
        seen, _ = project(scene.camera(image), pose.transform(image.cam_from_world, miniature.points))
        assert np.isfinite(seen).all()


def test_images_of_other_size_get_scaled_cameras(tmp_path, write_scene, write_image, assert_radial):
    view_of, camera_of = write_scene(tmp_path / "indoor6_sfm_triangulated" / "scene1", tmp_path / "scene1")
    write_image(tmp_path / "scene1" / NAMES[3], (160, 120))
    assert_radial(load(AdapterOptions(tmp_path, "scene1")).scene, view_of, camera_of)


def test_lists_may_name_images_that_were_not_reconstructed(tmp_path, write_scene):
    model = tmp_path / "indoor6_sfm_triangulated" / "scene1"
    write_scene(model, model)
    with (model / "list_test_val.txt").open("a") as file:
        file.write("phone/frame-0099.jpg\n")
    source = load(AdapterOptions(tmp_path, "scene1"))
    assert_public_split(source.scene)
    assert {image.name: image.reason for image in source.dropped} == {
        "phone/frame-0099.jpg": "list_test_val.txt names it, but the COLMAP model does not have it"
    }


def test_missing_list_is_said(tmp_path, write_scene, caplog):
    model = tmp_path / "indoor6_sfm_triangulated" / "scene1"
    write_scene(model, model)
    for name in ("list_test.txt", "list_test_val.txt"):
        (model / name).unlink()
    with caplog.at_level(logging.WARNING):
        scene = load(AdapterOptions(tmp_path, "scene1")).scene
    assert "has no list_test.txt" in caplog.text and len(scene.split("test")) == 2


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": "b"}', '{"1": 2}'])
def test_broken_name_table_is_named(tmp_path, write_scene, text):
    model = tmp_path / "indoor6_sfm_triangulated" / "scene1"
    write_scene(model, model)
    (model / "id_to_origin_name.txt").write_text(text)
    with pytest.raises(FormatError, match="id_to_origin_name.txt is not a JSON object"):
        load(AdapterOptions(tmp_path, "scene1"))


def test_broken_query_list_is_named(tmp_path, write_scene):
    model = tmp_path / "indoor6_sfm_triangulated" / "scene1"
    write_scene(model, model)
    (model / "query_list_with_intrinsics.txt").write_text(f"{NAMES[1]} PINHOLE 64 48 60\n")
    with pytest.raises(FormatError, match="query_list_with_intrinsics.txt:1: Camera model PINHOLE takes 4"):
        load(AdapterOptions(tmp_path, "scene1"))


def test_model_without_images_and_other_options(tmp_path, write_scene):
    model = tmp_path / "indoor6_sfm_triangulated" / "scene1"
    write_scene(model, tmp_path / "images")
    with pytest.raises(InputError, match="None of the 10 images of the model"):
        load(AdapterOptions(tmp_path, "scene1"))
    with pytest.raises(InputError, match="--gt sfm .* do not apply to --dataset indoor6"):
        load(AdapterOptions(tmp_path, "scene1", gt="sfm"))
    shutil.rmtree(model)
    with pytest.raises(InputError, match="Scene 'scene1' was not found"):
        load(AdapterOptions(tmp_path, "scene1"))
