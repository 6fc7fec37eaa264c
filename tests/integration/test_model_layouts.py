"""A rendered room, written as Indoor-6, BKC, kapture and as a custom hloc scene, through the command line.

Each camera is known exactly, so that labels must lie on what the images show.
"""

from __future__ import annotations

import json
import shutil
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
from processing import preprocess_custom_data, preprocessing
from processing.gallery.renderer import Renderer
from processing.gallery.room import make_room
from processing.gallery.textures import make_textures
from processing.gallery.tour import shots

MAPPING, QUERIES = 24, 3
CAMERAS = [
    make_camera("SIMPLE_RADIAL", 320, 240, [262.0, 161.5, 118.0, -0.06]),
    make_camera("RADIAL", 320, 240, [275.0, 158.0, 121.5, -0.09, 0.02]),
    make_camera("PINHOLE", 320, 240, [265.0, 264.0, 162.0, 121.0]),
]
SMALL = ["--features", "sift", "--num_keypoints", "500", "--cudaid", "-1"]


@dataclass(frozen=True)
class Picture:
    """A rendered view: its pixels as BGR, its pose and camera, and whether it is a query."""

    image: np.ndarray
    cam_from_world: np.ndarray
    camera: int
    query: bool

    def fields(self) -> list[str]:
        return [repr(float(v)) for v in np.concatenate(pose.to_qvec_tvec(self.cam_from_world))]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), self.image)


@pytest.fixture(scope="module")
def pictures():
    room = make_room()
    textures = make_textures(room, 0)
    renderers = [Renderer(room, textures, camera) for camera in CAMERAS]
    plan = [(i % len(CAMERAS), shot) for i, shot in enumerate(shots(MAPPING, QUERIES, 0))]
    return [Picture(renderers[c].render(s.cam_from_world, s.exposure)[..., ::-1], s.cam_from_world, c, s.split == "test") for c, s in plan]


def write_model(folder: Path, entries: dict[str, Picture]) -> None:
    """A binary model without points: a camera for every image, its id neither the image's nor in the same order."""
    folder.mkdir(parents=True)
    lines = [(f"{200 - i} {format_camera(CAMERAS[p.camera])}", f"{10 + 3 * i} {' '.join(p.fields())}", n) for i, (n, p) in rows(entries)]
    (folder / "cameras.txt").write_text("\n".join(camera for camera, _, _ in lines) + "\n")
    (folder / "images.txt").write_text("".join(f"{view} {camera.split()[0]} {name}\n\n" for camera, view, name in lines))
    (folder / "points3D.txt").write_text("")
    pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
    for path in folder.glob("*.txt"):
        path.unlink()


def rows(entries):
    return enumerate(entries.items())


def preprocess(*arguments: object) -> int:
    return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in (*arguments, *SMALL)])


def label_errors(folder: Path) -> np.ndarray:
    """Distance between each labelled keypoint and its label's projection, pixels."""
    scene, errors = Scene.load(folder), []
    with FeatureReader(folder / "features.h5") as features, LabelReader(folder / "labels.h5") as labels:
        for image in scene.split("train"):
            keypoints, label = features.read(image.name).keypoints, labels.read(image.name)
            pixels, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, label.xyz[label.valid]))
            assert in_front.all()
            errors.append(np.linalg.norm(pixels - keypoints[label.valid], axis=1))
    return np.concatenate(errors)


def assert_labels_reproject(folder: Path) -> None:
    errors = label_errors(folder)
    assert len(errors) > 600
    assert np.median(errors) < 1.0


def names_of(folder: Path, split: str) -> set[str]:
    return {image.name for image in Scene.load(folder).split(split)}


