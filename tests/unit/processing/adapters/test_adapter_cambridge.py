from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from d2s.commands.folders import dataset_name
from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from processing.adapters.base import AdapterOptions
from processing.adapters.cambridge import load

RETRIANGULATED = "CambridgeLandmarks_Colmap_Retriangulated_1024px"
HEADING = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
SIZE = (192, 108)
MODEL_SIZE = (102, 57)  # not exactly the shape of the images: the factors differ per axis


def pose_line(name, view):
    qvec, _ = pose.to_qvec_tvec(np.linalg.inv(view.world_from_cam)[:3])
    return f"{name} {' '.join(repr(float(v)) for v in (*view.center, *(3 * qvec)))}"  # quaternions need not have length 1


@pytest.fixture
def write_scene(miniature, write_image):
    """Writes SCENE with seq1 and seq2, which share file names, and its lists of poses (seq2 are queries); gives the view of every image."""

    def write(folder, size=SIZE, suffix="png", lists=True):
        views = {f"seq{1 + i // 6}/frame{1 + i % 6:05d}.{suffix}": view for i, view in enumerate(miniature.views)}
        for name in views:
            write_image(folder / name, size)
        for split, sequence in (("train", "seq1/"), ("test", "seq2/")):
            lines = [pose_line(name, view) for name, view in views.items() if name.startswith(sequence)]
            if lists:
                (folder / f"dataset_{split}.txt").write_text(HEADING + "\n".join(lines) + "\n")
        return views

    return write


@pytest.fixture
def write_models(radial, write_sfm_model):
    """Writes the retriangulated model of the views: one camera per image, camera ids in another order than images and image ids."""

    def write(folder, views, kind="txt", rename=lambda name: name):
        cameras = {
            900 - 13 * i: radial(MODEL_SIZE, (90.0 + 2 * i, 51.0 + i / 10, 28.5 - i / 10, -0.08 + i / 100)) for i in range(len(views))
        }
        camera_of = dict(zip(views, list(cameras)[3:] + list(cameras)[:3], strict=True))
        images = {rename(name): (camera_of[name], view) for name, view in views.items()}
        write_sfm_model(folder / "empty_all", cameras, images, kind)
        train = {name: entry for name, entry in images.items() if "seq1/" in name}
        renumbered = dict(zip(sorted(cameras), cameras.values(), strict=True))  # model_train has ids of its own, which must not be mixed in
        write_sfm_model(folder / "model_train", renumbered, train, "bin")
        (folder / "list_query.txt").write_text("\n".join(name for name in images if "seq2/" in name) + "\n")
        return {name: cameras[index] for name, index in camera_of.items()}

    return write


def splits(scene):
    return {(image.name[:4], image.split) for image in scene.images}


@pytest.mark.parametrize("kind", ["txt", "bin", "old bin"])
@pytest.mark.parametrize(("root", "inside"), [("Cambridge", False), ("cambridge", True)])
@pytest.mark.parametrize("gt", ["original", "sfm"])
def test_every_image_has_its_own_scaled_camera(tmp_path, write_scene, write_models, assert_radial, kind, root, inside, gt):
    views = write_scene(tmp_path / root / "KingsCollege")
    cameras = write_models(tmp_path / root / RETRIANGULATED / "KingsCollege", views, kind)
    source = load(AdapterOptions(tmp_path / root if inside else tmp_path, "KingsCollege", gt=gt))
    assert len(source.scene.cameras) == len(views) and not source.dropped and source.scene.units == "metres"
    assert_radial(source.scene, views, cameras)
    assert splits(source.scene) == {("seq1", "train"), ("seq2", "test")}
    assert "KingsCollege/empty_all" in source.scene.provenance["intrinsics"]
    assert ("dataset_train.txt" in source.scene.provenance["poses"]) == (gt == "original")


