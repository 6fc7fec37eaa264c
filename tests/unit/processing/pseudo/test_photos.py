from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import ExifTags, Image

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.pseudo.photos import PhotoOptions, camera_of_size, find_photos, read_pairs


def save(path, size=(64, 48), focal=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if focal is not None:
        exif[ExifTags.Base.FocalLengthIn35mmFilm] = focal
    Image.new("RGB", size).save(path, exif=exif)


@pytest.fixture
def scene(tmp_path):
    """Six images of three cameras; beside them two photos that no split uses, and a depth image."""
    folder = tmp_path / "images"
    for name in ("a.jpg", "b.jpg", "c.jpg", "v.jpg", "t.jpg", "sub/x.jpg", "sub/y.jpg", "sub/y.depth.png"):
        save(folder / name)
    save(folder / "wide.jpg", (96, 48))
    focals = {1: (64, 48, 60.0), 2: (64, 48, 62.0), 3: (96, 48, 90.0)}
    cameras = {i: make_camera("SIMPLE_PINHOLE", w, h, [f, w / 2, h / 2]) for i, (w, h, f) in focals.items()}
    train = [("a.jpg", 1), ("b.jpg", 2), ("c.jpg", 2), ("wide.jpg", 3)]
    used = [*((name, camera, "train") for name, camera in train), ("v.jpg", 1, "val"), ("t.jpg", 1, "test")]
    return Scene("made", "x", folder, cameras, tuple(SceneImage(n, c, np.eye(3, 4), s) for n, c, s in used))


def names(found):
    return [image.name for image in found.images]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_photos_that_no_split_uses_are_taken_by_default(scene):
    found, dropped = find_photos(scene, PhotoOptions())
    assert names(found) == ["sub/x.jpg", "sub/y.jpg"]
    assert dropped == ()
    assert all(image.cam_from_world is None for image in found.images)


def test_scene_without_further_photos_is_an_error(scene):
    scene = scene.with_images([*scene.images, *(SceneImage(f"sub/{n}.jpg", 1, None, "test") for n in "xy")])
    with pytest.raises(InputError, match="every photo is in use already.*--unlabel_dir"):
        find_photos(scene, PhotoOptions())


def test_other_folder_may_hold_photos_of_the_same_names(scene, tmp_path):
    save(tmp_path / "other" / "a.jpg")
    found, _ = find_photos(scene, PhotoOptions(folder=tmp_path / "other"))
    assert names(found) == ["a.jpg"]
    assert found.path(found.images[0]) == tmp_path / "other" / "a.jpg"
    with pytest.raises(MissingFileError, match="nowhere is not a folder"):
        find_photos(scene, PhotoOptions(folder=tmp_path / "nowhere"))


def test_list_names_the_photos_and_training_images_are_refused(scene, tmp_path, caplog):
    found, _ = find_photos(scene, PhotoOptions(names=write(tmp_path / "l.txt", "sub/y.jpg", "sub/y.jpg")))
    assert names(found) == ["sub/y.jpg"]
    with pytest.raises(InputError, match="training images, which have labels already: a.jpg"):
        find_photos(scene, PhotoOptions(names=write(tmp_path / "l.txt", "sub/y.jpg", "a.jpg")))
    with pytest.raises(InputError, match="unknown images: z.jpg"):
        find_photos(scene, PhotoOptions(names=write(tmp_path / "l.txt", "z.jpg")))
    with caplog.at_level(logging.WARNING):
        assert names(find_photos(scene, PhotoOptions(names=write(tmp_path / "l.txt", "t.jpg")))[0]) == ["t.jpg"]
    assert "1 of the photos" in caplog.text
    assert "spoils the evaluation" in caplog.text


def test_camera_is_that_of_the_scenes_images_of_the_same_size(scene):
    assert camera_of_size(scene, (96, 48)).params[0] == 90
    assert camera_of_size(scene, (64, 48)).params[0] == 62  # the median over images, not over cameras
    assert camera_of_size(scene, (48, 64)) is None


def test_camera_comes_from_list_then_option_then_scene_then_exif(scene, tmp_path):
    folder = tmp_path / "other"
    save(folder / "alike.jpg")
    save(folder / "exif.jpg", (80, 60), focal=36)
    save(folder / "unknown.jpg", (80, 60))
    (folder / "broken.jpg").write_bytes(b"no image")
    found, dropped = find_photos(scene, PhotoOptions(folder=folder))
    focal = {image.name: found.camera(image).mean_focal_length() for image in found.images}
    assert focal == {"alike.jpg": 62, "exif.jpg": pytest.approx(36 / np.hypot(36, 24) * 100)}
    assert {image.name: image.reason.split(":")[0] for image in dropped} == {"broken.jpg": "unreadable", "unknown.jpg": "unknown camera"}
    listed = write(tmp_path / "l.txt", "# photos", "unknown.png SIMPLE_PINHOLE 80 60 77 40 30", "exif.jpg", "alike.jpg")
    options = PhotoOptions(folder=folder, names=listed, camera="SIMPLE_PINHOLE 80 60 88 40 30")
    found, dropped = find_photos(scene, options)
    assert {image.name: found.camera(image).params[0] for image in found.images} == {"unknown.jpg": 77, "exif.jpg": 88}
    assert [(image.name, "64x48" in image.reason) for image in dropped] == [("alike.jpg", True)]


def test_no_usable_photo_is_an_error_that_tells_of_the_first(scene, tmp_path):
    save(tmp_path / "other" / "u.jpg", (80, 60))
    with pytest.raises(InputError, match="None of the 1 photos .* u.jpg: unknown camera.*--unlabel_camera"):
        find_photos(scene, PhotoOptions(folder=tmp_path / "other"))


def test_pairs_in_the_files_order_without_strangers_and_repetition(tmp_path):
    path = write(tmp_path / "pairs.txt", "q1 b", "q1 a", "q1 b", "q2 stranger", "other a", "")
    assert read_pairs(path, ["q1", "q2"], ["a", "b"]) == {"q1": ["b", "a"], "q2": []}


@pytest.mark.parametrize(("lines", "expected"), [(["q1 a b"], r":1 is 'q1 a b'"), (["x y"], "A pair would be: q1 a")])
def test_pairs_that_mean_nothing_are_an_error(tmp_path, lines, expected):
    with pytest.raises(FormatError, match=expected):
        read_pairs(write(tmp_path / "pairs.txt", *lines), ["q1"], ["a"])
    with pytest.raises(MissingFileError):
        read_pairs(tmp_path / "none.txt", ["q1"], ["a"])