def test_indoor6(tmp_path, pictures):
    names = [f"{'iphone' if i % 2 else 'tango'}/{i // 2:05d}.color.jpg" for i in range(len(pictures))]
    model = tmp_path / "data" / "indoor6" / "indoor6_sfm_triangulated" / "scene1"
    write_model(model, dict(zip(names, pictures, strict=True)))
    for name, picture in zip(names, pictures, strict=True):
        picture.write(tmp_path / "data" / "indoor6" / "scene1" / "images" / name)
    test = [name for name, picture in zip(names, pictures, strict=True) if picture.query]
    (model / "list_test.txt").write_text("\n".join(test))
    (model / "list_test_val.txt").write_text("\n".join([*test, names[2], names[9]]))
    where = ["--scene", "scene1", "--dataset_dir", tmp_path / "data", "--out_dir", tmp_path / "out"]
    assert preprocess("--dataset", "indoor6", *where) == 0
    folder = tmp_path / "out" / "indoor6" / "scene1"
    assert names_of(folder, "val") == {names[2], names[9]} and names_of(folder, "test") == set(test)
    mapped = {image.name for image in pycolmap.Reconstruction(str(folder / "sfm")).images.values()}
    assert mapped == names_of(folder, "train") and len(mapped) == MAPPING - 2
    assert_labels_reproject(folder)


def test_bkc(tmp_path, pictures):
    names = [f"seq{4 if p.query else 5 if i in (3, 4) else 1}/{i:05d}.png" for i, p in enumerate(pictures)]
    folder = tmp_path / "BKC" / "square"
    write_model(folder, dict(zip(names, pictures, strict=True)))
    for name, picture in zip(names, pictures, strict=True):
        picture.write(folder / name)
    for sequence in (4, 5):
        (folder / f"test_seq{sequence}.txt").write_text("\n".join(name for name in names if name.startswith(f"seq{sequence}")))
    assert preprocess("--dataset", "BKC", "--scene", "square", "--dataset_dir", tmp_path, "--out_dir", tmp_path / "out") == 0
    out = tmp_path / "out" / "BKC" / "square"
    assert len(names_of(out, "test")) == QUERIES and len(names_of(out, "train")) == MAPPING - 2
    dropped = {entry["name"]: entry["reason"] for entry in json.loads((out / "report.json").read_text())["images"]["dropped"]}
    assert dropped == {names[i]: "test_seq5.txt holds it out of the map" for i in (3, 4)}
    assert_labels_reproject(out)


def write_kapture(tree: Path, pictures: list[Picture]) -> None:
    """One camera moves freely, the others sit on a rig, which sits on another."""
    mounts = [None, pose.from_qvec_tvec([0.9, 0.1, -0.3, 0.2], [0.3, -0.1, 0.2]), pose.from_qvec_tvec([0.7, 0.3, 0.1, -0.4], [0.1, 0, 0.4])]
    head_from_body = pose.from_qvec_tvec([0.8, -0.2, 0.4, 0.1], [-0.2, 0.5, 0.1])
    header = "# kapture format: 1.1\n"

    def line(*values):
        return ", ".join(map(str, values)) + "\n"

    def fields(matrix):
        return np.concatenate(pose.to_qvec_tvec(matrix)).tolist()

    sensors, rigs, records, trajectories = header, header + line("body", "head", *fields(head_from_body)), header, header
    for index, camera in enumerate(CAMERAS):
        model, *values = format_camera(camera).split()
        sensors += line(f"cam-{index}", "", "camera", model, *values)
        if mounts[index] is not None:
            rigs += line("head", f"cam-{index}", *fields(mounts[index]))
    for time, picture in enumerate(pictures):
        name, mount = f"cam{picture.camera}/{time // len(CAMERAS):04d}.jpg", mounts[picture.camera]
        picture.write(tree / "sensors" / "records_data" / name)
        records += line(time, f"cam-{picture.camera}", name)
        if mount is None:
            trajectories += line(time, f"cam-{picture.camera}", *fields(picture.cam_from_world))
        else:
            body_from_world = pose.compose(pose.inverse(pose.compose(mount, head_from_body)), picture.cam_from_world)
            trajectories += line(time, "body", *fields(body_from_world))
    for file, text in (("sensors", sensors), ("rigs", rigs), ("records_camera", records), ("trajectories", trajectories)):
        (tree / "sensors" / f"{file}.txt").write_text(text)


