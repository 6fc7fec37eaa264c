"""A rendered room, written in the public layouts of 7-Scenes (SfM), 12-Scenes and Cambridge Landmarks, through `d2s preprocess`.

Each camera is known exactly, so that labels must lie on what the images show, and reproject into them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from d2s.commands.options import run_command
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, make_camera, project
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from processing import preprocessing
from processing.gallery.renderer import Renderer
from processing.gallery.room import make_room, scene_coordinates
from processing.gallery.textures import make_textures
from processing.gallery.tour import shots

MAPPING, QUERIES = 24, 3
RADIAL = make_camera("SIMPLE_RADIAL", 320, 240, [262.0, 161.5, 118.0, -0.06])
PINHOLE = make_camera("PINHOLE", 320, 240, [265.0, 264.0, 162.0, 121.0])
SMALL = ["--features", "sift", "--num_keypoints", "500", "--cudaid", "-1"]


@dataclass(frozen=True)
class Picture:
    """A rendered view: its pixels as BGR, its pose, and whether it is a query."""

    image: np.ndarray
    cam_from_world: np.ndarray
    query: bool

    def colmap(self) -> str:
        return " ".join(repr(float(v)) for v in np.concatenate(pose.to_qvec_tvec(self.cam_from_world)))


@pytest.fixture(scope="module")
def room():
    return make_room()


def rendered(room, camera):
    renderer = Renderer(room, make_textures(room, 0), camera)
    return [
        Picture(renderer.render(s.cam_from_world, s.exposure)[..., ::-1], s.cam_from_world, s.split == "test")
        for s in shots(MAPPING, QUERIES, 0)
    ]


@pytest.fixture(scope="module")
def radial(room):
    return rendered(room, RADIAL)


@pytest.fixture(scope="module")
def pinhole(room):
    return rendered(room, PINHOLE)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def write_model(folder: Path, entries: dict[str, tuple[Picture, pycolmap.Camera]]) -> None:
    """A text model without points; camera ids and image ids run in opposite directions."""
    folder.mkdir(parents=True)
    cameras, images = [], []
    for index, (name, (picture, camera)) in enumerate(entries.items()):
        cameras.append(f"{200 - index} {format_camera(camera)}")
        images += [f"{10 + 3 * index} {picture.colmap()} {200 - index} {name}", ""]
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "points3D.txt").write_text("")


def preprocess(*arguments: object) -> int:
    return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in (*arguments, *SMALL)])


def assert_labels_reproject(folder: Path, limit: float) -> None:
    """The median distance between a keypoint and its label's projection, by the scene's own cameras."""
    scene, errors = Scene.load(folder), []
    with FeatureReader(folder / "features.h5") as features, LabelReader(folder / "labels.h5") as labels:
        for image in scene.split("train"):
            keypoints, label = features.read(image.name).keypoints, labels.read(image.name)
            pixels, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, label.xyz[label.valid]))
            assert in_front.all()
            errors.append(np.linalg.norm(pixels - keypoints[label.valid], axis=1))
    errors = np.concatenate(errors)
    assert len(errors) > 800
    assert np.median(errors) < limit


def distances_to_room(folder: Path, room, camera) -> np.ndarray:
    """How far each label lies, along its ray, from what the exact scene shows at its own projection; metres."""
    scene, found = Scene.load(folder), []
    with LabelReader(folder / "labels.h5") as labels:
        for image in scene.split("train"):
            label = labels.read(image.name)
            xyz = label.xyz[label.valid].astype(np.float64)
            pixels, _ = project(camera, pose.transform(image.cam_from_world, xyz))
            found.append(np.linalg.norm(scene_coordinates(room, image.cam_from_world, camera, pixels) - xyz, axis=1))
    return np.concatenate(found)


def test_sfm_layout_of_7scenes(tmp_path, radial):
    root = tmp_path / "7scenes"
    names = [f"seq-{2 if p.query else 1:02d}/frame-{i:06d}.color.png" for i, p in enumerate(radial)]
    for name, picture in zip(names, radial, strict=True):
        write(root / "chess" / name, picture.image)
    model = root / "7scenes_sfm_triangulated" / "chess" / "triangulated"
    write_model(model, {name: (picture, RADIAL) for name, picture in zip(names, radial, strict=True)})
    (model / "list_test.txt").write_text("\n".join(name for name in names if name.startswith("seq-02")))
    assert (
        preprocess("--dataset", "7scenes", "--scene", "chess", "--dataset_dir", tmp_path, "--gt", "sfm", "--out_dir", tmp_path / "out") == 0
    )
    folder = tmp_path / "out" / "7scenes" / "chess"
    assert len(Scene.load(folder).split("test")) == QUERIES
    assert_labels_reproject(folder, 1.0)


def test_cambridge_with_retriangulated_models(tmp_path, radial, capsys):
    """Twice as large as the model's images; one camera per image; file names shared by the sequences."""
    root = tmp_path / "cambridge"
    half = make_camera("SIMPLE_RADIAL", 160, 120, [*(np.array(RADIAL.params[:3]) / 2), RADIAL.params[3]])
    counts, names = {"seq1": 0, "seq2": 0, "seq3": 0}, []
    for index, picture in enumerate(radial):
        sequence = "seq3" if picture.query else f"seq{1 + index % 2}"
        counts[sequence] += 1
        names.append(f"{sequence}/frame{counts[sequence]:05d}.png")
        write(root / "ShopFacade" / names[-1], picture.image)
    for split in ("train", "test"):
        lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
        for name, picture in zip(names, radial, strict=True):
            if picture.query == (split == "test"):
                values = [*pose.center(picture.cam_from_world), *pose.to_qvec_tvec(picture.cam_from_world)[0]]
                lines.append(f"{name} {' '.join(repr(float(v)) for v in values)}")
        (root / "ShopFacade" / f"dataset_{split}.txt").write_text("\n".join(lines) + "\n")
    model = root / "CambridgeLandmarks_Colmap_Retriangulated_1024px" / "ShopFacade"
    write_model(model / "empty_all", {name: (picture, half) for name, picture in zip(names, radial, strict=True)})
    (model / "list_query.txt").write_text("\n".join(name for name in names if name.startswith("seq3")))
    assert preprocess("--dataset", "cambridge", "--scene", "ShopFacade", "--dataset_dir", tmp_path, "--out_dir", tmp_path / "out") == 0
    folder = tmp_path / "out" / "Cambridge" / "ShopFacade"
    scene = Scene.load(folder)
    assert len(scene.cameras) == len(radial) and len(scene.split("test")) == QUERIES
    assert_labels_reproject(folder, 1.0)
    assert "Next: d2s train --dataset Cambridge --scene ShopFacade" in capsys.readouterr().out


