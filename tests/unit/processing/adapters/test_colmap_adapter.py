from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from processing.adapters.base import AdapterOptions
from processing.adapters.colmap import load

# COLMAP camera id -> (width, height, fx, fy, cx, cy); ids neither start at 1 nor follow the order of the images
CAMERAS = {7: (64, 48, 60.0, 62.0, 31.0, 25.0), 3: (80, 60, 90.0, 91.0, 42.0, 29.0)}


@pytest.fixture
def write_model(miniature, write_image):
    """Writes images/{left,right}/NNNN.png with the same base names, and a text model without rigs whose image ids are shuffled."""

    def write(folder: Path, place: str = "sparse/0", images: str = "images"):
        model = folder / place
        model.mkdir(parents=True, exist_ok=True)
        view_of, camera_of = {}, {}
        lines = ["# Image list", "# and a second comment"]
        for index, view in enumerate(miniature.views):
            name = f"{'left' if index % 2 else 'right'}/{index // 2:04d}.png"
            view_of[name], camera_of[name] = view, (7, 3)[index % 2]
            write_image(folder / images / name, CAMERAS[camera_of[name]][:2])
            lines += [f"{100 - 7 * index} {view.colmap_fields()} {camera_of[name]} {name}", ""]
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        (model / "cameras.txt").write_text("".join(f"{i} PINHOLE {' '.join(map(str, c))}\n" for i, c in CAMERAS.items()))
        (model / "points3D.txt").write_text("")
        return view_of, lambda name: CAMERAS[camera_of[name]][2:]

    return write


def rewrite(model: Path, change) -> None:
    """Change images.txt line by line."""
    path = model / "images.txt"
    path.write_text("\n".join(change(line) for line in path.read_text().splitlines()) + "\n")


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "model", "."])
def test_text_model_reprojects(tmp_path, miniature, write_model, place):
    view_of, intrinsics_of = write_model(tmp_path / "hall", place)
    source = load(AdapterOptions(tmp_path, "hall"))
    assert source.scene.units == "arbitrary" and source.scene.image_dir == tmp_path / "hall" / "images" and source.poses_known
    miniature.assert_reprojects(source.scene, view_of, intrinsics_of)


def test_binary_model_with_rigs_and_frames_reprojects(tmp_path, miniature, write_model):
    view_of, intrinsics_of = write_model(tmp_path)
    model = tmp_path / "sparse" / "0"
    reconstruction = pycolmap.Reconstruction(str(model))
    shutil.rmtree(model)
    model.mkdir()
    reconstruction.write_binary(str(model))
    assert (model / "rigs.bin").is_file() and (model / "frames.bin").is_file()
    miniature.assert_reprojects(load(AdapterOptions(tmp_path)).scene, view_of, intrinsics_of)


def test_rig_of_two_cameras_reprojects(tmp_path, miniature, write_model):
    """Frame poses belong to the rig; the second camera's pose comes from the rig."""
    view_of, intrinsics_of = write_model(tmp_path)
    model = tmp_path / "sparse" / "0"
    offset = pose.from_qvec_tvec([0.99, 0.05, -0.08, 0.06], [0.3, -0.1, 0.2])
    views = dict(list(view_of.items())[:2])
    (first, reference), (second, _) = views.items()
    reference_pose = np.linalg.inv(reference.world_from_cam)[:3]
    moved = np.linalg.inv(pose.homogeneous(pose.compose(offset, reference_pose)))
    views[second] = type(reference)(moved[:3, 3], moved[:3, 0], moved[:3, 1], moved[:3, 2])
    fields = [" ".join(map(repr, map(float, np.concatenate(pose.to_qvec_tvec(p))))) for p in (offset, reference_pose)]
    (model / "rigs.txt").write_text(f"1 2 CAMERA 7 CAMERA 3 1 {fields[0]}\n")
    (model / "frames.txt").write_text(f"1 1 {fields[1]} 2 CAMERA 7 100 CAMERA 3 93\n")
    (model / "images.txt").write_text(f"100 {reference.colmap_fields()} 7 {first}\n\n93 {views[second].colmap_fields()} 3 {second}\n\n")
    miniature.assert_reprojects(load(AdapterOptions(tmp_path)).scene, views, intrinsics_of)