@pytest.mark.parametrize(
    "rename", [lambda n: n.replace("png", "jpg"), lambda n: f"KingsCollege/{n}", lambda n: f"images/KingsCollege/{n.replace('png', 'JPG')}"]
)
@pytest.mark.parametrize("gt", ["original", "sfm"])
def test_model_names_with_other_extensions_and_prefixes(tmp_path, write_scene, write_models, assert_radial, rename, gt):
    views = write_scene(tmp_path / "KingsCollege")
    cameras = write_models(tmp_path / RETRIANGULATED / "KingsCollege", views, rename=rename)
    source = load(AdapterOptions(tmp_path, "KingsCollege", gt=gt))
    assert_radial(source.scene, views, cameras)
    assert splits(source.scene) == {("seq1", "train"), ("seq2", "test")}


def test_images_of_several_sizes_and_both_shapes(tmp_path, write_scene, write_models, assert_radial):
    views = write_scene(tmp_path / "KingsCollege")
    cameras = write_models(tmp_path / RETRIANGULATED / "KingsCollege", views)
    Image.new("RGB", (384, 216)).save(tmp_path / "KingsCollege" / "seq1" / "frame00002.png")
    assert_radial(load(AdapterOptions(tmp_path, "KingsCollege")).scene, views, cameras)
    Image.new("RGB", (108, 192)).save(tmp_path / "KingsCollege" / "seq1" / "frame00003.png")
    with pytest.raises(InputError, match=r"seq1/frame00003.png is 108x192, but its camera is for 102x57 images"):
        load(AdapterOptions(tmp_path, "KingsCollege"))


def test_given_camera_makes_the_models_cameras_irrelevant(tmp_path, miniature, write_scene, write_models):
    views = write_scene(tmp_path / "KingsCollege", (108, 192))
    write_models(tmp_path / RETRIANGULATED / "KingsCollege", views)
    scene = load(AdapterOptions(tmp_path, "KingsCollege", gt="sfm", camera="PINHOLE 108 192 150 151 55 95")).scene
    miniature.assert_reprojects(scene, views, lambda name: (150.0, 151.0, 55.0, 95.0))


def test_models_alone_are_enough(tmp_path, write_scene, write_models, assert_radial):
    views = write_scene(tmp_path / "KingsCollege", lists=False)
    cameras = write_models(tmp_path / RETRIANGULATED / "KingsCollege", views)
    scene = load(AdapterOptions(tmp_path, "KingsCollege")).scene
    assert_radial(scene, views, cameras)
    assert splits(scene) == {("seq1", "train"), ("seq2", "test")} and "empty_all" in scene.provenance["poses"]


@pytest.mark.parametrize("part", ["", "empty_all"])
def test_gt_file_names_the_models(tmp_path, write_scene, write_models, assert_radial, part):
    views = write_scene(tmp_path / "Cambridge" / "KingsCollege")
    cameras = write_models(tmp_path / "elsewhere", views)
    options = AdapterOptions(tmp_path, "KingsCollege", gt="sfm", gt_file=tmp_path / "elsewhere" / part)
    assert_radial(load(options).scene, views, cameras)


def test_given_camera_wins_and_default_focal_is_said(tmp_path, miniature, write_scene, write_models, caplog):
    views = write_scene(tmp_path / "KingsCollege", suffix="jpg")
    for path in (tmp_path / "KingsCollege").glob("dataset_*.txt"):
        path.write_text(path.read_text().replace(".jpg", ".png"))
    with caplog.at_level(logging.WARNING):
        scene = load(AdapterOptions(tmp_path, "KingsCollege")).scene
    miniature.assert_reprojects(scene, views, lambda name: (167.0, 167.0, 96.0, 54.0))
    assert "1670 px per 1920 px" in caplog.text and "default focal length" in scene.provenance["intrinsics"]
    assert splits(scene) == {("seq1", "train"), ("seq2", "test")}
    write_models(tmp_path / RETRIANGULATED / "KingsCollege", views)
    camera = "PINHOLE 192 108 150 151 95 55"
    for gt in ("original", "sfm"):
        scene = load(AdapterOptions(tmp_path, "KingsCollege", gt=gt, camera=camera)).scene
        miniature.assert_reprojects(scene, views, lambda name: (150.0, 151.0, 95.0, 55.0))
        assert scene.provenance["intrinsics"] == "--camera"


