from __future__ import annotations

import json
import math

import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from d2s.geometry.camera import project
from processing.adapters.base import AdapterOptions
from processing.adapters.nerfstudio import load

INTRINSICS = {"fl_x": 60.0, "fl_y": 62.0, "cx": 31.0, "cy": 25.5, "w": 64, "h": 48}
EXPECTED = (60.0, 62.0, 31.0, 25.5)


@pytest.fixture
def write_transforms(miniature, write_image):
    """Writes images/NNNN.png and transforms.json; gives the views. Frames are listed in reverse order."""

    def write(folder, header=INTRINSICS, frame=lambda index: {}, path="./images/{:04d}.png", size=(64, 48)):
        view_of, frames = {}, []
        for index, view in reversed(list(enumerate(miniature.views))):
            name = f"images/{index:04d}.png"
            view_of[name] = view
            write_image(folder / name, size)
            frames.append({"file_path": path.format(index), "transform_matrix": view.world_from_gl.tolist(), **frame(index)})
        (folder / "transforms.json").write_text(json.dumps({**header, "frames": frames}))
        return view_of

    return write


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_opengl_axes_reproject(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path / "fox")
    source = load(AdapterOptions(tmp_path, "fox"))
    assert source.scene.units == "arbitrary" and not source.dropped and len(source.scene.cameras) == 1
    assert source.scene.cameras[1].model.name == "PINHOLE"
    miniature.assert_reprojects(source.scene, view_of, lambda name: EXPECTED)


def test_intrinsics_per_frame(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path, {**INTRINSICS, "fl_x": 1.0}, lambda index: {"fl_x": 60.0 + index % 3})
    scene = load(AdapterOptions(tmp_path)).scene
    assert len(scene.cameras) == 3
    miniature.assert_reprojects(scene, view_of, lambda name: (60.0 + int(name[-8:-4]) % 3, *EXPECTED[1:]))


def test_field_of_view_and_image_size_stand_in_for_intrinsics(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path, {"camera_angle_x": math.radians(50)}, path="images/{:04d}")
    focal = 32 / math.tan(math.radians(25))
    miniature.assert_reprojects(load(AdapterOptions(tmp_path)).scene, view_of, lambda name: (focal, focal, 32.0, 24.0))


def test_matrices_of_three_rows_are_accepted(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path)
    edit(tmp_path / "transforms.json", lambda content: [frame["transform_matrix"].pop() for frame in content["frames"]])
    miniature.assert_reprojects(load(AdapterOptions(tmp_path)).scene, view_of, lambda name: EXPECTED)


RADIAL = {"k1": 0.05, "k2": -0.02}


@pytest.mark.parametrize(
    ("header", "model", "factor"),
    [
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.05}, "OPENCV", lambda r: 1 + 0.05 * r**2),
        ({**RADIAL, "p1": 0.0, "k3": 0.0, "k4": 0}, "OPENCV", lambda r: 1 + 0.05 * r**2 - 0.02 * r**4),
        ({**RADIAL, "k3": 0.01}, "FULL_OPENCV", lambda r: 1 + 0.05 * r**2 - 0.02 * r**4 + 0.01 * r**6),
        (
            {"camera_model": "OPENCV_FISHEYE", **RADIAL},
            "OPENCV_FISHEYE",
            lambda r: np.arctan(r) * (1 + 0.05 * np.arctan(r) ** 2 - 0.02 * np.arctan(r) ** 4) / r,
        ),
        ({"is_fisheye": True}, "OPENCV_FISHEYE", lambda r: np.arctan(r) / r),
        ({"camera_model": "SIMPLE_PINHOLE"}, "PINHOLE", lambda r: 1 + 0 * r),
    ],
)
def test_radial_distortion_is_what_the_models_define(tmp_path, miniature, write_transforms, header, model, factor):
    view_of = write_transforms(tmp_path, {**INTRINSICS, **header})
    scene = load(AdapterOptions(tmp_path)).scene
    image = scene.images[3]
    assert scene.camera(image).model.name == model
    found, _ = project(scene.camera(image), pose.transform(image.cam_from_world, miniature.points))
    ideal = view_of[image.name].pixels(miniature.points, 1, 1, 0.5, 0.5)  # normalised coordinates
    distorted = ideal * factor(np.linalg.norm(ideal, axis=1))[:, None]
    np.testing.assert_allclose(found, distorted * EXPECTED[:2] + EXPECTED[2:] - 0.5, atol=1e-3)


def test_tangential_coefficients_keep_their_order(tmp_path, write_transforms):
    write_transforms(tmp_path, {**INTRINSICS, "k1": 0.1, "k2": 0.2, "p1": 0.3, "p2": 0.4})
    assert list(load(AdapterOptions(tmp_path)).scene.cameras[1].params) == [*EXPECTED, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({**INTRINSICS, "k4": 0.1}, "k4 = 0.1"),
        ({**INTRINSICS, "camera_model": "EQUIRECTANGULAR"}, "Unknown camera_model .*EQUIRECTANGULAR"),
        ({"w": 64, "h": 48}, "neither fl_x nor camera_angle_x"),
        ({**INTRINSICS, "fl_x": "wide"}, "fl_x is 'wide'"),
        ({**INTRINSICS, "fl_x": -3}, "focal length .* must be positive"),
        ({**INTRINSICS, "w": 128, "h": 96}, "is 64x48, but its camera is for 128x96"),
    ],
)
def test_intrinsics_that_cannot_be_used(tmp_path, write_transforms, header, message):
    write_transforms(tmp_path, header)
    with pytest.raises(InputError, match=message):
        load(AdapterOptions(tmp_path))


