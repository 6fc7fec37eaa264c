from __future__ import annotations

import logging
import math

import pytest
from PIL import ExifTags, Image

from d2s.errors import FormatError, InputError
from processing.adapters.base import AdapterOptions
from processing.adapters.photos import load

Tag = ExifTags.Base


def exif(**tags) -> Image.Exif:
    """EXIF data with tags of the main and of the Exif folder, as cameras write them."""
    data = Image.Exif()
    for name, value in tags.items():
        if name in ("Make", "Model", "Orientation"):
            data[Tag[name]] = value
        else:
            data.get_ifd(ExifTags.IFD.Exif)[Tag[name]] = value
    return data


def test_photos_without_exif_get_one_guessed_camera_per_size(tmp_path, write_image):
    for index in range(9):
        write_image(tmp_path / "yard" / f"{index}.jpg", (80, 60))
    write_image(tmp_path / "yard" / "tall.png", (60, 80))
    source = load(AdapterOptions(tmp_path, "yard"))
    assert not source.poses_known and source.refine_cameras and source.scene.units == "arbitrary" and source.scene.name == "yard"
    assert all(image.cam_from_world is None for image in source.scene.images)
    cameras = {image.name: source.scene.camera(image) for image in source.scene.images}
    assert cameras["0.jpg"].model.name == "SIMPLE_RADIAL" and list(cameras["0.jpg"].params) == [96.0, 40.0, 30.0, 0.0]
    assert list(cameras["tall.png"].params) == [96.0, 30.0, 40.0, 0.0]
    assert len(source.scene.cameras) == 2
    assert [image.name for image in source.scene.split("test")] == ["0.jpg", "8.jpg"]


def test_every_format_in_any_case_and_below_but_nothing_hidden(tmp_path, write_image):
    names = ["a.jpg", "b.JPEG", "c.PNG", "d.tif", "sub/e.TIFF", "sub/deep/f.webp", "sub/a.bmp"]
    for name in [*names, ".hidden.jpg", ".thumbnails/a.jpg", "__MACOSX/a.jpg"]:
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    assert [image.name for image in load(AdapterOptions(tmp_path)).scene.images] == sorted(names)


def test_links_are_followed_but_not_in_circles(tmp_path, write_image):
    write_image(tmp_path / "elsewhere" / "a.jpg")
    write_image(tmp_path / "place" / "b.jpg")
    (tmp_path / "place" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "place")
    assert [image.name for image in load(AdapterOptions(tmp_path / "place")).scene.images] == ["b.jpg", "linked/a.jpg"]


def focal_of(tmp_path, write_image, size=(400, 300), **tags) -> float | None:
    """The focal length read from a photo's EXIF data; None when it was guessed."""
    write_image(tmp_path / "a.jpg", size, exif=exif(**tags))
    write_image(tmp_path / "b.jpg", size, exif=exif(**tags))
    source = load(AdapterOptions(tmp_path))
    (camera,) = source.scene.cameras.values()
    return None if source.scene.provenance["intrinsics"]["1"].startswith("guess") else float(camera.params[0])


DIAGONAL = math.hypot(36, 24)


def test_focal_length_of_the_35mm_equivalent_compares_diagonals(tmp_path, write_image):
    assert focal_of(tmp_path, write_image, FocalLengthIn35mmFilm=28) == pytest.approx(28 / DIAGONAL * 500, abs=0.1)


def test_resized_photo_has_a_resized_focal_length(tmp_path, write_image):
    tags = {"FocalLength": 5.0, "FocalPlaneXResolution": 400.0, "FocalPlaneResolutionUnit": 4}  # 2000 px at 4000x3000
    assert focal_of(tmp_path, write_image, ExifImageWidth=4000, ExifImageHeight=3000, **tags) == pytest.approx(200, abs=0.1)


@pytest.mark.parametrize(("unit", "resolution"), [(None, 1524.0), (2, 1524.0), (3, 600.0), (4, 60.0), (5, 0.06)])
def test_focal_length_of_the_sensors_resolution(tmp_path, write_image, unit, resolution):
    tags = {"FocalLength": 5.0, "FocalPlaneXResolution": resolution} | ({} if unit is None else {"FocalPlaneResolutionUnit": unit})
    assert focal_of(tmp_path, write_image, **tags) == pytest.approx(300, abs=0.1)


