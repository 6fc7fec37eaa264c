from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import make_camera, project
from processing.adapters.sfm_layout import find_model, match_to_files, read_frames, require_model, scale_camera


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["Kings/a/1.png", "Kings/b/1.png"], ["a/1.png", "b/1.png", "c/1.png"], ["a/1.png", "b/1.png"]),
        (["x/y/a/1.jpg", "x/y/b/1.jpg"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["a\\1.png", "./b/1.png"], ["a/1.png", "b/1.png"], ["a/1.png", "b/1.png"]),
        (["a/1.png", "gone/1.png"], ["a/1.png", "1.png"], ["a/1.png", None]),
        (["a/1.png", "b/1.png"], ["1.png"], [None, None]),
        (["a/1.gif"], ["a/1.png", "a/1.jpg"], [None]),
        (["a/1.jpg"], ["a/1.png", "a/1.jpg"], ["a/1.jpg"]),
    ],
)
def test_names_lead_to_files_of_their_own(names, files, expected):
    found = match_to_files(names, files)
    assert [found.get(name) for name in names] == expected


@pytest.mark.parametrize("size", [(1920, 1080), (512, 288), (1921, 1080), (1024, 577)])
@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"])
def test_scaled_cameras_see_points_where_resizing_puts_them(size, model):
    params = {"PINHOLE": [800, 810, 500, 280], "OPENCV": [800, 810, 500, 280, -0.1, 0.02, 0.001, -0.002]}
    single = [800, 500, 280, -0.1, 0.02][: {"SIMPLE_PINHOLE": 3, "SIMPLE_RADIAL": 4, "RADIAL": 5}.get(model, 0)]
    camera = make_camera(model, 1024, 576, params.get(model, single), 4)
    scaled = scale_camera(camera, size, Path("image.png"))
    points = np.random.default_rng(1).uniform([-1, -0.5, 2], [1, 0.5, 3], (50, 3))
    before, _ = project(camera, points)
    after, _ = project(scaled, points)
    corner = (before + 0.5) * (np.array(size) / [1024, 576])  # resizing maps the corners of the image to corners
    np.testing.assert_allclose(after, corner - 0.5, atol=1e-9)
    assert (scaled.width, scaled.height, scaled.camera_id) == (*size, 4)


def test_other_shapes_are_refused():
    camera = make_camera("SIMPLE_RADIAL", 1024, 576, [800, 512, 288, 0.1])
    with pytest.raises(InputError, match=r"seq1/a.png is 576x1024, but its camera is for 1024x576 images, which have another shape"):
        scale_camera(camera, (576, 1024), Path("seq1/a.png"))
    fisheye = make_camera("SIMPLE_RADIAL_FISHEYE", 1024, 576, [800, 512, 288, 0.1])
    with pytest.raises(InputError, match="SIMPLE_RADIAL_FISHEYE camera is scaled evenly only"):
        scale_camera(fisheye, (1921, 1080), Path("a.png"))


def test_one_camera_for_images_of_two_sizes(tmp_path, miniature, write_image, write_sfm_model, assert_radial, radial):
    camera = radial((1024, 576), (800.0, 500.0, 280.0, -0.08))
    views = dict(zip(["a/1.png", "a/2.png", "b/1.png"], miniature.views, strict=False))
    write_sfm_model(tmp_path / "model", {9: camera}, {name: (9, view) for name, view in views.items()})
    for name, size in zip(views, [(1024, 576), (512, 288), (1024, 576)], strict=True):
        write_image(tmp_path / "images" / name, size)
    found = read_frames(tmp_path / "model", [tmp_path / "nothing", tmp_path / "images"])
    assert found.image_dir == tmp_path / "images" and not found.dropped
    assert {(c.width, c.height) for c in found.cameras.values()} == {(1024, 576), (512, 288)} and len(found.cameras) == 2
    ids = {frame.name: frame.camera_id for frame in found.frames}
    assert ids["a/1.png"] == ids["b/1.png"] == 9 != ids["a/2.png"]
    assert all(found.cameras[i].camera_id == i for i in found.cameras)


def test_what_model_or_disk_lack_is_dropped_and_lists_follow_the_files(tmp_path, miniature, write_image, write_sfm_model, radial):
    camera = radial((64, 48), (60.0, 32.0, 24.0, 0.0))
    views = dict(zip(["K/a/1.jpg", "K/b/1.jpg", "K/c/1.jpg"], miniature.views, strict=False))
    write_sfm_model(tmp_path / "model", {3: camera}, {name: (3, view) for name, view in views.items()}, "old bin")
    for name in ("a/1.png", "b/1.png", "d/1.png"):
        write_image(tmp_path / "images" / name)
    (tmp_path / "list_test.txt").write_text("K/b/1.jpg\nK/c/1.jpg\n")
    found = read_frames(tmp_path / "model", [tmp_path / "images"])
    assert [frame.name for frame in found.frames] == ["a/1.png", "b/1.png"]
    reasons = {image.name: image.reason for image in found.dropped}
    assert set(reasons) == {"K/c/1.jpg", "d/1.png"}
    assert "not in" in reasons["K/c/1.jpg"] and "not in the COLMAP model" in reasons["d/1.png"]
    lists = found.lists({"test": tmp_path / "list_test.txt", "val": tmp_path / "list_val.txt"})
    assert lists["test"].names == ("b/1.png", "K/c/1.jpg") and set(lists) == {"test"}


def test_errors_name_the_folder(tmp_path, miniature, write_sfm_model, radial):
    with pytest.raises(MissingFileError, match=r"no test model \(images.bin or images.txt\) in .*/one and .*/two. Get it."):
        require_model([tmp_path / "one", tmp_path / "two"], "test model", "Get it.")
    camera = radial((64, 48), (60.0, 32.0, 24.0, 0.0))
    write_sfm_model(tmp_path / "model", {3: camera}, {"a.png": (3, miniature.views[0])})
    assert find_model([tmp_path, tmp_path / "model"]) == tmp_path / "model"
    with pytest.raises(InputError, match=r"None of the 1 images of the model in .*model exists in .*here \(the first: a.png\)"):
        read_frames(tmp_path / "model", [tmp_path / "here"])
    (tmp_path / "model" / "images.bin").write_bytes(b"\x01\x00")
    with pytest.raises(FormatError, match="model cannot be read"):
        read_frames(tmp_path / "model", [tmp_path / "here"])