@pytest.fixture(scope="module")
def twelve_scenes(tmp_path_factory, room, pinhole):
    """DATASET_DIR with 12scenes/apt1/kitchen, depth images included; the first sequence are the queries."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "12scenes" / "apt1" / "kitchen"
    ordered = sorted(pinhole, key=lambda p: not p.query)
    small = make_camera("PINHOLE", 160, 120, np.array(PINHOLE.params) / 2)  # the sensor's depth has fewer pixels than the colour
    pixels = np.stack(np.meshgrid(np.arange(160), np.arange(120)), axis=-1).reshape(-1, 2)
    for index, picture in enumerate(ordered):
        stem = folder / "data" / f"frame-{index:06d}"
        write(Path(f"{stem}.color.jpg"), picture.image)
        depth = pose.transform(picture.cam_from_world, scene_coordinates(room, picture.cam_from_world, small, pixels))[:, 2].reshape(
            120, 160
        )
        depth[:30, :40] = 0  # a hole
        write(Path(f"{stem}.depth.png"), np.rint(1000 * depth).astype(np.uint16))
        np.savetxt(f"{stem}.pose.txt", pose.homogeneous(pose.inverse(picture.cam_from_world)))
    fx, fy, cx, cy = PINHOLE.params
    intrinsic = f"{fx} 0 {cx} 0 0 {fy} {cy} 0 0 0 1 0 0 0 0 1"
    (folder / "info.txt").write_text(f"m_colorWidth = 320\nm_colorHeight = 240\nm_calibrationColorIntrinsic = {intrinsic}\n")
    last = MAPPING + QUERIES - 1
    sequences = [
        f"sequence0 [frames={QUERIES}]  [start=0 ; end={QUERIES - 1}]",
        f"sequence1 [frames={MAPPING}]  [start={QUERIES} ; end={last}]",
    ]
    (folder / "split.txt").write_text("\n".join(sequences))
    return root


def twelve(root: Path, out: Path, *arguments: object) -> int:
    return preprocess("--dataset", "12scenes", "--scene", "apt1/kitchen", "--dataset_dir", root, "--out_dir", out, *arguments)


def test_12scenes_and_labels_corrected_by_depth(tmp_path, room, twelve_scenes, capsys):
    out, folder = tmp_path / "out", tmp_path / "out" / "12scenes" / "apt1" / "kitchen"
    assert twelve(twelve_scenes, out) == 0
    assert "Next: d2s train --dataset 12scenes --scene apt1/kitchen" in capsys.readouterr().out
    assert len(Scene.load(folder).split("test")) == QUERIES
    assert_labels_reproject(folder, 1.0)
    before = distances_to_room(folder, room, PINHOLE)
    assert "depth" not in json.loads((folder / "report.json").read_text())

    assert twelve(twelve_scenes, out, "--depth_labels") == 2
    assert "depth was None" in capsys.readouterr().err
    assert twelve(twelve_scenes, out, "--depth_labels", "--depth_missing", "drop", "--overwrite") == 0
    assert_labels_reproject(folder, 1.0)
    after = distances_to_room(folder, room, PINHOLE)
    report = json.loads((folder / "report.json").read_text())["depth"]
    assert report["corrected"] > 0.7 * report["points"] and report["images_with_depth"] == len(Scene.load(folder).split("train"))
    assert len(after) > 0.7 * len(before)
    assert np.median(after) < 0.5 * np.median(before)
    assert np.percentile(after, 90) < np.percentile(before, 90)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--depth_dir", "{root}"], "--depth_dir needs --depth_labels"),
        (["--depth_missing", "drop"], "--depth_missing needs --depth_labels"),
        (["--depth_labels", "--depth_dir", "{root}/nowhere"], "--depth_dir {root}/nowhere is not a folder"),
        (["--gt", "dslam"], "pgt_dslam.txt does not exist"),
        (["--gt", "sfm"], "pgt_sfm.txt does not exist, and there is no COLMAP model in"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, twelve_scenes, capsys, arguments, expected):
    assert twelve(twelve_scenes, tmp_path, *(a.format(root=twelve_scenes) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert expected.format(root=twelve_scenes) in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("scene.json"))


def test_depth_that_is_not_there_is_named(tmp_path, twelve_scenes, capsys):
    (tmp_path / "empty").mkdir()
    assert twelve(twelve_scenes, tmp_path, "--depth_labels", "--depth_dir", tmp_path / "empty") == 2
    error = capsys.readouterr().err
    assert "no training image has a depth image in" in error and error.count("\n") == 1