def test_images_beside_the_model(tmp_path, miniature, write_model):
    view_of, intrinsics_of = write_model(tmp_path, images=".")
    source = load(AdapterOptions(tmp_path))
    assert source.scene.image_dir == tmp_path and source.scene.name == tmp_path.name
    miniature.assert_reprojects(source.scene, view_of, intrinsics_of)


def test_survives_the_manifest(tmp_path, miniature, write_model):
    view_of, intrinsics_of = write_model(tmp_path / "hall")
    scene = load(AdapterOptions(tmp_path, "hall")).scene
    scene.save(tmp_path / "out")
    json.loads((tmp_path / "out" / "scene.json").read_text())
    miniature.assert_reprojects(type(scene).load(tmp_path / "out"), view_of, intrinsics_of)


def test_splits(tmp_path, write_model):
    view_of, _ = write_model(tmp_path)
    names = sorted(view_of)
    assert [image.name for image in load(AdapterOptions(tmp_path)).scene.split("test")] == [names[0], names[8]]
    (tmp_path / "list_test.txt").write_text(f"{names[2]}\n")
    assert [image.name for image in load(AdapterOptions(tmp_path)).scene.split("test")] == [names[2]]
    (tmp_path / "mine.txt").write_text(f"{names[4]}\n{names[5]}\n")
    source = load(AdapterOptions(tmp_path, list_test=tmp_path / "mine.txt"))
    assert [image.name for image in source.scene.split("test")] == names[4:6]
    assert len(source.scene.split("train")) == 8


def test_images_that_cannot_be_used_are_dropped_with_a_reason(tmp_path, write_model, write_image):
    view_of, _ = write_model(tmp_path)
    names = sorted(view_of)
    (tmp_path / "images" / names[0]).unlink()
    write_image(tmp_path / "images" / "left" / "extra.JPG")
    source = load(AdapterOptions(tmp_path))
    reasons = {image.name: image.reason for image in source.dropped}
    assert set(reasons) == {names[0], "left/extra.JPG"}
    assert "but not in" in reasons[names[0]] and "not in the COLMAP model" in reasons["left/extra.JPG"]
    assert {image.name for image in source.scene.images} == set(names[1:])


def test_model_without_its_images_is_an_error(tmp_path, write_model):
    write_model(tmp_path)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(InputError, match="None of the 10 images of the model"):
        load(AdapterOptions(tmp_path))


def test_images_of_another_size_are_named(tmp_path, write_model, write_image):
    view_of, _ = write_model(tmp_path)
    name = sorted(view_of)[3]
    write_image(tmp_path / "images" / name, (128, 96))
    with pytest.raises(InputError, match=f"{name} is 128x96, but its camera is for"):
        load(AdapterOptions(tmp_path))


def test_units_are_the_users(tmp_path, write_model):
    write_model(tmp_path)
    assert load(AdapterOptions(tmp_path, extra={"units": "metres"})).scene.units == "metres"
    with pytest.raises(InputError, match="metres, arbitrary"):
        load(AdapterOptions(tmp_path, extra={"units": "feet"}))


def test_missing_model_and_ground_truth_options(tmp_path, write_model):
    (tmp_path / "hall" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="does not hold images .* and a COLMAP model"):
        load(AdapterOptions(tmp_path, "hall"))
    with pytest.raises(MissingFileError, match="Scene 'nave' was not found"):
        load(AdapterOptions(tmp_path, "nave"))
    with pytest.raises(InputError, match="--gt sfm"):
        load(AdapterOptions(tmp_path, "hall", gt="sfm"))


def without_points(model):
    (model / "points3D.txt").unlink()


