"""The camera of a frame: named, of the mapping images, scaled, or from EXIF."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from d2s.geometry.camera import format_camera, parse_camera, project, unproject
from d2s.localization.cameras import CameraChooser, scaled, turned

VGA = "SIMPLE_RADIAL 640 480 520.0 322.3 236.8 -0.05"
OTHER = "SIMPLE_RADIAL 640 480 700.0 320.0 240.0 0.0"
WIDE = "OPENCV 1920 1080 1500.0 1510.0 960.0 540.0 0.1 0.0 0.0 0.0"


def photo(path, size, focal_35mm=None):
    exif = Image.Exif()
    if focal_35mm is not None:
        exif[0xA405] = focal_35mm
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path, exif=exif)
    return path


def test_the_named_camera_is_taken_whatever_the_others_are():
    assert format_camera(CameraChooser(parse_camera(OTHER), [VGA, WIDE]).choose((640, 480))) == OTHER


def test_a_mapping_camera_of_the_same_size(caplog):
    chooser = CameraChooser(None, [VGA, VGA, WIDE])
    assert format_camera(chooser.choose((640, 480))) == VGA and format_camera(chooser.choose((1920, 1080))) == WIDE
    assert not caplog.records, "nothing to say about the obvious"


@pytest.mark.parametrize("size", [(320, 240), (1280, 960), (213, 160), (500, 375)])
def test_a_mapping_camera_scaled_and_said_once(caplog, size):
    chooser = CameraChooser(None, [VGA])
    camera = chooser.choose(size)
    again = chooser.choose(size)
    assert (camera.width, camera.height) == size == (again.width, again.height)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "scaled from 640x480" in caplog.text and f"{size[0]}x{size[1]}" in caplog.text
    original = parse_camera(VGA)
    rays = np.column_stack([unproject(original, [[10.0, 20.0], [600.0, 400.0]]), [1, 1]])
    here = project(camera, rays)[0]
    expected = (np.array([[10.0, 20.0], [600.0, 400.0]]) + 0.5) * [size[0] / 640, size[1] / 480] - 0.5
    np.testing.assert_allclose(here, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("known", "size"),
    [
        ([VGA], (640, 360)),
        ([], (640, 480)),
        ([VGA, OTHER], (640, 480)),
        ([VGA, OTHER], (320, 240)),
        ([f"SIMPLE_RADIAL {640 + i} 480 {500 + 50 * i} 320 240 0" for i in range(5)], (640, 480)),  # a collection of photos by anybody
    ],
)
def test_no_or_no_single_camera_is_unknown_and_said_once(caplog, known, size):
    chooser = CameraChooser(None, known)
    assert chooser.choose(size) is None and chooser.choose(size) is None
    assert "estimated" in caplog.text and len(caplog.records) == 1


@pytest.mark.parametrize("known", [VGA, "OPENCV 640 480 520 515 322 236 -0.05 0.01 0.001 0.002", "PINHOLE 640 480 520 515 320 240"])
def test_a_mapping_camera_turned_by_a_quarter(caplog, known):
    """Turned to either side, a pixel's place differs by no more than what is not symmetric in the camera."""
    camera, original = CameraChooser(None, [known]).choose((480, 640)), parse_camera(known)
    assert (camera.width, camera.height) == (480, 640) and "turned from 640x480" in caplog.text
    rays = np.array([[0.3, 0.2, 1.0], [-0.4, 0.1, 1.0], [0.0, 0.0, 1.0]])
    center = np.array([original.principal_point_x - 320, original.principal_point_y - 240])
    for sign in (1, -1):
        turn = np.array([[0, -sign, 0], [sign, 0, 0], [0, 0, 1.0]])
        there, here = project(original, rays)[0] - [319.5, 239.5], project(camera, rays @ turn.T)[0] - [239.5, 319.5]
        np.testing.assert_allclose(here, (there - center) @ turn[:2, :2].T, atol=1.0)
    again = turned(camera)
    assert (again.width, again.height) == (640, 480) and again.mean_focal_length() == original.mean_focal_length()


def test_the_middle_of_cameras_calibrated_photo_by_photo(caplog):
    focal = [1101.6, 1155.3, 1117.0, 1109.0, 1130.5, 1120.0, 1104.0]
    known = [f"SIMPLE_RADIAL 720 1280 {value} 360.0 640.0 {value / 1e5:.4f}" for value in focal]
    chooser = CameraChooser(None, [*known, WIDE])
    assert chooser.choose((720, 1280)).params[0] == 1117.0 and chooser.choose((360, 640)).params[0] == 558.5
    assert "the middle one of the 7 there" in caplog.text
    assert chooser.choose((1920, 1080)).model.name == "OPENCV"
    another_lens = CameraChooser(None, [*known, "SIMPLE_RADIAL 720 1280 1300.0 360.0 640.0 0.0"])
    assert another_lens.choose((720, 1280)) is None and CameraChooser(None, known[:4]).choose((720, 1280)) is None  # or four telephones


def test_exif_decides_among_mapping_cameras(tmp_path):
    chooser = CameraChooser(None, [VGA, OTHER])
    for focal, expected in ((28, VGA), (38, OTHER)):  # 43.27 mm are the 800 pixels of the diagonal
        assert format_camera(chooser.choose((640, 480), photo(tmp_path / f"{focal}.jpg", (640, 480), focal))) == expected


def test_exif_of_another_lens_gives_a_camera_of_its_own(tmp_path, caplog):
    camera = CameraChooser(None, [VGA]).choose((640, 480), photo(tmp_path / "tele.jpg", (640, 480), 85))
    assert camera.model.name == "SIMPLE_PINHOLE" and camera.mean_focal_length() == pytest.approx(85 / 43.2666 * 800, rel=1e-3)
    assert "from EXIF" in caplog.text
    portrait = CameraChooser(None, [VGA]).choose((300, 400), photo(tmp_path / "portrait.jpg", (300, 400), 28))
    assert (portrait.width, portrait.height) == (300, 400)


def test_exif_that_the_mapping_photos_have_too_means_their_camera_even_where_it_is_wrong(tmp_path, caplog):
    named = 35 / 43.2666 * 800  # 647 pixels, and the map was made with 520
    chooser = CameraChooser(None, [VGA, OTHER], {VGA: named})
    assert format_camera(chooser.choose((640, 480), photo(tmp_path / "same.jpg", (640, 480), 35))) == VGA
    assert not caplog.records
    assert chooser.choose((320, 240), photo(tmp_path / "small.jpg", (320, 240), 35)).mean_focal_length() == 260
    assert chooser.choose((640, 480), photo(tmp_path / "tele.jpg", (640, 480), 85)).mean_focal_length() > 1500
    assert format_camera(CameraChooser(None, [VGA, OTHER]).choose((640, 480), tmp_path / "same.jpg")) == OTHER


def test_a_photo_without_exif_is_as_any_image(tmp_path):
    assert format_camera(CameraChooser(None, [VGA]).choose((640, 480), photo(tmp_path / "a.jpg", (640, 480)))) == VGA


def test_scaling_there_and_back():
    camera = scaled(scaled(parse_camera(WIDE), (960, 540)), (1920, 1080))
    np.testing.assert_allclose(camera.params, parse_camera(WIDE).params, rtol=1e-12)