def test_given_camera_replaces_missing_intrinsics(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path, {})
    scene = load(AdapterOptions(tmp_path, camera="PINHOLE 64 48 60 62 31 25.5")).scene
    miniature.assert_reprojects(scene, view_of, lambda name: EXPECTED)


def test_absent_images_are_dropped(tmp_path, write_transforms):
    write_transforms(tmp_path)
    (tmp_path / "images" / "0003.png").unlink()
    source = load(AdapterOptions(tmp_path))
    assert [image.name for image in source.dropped] == ["images/0003.png"] and "no such file" in source.dropped[0].reason
    assert len(source.scene.images) == 9
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="None of the 10 images"):
        load(AdapterOptions(tmp_path))


def test_images_outside_the_folder(tmp_path, miniature, write_transforms):
    view_of = write_transforms(tmp_path)
    (tmp_path / "run").mkdir()
    content = json.loads((tmp_path / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = "../" + frame["file_path"].removeprefix("./")
    content["test_filenames"] = ["../images/0005.png"]
    (tmp_path / "run" / "transforms.json").write_text(json.dumps(content))
    scene = load(AdapterOptions(tmp_path, "run")).scene
    assert scene.image_dir == tmp_path / "images" and [image.name for image in scene.split("test")] == ["0005.png"]
    miniature.assert_reprojects(scene, {name.removeprefix("images/"): view for name, view in view_of.items()}, lambda name: EXPECTED)
    (tmp_path / "run" / "0000.png").write_bytes((tmp_path / "images" / "0000.png").read_bytes())  # one inside, the others outside
    content["frames"][0]["file_path"] = "0000.png"
    (tmp_path / "run" / "transforms.json").write_text(json.dumps(content))
    scene = load(AdapterOptions(tmp_path, "run")).scene
    assert scene.image_dir == tmp_path and {"run/0000.png", "images/0005.png"} < {image.name for image in scene.images}


def test_an_image_that_is_listed_twice_is_named(tmp_path, write_transforms):
    write_transforms(tmp_path)
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"].append({**content["frames"][4], "file_path": "images/../images/0004.png"})
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"transforms.json lists images/0004.png more than once"):
        load(AdapterOptions(tmp_path))


def test_units_that_the_file_states(tmp_path, write_transforms):
    write_transforms(tmp_path, {**INTRINSICS, "units": "metres"})
    assert load(AdapterOptions(tmp_path)).scene.units == "metres"
    assert load(AdapterOptions(tmp_path, extra={"units": "arbitrary"})).scene.units == "arbitrary"
    write_transforms(tmp_path, {**INTRINSICS, "units": ["inches"]})
    assert load(AdapterOptions(tmp_path)).scene.units == "arbitrary"


def test_splits_of_the_file_and_of_the_user(tmp_path, write_transforms):
    splits = {"train_filenames": [f"./images/{i:04d}.png" for i in range(6)], "val_filenames": ["images/0006.png"]}
    write_transforms(tmp_path, {**INTRINSICS, **splits, "test_filenames": ["images/0007.png"]})
    source = load(AdapterOptions(tmp_path))
    assert [image.split for image in source.scene.images] == ["train"] * 6 + ["val", "test"]
    assert {image.name for image in source.dropped} == {"images/0008.png", "images/0009.png"}
    (tmp_path / "mine.txt").write_text("0001.png\n")
    source = load(AdapterOptions(tmp_path, list_test=tmp_path / "mine.txt"))
    assert [image.name for image in source.scene.split("test")] == ["images/0001.png"]


def test_default_split_and_provenance(tmp_path, write_transforms):
    write_transforms(tmp_path, {**INTRINSICS, "applied_scale": 0.5})
    source = load(AdapterOptions(tmp_path, extra={"units": "metres"}))
    assert [image.name for image in source.scene.split("test")] == ["images/0000.png", "images/0008.png"]
    assert source.scene.provenance["applied_scale"] == 0.5 and source.scene.units == "metres"


BAD_MATRICES = [None, [[1, 2], [3, 4]], "identity", np.diag([2.0, 2, 2, 1]).tolist(), [[math.nan] * 4] * 4, [[1], [1, 2]]]


@pytest.mark.parametrize("matrix", BAD_MATRICES)
def test_bad_matrices_are_named(tmp_path, write_transforms, matrix):
    write_transforms(tmp_path, frame=lambda index: {"transform_matrix": matrix} if index == 4 else {})
    with pytest.raises(FormatError, match="frame ./images/0004.png: transform_matrix is not a pose"):
        load(AdapterOptions(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"frames": []}', '{"frames": [{"path": "a"}]}', '{"frames": {"file_path": "a"}}'])
def test_malformed_files_are_named(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(FormatError, match="transforms.json"):
        load(AdapterOptions(tmp_path))


def test_missing_file(tmp_path):
    (tmp_path / "fox").mkdir()
    with pytest.raises(InputError, match="fox is empty"):
        load(AdapterOptions(tmp_path, "fox"))
    with pytest.raises(MissingFileError, match="Scene 'wolf' was not found"):
        load(AdapterOptions(tmp_path, "wolf"))