def test_kapture(tmp_path, pictures):
    for name, query in (("mapping", False), ("query", True)):
        write_kapture(tmp_path / "data" / "hall" / name, [picture for picture in pictures if picture.query == query])
    assert preprocess("--dataset", "kapture", "--scene", "hall", "--dataset_dir", tmp_path / "data", "--out_dir", tmp_path / "out") == 0
    folder = tmp_path / "out" / "kapture" / "hall"
    assert len(names_of(folder, "train")) == MAPPING and len(names_of(folder, "test")) == QUERIES
    assert_labels_reproject(folder)


# Custom scenes


@pytest.fixture(scope="module")
def hloc_scene(tmp_path_factory, pictures):
    """A folder as hloc leaves it: images, features, and one SfM model of mapping images and queries together."""
    root = tmp_path_factory.mktemp("custom")
    names = [f"{'query' if p.query else 'mapping'}/{i:04d}.png" for i, p in enumerate(pictures)]
    scene = root / "hall"
    for name, picture in zip(names, pictures, strict=True):
        picture.write(scene / "images" / name)
    write_model(root / "poses" / "sparse", dict(zip(names, pictures, strict=True)))
    (root / "poses" / "images").symlink_to(scene / "images")
    (root / "all.txt").write_text("\n".join(names))
    where = ["--dataset_dir", root / "poses", "--list_train", root / "all.txt", "--out_dir", root / "made", "--scene", "poses"]
    assert preprocess("--dataset", "colmap", *where) == 0
    shutil.copy(root / "made" / "colmap" / "poses" / "features.h5", scene / "feats-sift.h5")
    shutil.copytree(root / "made" / "colmap" / "poses" / "sfm", scene / "sfm_superpoint+superglue")
    (root / "list_test.txt").write_text("\n".join(name for name in names if name.startswith("query")))
    return scene


def custom(*arguments: object) -> int:
    run, add = preprocess_custom_data.run, preprocess_custom_data.add_arguments
    return run_command("preprocess_custom_data.py", add, run, [str(a) for a in (*arguments, *SMALL)])


def run_custom(scene: Path, out: Path, *arguments: object) -> int:
    where = ["--list_test", scene.parent / "list_test.txt", "--hloc_out_dir", scene, "--out_dir", out]
    return custom(*where, "--dataset", "mine", "--scene", "hall", *arguments)


def assert_no_trace_of_queries(folder: Path) -> None:
    scene, model = Scene.load(folder), pycolmap.Reconstruction(str(folder / "sfm"))
    train = {image.name for image in scene.split("train")}
    assert {image.name for image in model.images.values()} == train
    seen = {model.images[element.image_id].name for point in model.points3D.values() for element in point.track.elements}
    assert seen <= train
    with LabelReader(folder / "labels.h5") as labels:
        assert not any(image.name in labels for image in scene.split("test"))


@pytest.mark.parametrize("sfm", ["hloc", "native"])
def test_custom_scene(tmp_path, hloc_scene, capsys, sfm):
    assert run_custom(hloc_scene, tmp_path, "--sfm", sfm) == 0
    folder = tmp_path / "mine" / "hall"
    scene = Scene.load(folder)
    assert (scene.dataset, scene.name, scene.units) == ("mine", "hall", "arbitrary")
    assert names_of(folder, "test") == {f"query/{i:04d}.png" for i in range(MAPPING, MAPPING + QUERIES)}
    assert len(names_of(folder, "train")) == MAPPING
    assert_labels_reproject(folder)
    assert_no_trace_of_queries(folder)
    output = capsys.readouterr().out
    assert f"Next: d2s train --dataset mine --scene hall --data_dir {tmp_path}" in output
    assert run_custom(hloc_scene, tmp_path, "--sfm", sfm) == 0
    assert "labels: finished before, skipped" in capsys.readouterr().out