def garbage(model):
    (model / "images.txt").write_text("not a model\n\n")


def unknown_camera(model):
    rewrite(model, lambda line: line.replace(" 7 right/0000.png", " 9 right/0000.png"))


def unknown_camera_model(model):
    (model / "cameras.txt").write_text((model / "cameras.txt").read_text().replace("PINHOLE", "CAMCORDER"))


def zero_quaternion(model):
    rewrite(model, lambda line: "100 0 0 0 0 1 2 3 7 right/0000.png" if line.endswith("right/0000.png") else line)


def truncated_binary(model):
    reconstruction = pycolmap.Reconstruction(str(model))
    for path in model.iterdir():
        path.unlink()
    reconstruction.write_binary(str(model))
    content = (model / "images.bin").read_bytes()
    (model / "images.bin").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [without_points, garbage, unknown_camera, unknown_camera_model, zero_quaternion, truncated_binary])
def test_damaged_models_give_one_clear_error(tmp_path, write_model, damage):
    write_model(tmp_path)
    damage(tmp_path / "sparse" / "0")
    with pytest.raises(FormatError, match="sparse/0"):
        load(AdapterOptions(tmp_path))


def test_the_model_that_fits_the_images_is_taken(tmp_path, miniature, write_model, caplog):
    """COLMAP's own layout: the model of the originals, which are not here, and the undistorted images with theirs."""
    view_of, intrinsics_of = write_model(tmp_path, "dense/0/sparse", "dense/0/images")
    shutil.copytree(tmp_path / "dense" / "0" / "sparse", tmp_path / "sparse" / "0")
    cameras = tmp_path / "sparse" / "0" / "cameras.txt"
    cameras.write_text(cameras.read_text().replace("64 48", "256 192").replace("80 60", "320 240"))
    with caplog.at_level("INFO"):
        source = load(AdapterOptions(tmp_path))
    assert source.scene.image_dir == tmp_path / "dense" / "0" / "images" and "not the one in" in caplog.text
    assert source.scene.provenance["poses"] == "COLMAP model dense/0/sparse"
    miniature.assert_reprojects(source.scene, view_of, intrinsics_of)


@pytest.mark.parametrize("undistorted", [True, False])
def test_originals_beside_undistorted_images_are_told_by_their_size(tmp_path, miniature, write_model, write_image, undistorted):
    """The layout that programs for Gaussian splatting make: input/ and distorted/ as taken, images/ and sparse/ without distortion."""
    view_of, intrinsics_of = write_model(
        tmp_path, "sparse/0" if undistorted else "distorted/sparse/0", "images" if undistorted else "input"
    )
    for name in view_of:
        write_image(tmp_path / ("input" if undistorted else "images") / name, (66, 50))
    source = load(AdapterOptions(tmp_path))
    assert source.scene.image_dir == tmp_path / ("images" if undistorted else "input")
    miniature.assert_reprojects(source.scene, view_of, intrinsics_of)


def test_a_model_whose_images_are_all_of_another_size_is_an_error(tmp_path, write_model):
    write_model(tmp_path, images="input")
    cameras = tmp_path / "sparse" / "0" / "cameras.txt"
    cameras.write_text(cameras.read_text().replace("64 48", "63 47"))
    with pytest.raises(InputError, match=r"input/right/0000.png is 64x48, but its camera is for 63x47 images"):
        load(AdapterOptions(tmp_path))
    given = "PINHOLE 64 48 60 62 31 25"
    with pytest.raises(InputError, match=r"input/left/0000.png is 80x60, but its camera is for 64x48 images"):
        load(AdapterOptions(tmp_path, camera=given))


def test_where_images_were_looked_for_is_said(tmp_path, write_model):
    write_model(tmp_path, images="pictures")
    with pytest.raises(InputError, match=r"sparse/0 exists in .*images, dense/images, rgb, input, .*\(the first: .*the folder of both"):
        load(AdapterOptions(tmp_path))