def test_turned_photo_is_taken_as_stored(tmp_path, write_image):
    """The orientation tag changes nothing; a photo that was turned for good has its recorded sides the other way round."""
    tags = {"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 400, "ExifImageHeight": 300}
    assert focal_of(tmp_path, write_image, Orientation=6, **tags) == pytest.approx(28 / DIAGONAL * 500, abs=0.1)
    assert focal_of(tmp_path, write_image, size=(300, 400), **tags) == pytest.approx(28 / DIAGONAL * 500, abs=0.1)


def test_cropped_photo_does_not_trust_its_tags(tmp_path, write_image):
    assert focal_of(tmp_path, write_image, FocalLengthIn35mmFilm=28, ExifImageWidth=4000, ExifImageHeight=2250) is None


@pytest.mark.parametrize("tags", [{"FocalLengthIn35mmFilm": 0}, {"FocalLengthIn35mmFilm": 60000}, {"FocalLength": 5.0}])
def test_implausible_tags_are_ignored(tmp_path, write_image, tags):
    assert focal_of(tmp_path, write_image, **tags) is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_refuse_a_photo(tmp_path, write_image):
    write_image(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    write_image(tmp_path / "b.jpg")
    assert len(load(AdapterOptions(tmp_path)).scene.cameras) == 1


def test_devices_and_zooms_have_cameras_of_their_own(tmp_path, write_image):
    for name, model, focal in [("a", "One", 28), ("b", "One", 28), ("c", "One", 50), ("d", "Two", 28)]:
        write_image(tmp_path / f"{name}.jpg", exif=exif(Make="Maker", Model=model, FocalLengthIn35mmFilm=focal))
    scene = load(AdapterOptions(tmp_path)).scene
    ids = {image.name[0]: image.camera_id for image in scene.images}
    assert ids["a"] == ids["b"] and len({ids["a"], ids["c"], ids["d"]}) == 3
    assert scene.provenance["intrinsics"][str(ids["d"])] == "EXIF (Maker Two)"


def test_given_camera_is_for_all_and_is_kept(tmp_path, write_image):
    write_image(tmp_path / "a.jpg", exif=exif(FocalLengthIn35mmFilm=28))
    write_image(tmp_path / "b.jpg")
    source = load(AdapterOptions(tmp_path, camera="OPENCV 64 48 50 51 32 24 0.1 0 0 0"))
    assert not source.refine_cameras and not source.poses_known
    assert [list(camera.params) for camera in source.scene.cameras.values()] == [[50, 51, 32, 24, 0.1, 0, 0, 0]]
    write_image(tmp_path / "c.jpg", (48, 64))
    with pytest.raises(InputError, match="c.jpg is 48x64, but its camera is for 64x48"):
        load(AdapterOptions(tmp_path, camera="OPENCV 64 48 50 51 32 24 0.1 0 0 0"))


@pytest.mark.parametrize("camera", ["", "PINHOLE", "PINHOLE 64 48 x 1 1 1", "LENS 64 48 1 1 1 1", "PINHOLE 64 48 0 50 32 24"])
def test_bad_camera_strings(tmp_path, write_image, camera):
    write_image(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="amera"):
        load(AdapterOptions(tmp_path, camera=camera))


def test_heic_photos_are_named_with_a_remedy(tmp_path, write_image, caplog):
    for name in ("IMG_1.HEIC", "IMG_2.heic"):
        (tmp_path / name).write_bytes(b"heic")
    with pytest.raises(InputError, match="IMG_1.HEIC, IMG_2.heic. Convert them to JPEG"):
        load(AdapterOptions(tmp_path))
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    with caplog.at_level(logging.WARNING):
        source = load(AdapterOptions(tmp_path))
    assert [image.name for image in source.dropped] == ["IMG_1.HEIC", "IMG_2.heic"] and "IMG_1.HEIC" in caplog.text


def test_list_names_the_queries(tmp_path, write_image):
    for index in range(4):
        write_image(tmp_path / "photos" / f"{index}.jpg")
    (tmp_path / "queries.txt").write_text("3.jpg\n")
    source = load(AdapterOptions(tmp_path / "photos", list_test=tmp_path / "queries.txt"))
    assert [image.name for image in source.scene.split("test")] == ["3.jpg"]
    (tmp_path / "queries.txt").write_text("3.jpg\n9.jpg\n")
    with pytest.raises(InputError, match=r"unknown images: 9.jpg \(.*queries.txt:2\)"):
        load(AdapterOptions(tmp_path / "photos", list_test=tmp_path / "queries.txt"))


def test_scene_name_may_be_a_label_or_a_folder_but_never_both(tmp_path, write_image):
    write_image(tmp_path / "kitchen" / "a.jpg")
    write_image(tmp_path / "kitchen" / "b.jpg")
    write_image(tmp_path / "hall" / "c.jpg")
    assert len(load(AdapterOptions(tmp_path, "kitchen")).scene.images) == 2
    labelled = load(AdapterOptions(tmp_path / "kitchen", "my place")).scene
    assert labelled.name == "my place" and len(labelled.images) == 2
    with pytest.raises(InputError, match="Scene 'kichen' was not found.*hall, kitchen"):
        load(AdapterOptions(tmp_path, "kichen"))


def test_nothing_to_read(tmp_path, write_image):
    with pytest.raises(InputError, match="is empty"):
        load(AdapterOptions(tmp_path))
    write_image(tmp_path / "only.jpg")
    with pytest.raises(InputError, match="No training image is left"):
        load(AdapterOptions(tmp_path))
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(FormatError, match="broken.jpg is not an image"):
        load(AdapterOptions(tmp_path))