def test_labels_of_hloc_come_from_training_observations_alone(tmp_path, hloc_scene):
    """Points that the queries had pulled away come back: whatever hloc's points were, the training images decide where they are."""
    moved = tmp_path / "moved"
    shutil.copytree(hloc_scene.parent, moved, symlinks=True, ignore=shutil.ignore_patterns("made", "poses"))
    model = pycolmap.Reconstruction(str(moved / "hall" / "sfm_superpoint+superglue"))
    random = np.random.default_rng(0)
    for point in model.points3D.values():
        point.xyz = point.xyz + random.normal(0, 0.01, 3)
    model.write_binary(str(moved / "hall" / "sfm_superpoint+superglue"))
    found = []
    for scene, out in ((hloc_scene, tmp_path / "a"), (moved / "hall", tmp_path / "b")):
        assert run_custom(scene, out, "--sfm", "hloc") == 0
        folder = out / "mine" / "hall"
        with LabelReader(folder / "labels.h5") as labels:
            found.append([labels.read(image.name) for image in Scene.load(folder).split("train")])
    both = [
        (a.xyz[a.valid & b.valid] - b.xyz[a.valid & b.valid], (a.valid & b.valid).sum() / a.valid.sum())
        for a, b in zip(*found, strict=True)
    ]
    assert min(share for _, share in both) > 0.97
    assert np.median(np.abs(np.concatenate([difference for difference, _ in both]))) < 1e-4


def test_scene_without_features_takes_our_own(tmp_path, hloc_scene, capsys):
    scene = tmp_path / "place"
    shutil.copytree(hloc_scene, scene, ignore=shutil.ignore_patterns("*.h5", "images"))
    names = (hloc_scene.parent / "list_test.txt").read_text().split()
    (tmp_path / "list.txt").write_text("\n".join([Path(name).name for name in names] + [Path(names[0]).name]))  # no folders, one name twice
    where = ["--list_test", tmp_path / "list.txt", "--hloc_out_dir", scene, "--out_dir", tmp_path / "out"]
    assert custom(*where, "--image_dir", hloc_scene / "images") == 0
    assert "our own are extracted" in capsys.readouterr().out
    folder = tmp_path / "out" / "custom" / "place"
    assert names_of(folder, "test") == set(names)
    assert_no_trace_of_queries(folder)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("", [], "list.txt names no image"),
        ("query/9999.png\n", [], "list.txt names unknown images: query/9999.png ({list}:1)"),
        (None, [], "Image list {list} does not exist"),
        ("query/0024.png\n", ["--hloc_out_dir", "{tmp}/none"], "--hloc_out_dir {tmp}/none is not a folder"),
        ("query/0024.png\n", ["--hloc_out_dir", "{tmp}"], "{tmp} holds no SfM model"),
        ("query/0024.png\n", ["--dataset", "../elsewhere"], "--dataset '../elsewhere' must be a name"),
        ("query/0024.png\n", ["--image_dir", "{tmp}"], "None of the 27 images of the model"),
        ("query/0024.png\n", ["--hloc_sfm", "sfm_other"], "has no such SfM model"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, hloc_scene, capsys, text, arguments, expected):
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    places = {"list": tmp_path / "list.txt", "tmp": tmp_path}
    where = ["--list_test", tmp_path / "list.txt", "--hloc_out_dir", hloc_scene, "--out_dir", tmp_path / "out"]
    assert custom(*where, *(a.format(**places) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert expected.format(**places) in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("scene.json"))


def test_all_images_queries_and_missing_options(tmp_path, hloc_scene, capsys):
    assert run_custom(hloc_scene, tmp_path, "--list_test", hloc_scene.parent / "all.txt") == 2
    assert "No training image is left" in capsys.readouterr().err
    assert custom("--list_test", hloc_scene.parent / "list_test.txt") == 2
    assert "--hloc_out_dir is missing" in capsys.readouterr().err