def test_images_that_one_side_lacks_are_dropped(tmp_path, write_scene, write_models, write_image):
    folder = tmp_path / "KingsCollege"
    views = write_scene(folder)
    known = {name: view for name, view in views.items() if name != "seq1/frame00004.png"}
    write_models(tmp_path / RETRIANGULATED / "KingsCollege", known)
    write_image(folder / "seq3" / "frame00001.png", SIZE)
    (folder / "seq1" / "frame00001.png").unlink()
    lines = (
        (folder / "dataset_train.txt").read_text().replace("seq1/frame00005.png", "seq1/frame00005.png 20000 0 0 1 0 0 0\n#").splitlines()
    )
    (folder / "dataset_train.txt").write_text("\n".join(line for line in lines if not line.startswith("#")))
    reasons = {image.name: image.reason for image in load(AdapterOptions(tmp_path, "KingsCollege")).dropped}
    assert reasons == {
        "seq1/frame00001.png": "it is in the lists of poses, but not on disk",
        "seq1/frame00004.png": "the retriangulated model has no camera for it",
        "seq1/frame00005.png": "the lists give no place for it",
        "seq3/frame00001.png": "it is in neither list of poses",
    }
    reasons = {image.name: image.reason for image in load(AdapterOptions(tmp_path, "KingsCollege", gt="sfm")).dropped}
    assert set(reasons) == {"seq1/frame00001.png", "seq1/frame00004.png", "seq3/frame00001.png"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("seq1/frame00009.png 1 2 3 1 0 0", "7 fields"),
        ("seq1/frame00009.png 1 2 three 1 0 0 0", "could not convert"),
        ("seq1/frame00009.png 1 2 nan 1 0 0 0", "not finite"),
        ("seq1/frame00009.png 1 2 3 0 0 0 0", "not a rotation quaternion"),
        ("seq1/frame00002.png 1 2 3 1 0 0 0", "listed twice"),
    ],
)
def test_malformed_lists_are_named_with_their_line(tmp_path, write_scene, line, problem):
    write_scene(tmp_path / "KingsCollege")
    path = tmp_path / "KingsCollege" / "dataset_train.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(FormatError, match=rf"dataset_train.txt:10 is not a pose: .*{problem}") as error:
        load(AdapterOptions(tmp_path, "KingsCollege"))
    assert "\n" not in str(error.value)


def test_wrong_use_is_named(tmp_path, write_scene):
    views = write_scene(tmp_path / "Cambridge" / "KingsCollege")
    with pytest.raises(InputError, match="original, sfm"):
        load(AdapterOptions(tmp_path, "KingsCollege", gt="dslam"))
    with pytest.raises(MissingFileError, match=rf"no retriangulated model .*{RETRIANGULATED}/KingsCollege/empty_all.*--gt_file"):
        load(AdapterOptions(tmp_path, "KingsCollege", gt="sfm"))
    with pytest.raises(MissingFileError, match="Scene 'OldHospital' was not found"):
        load(AdapterOptions(tmp_path, "OldHospital"))
    for name in views:
        (tmp_path / "Cambridge" / "KingsCollege" / name).unlink()
    with pytest.raises(InputError, match=r"None of the 10 images that the lists in .*KingsCollege name is there"):
        load(AdapterOptions(tmp_path, "KingsCollege"))
    (tmp_path / "Cambridge" / "KingsCollege" / "dataset_train.txt").write_text(HEADING)
    with pytest.raises(FormatError, match="dataset_train.txt names no image"):
        load(AdapterOptions(tmp_path, "KingsCollege"))


def test_both_spellings_of_the_name():
    assert [dataset_name(name) for name in ("Cambridge", "cambridge", "12scenes")] == ["Cambridge", "Cambridge", "12scenes"]
