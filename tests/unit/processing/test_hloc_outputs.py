"""Reading hloc's outputs, on a miniature that the test writes in hloc's own layout, with known geometry."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import cv2
import h5py
import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.commands.options import run_command
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene, SceneImage
from processing import preprocessing
from processing.hloc import outputs as hloc_outputs
from processing.hloc.convert import refine_points
from processing.sfm.database import posed_model, write_database

FEATURES, SFM = "feats-superpoint-n4096-r1024.h5", "sfm_superpoint+superglue"
NAMES = [f"seq/{i:03d}.png" for i in range(14)]
TEST = NAMES[::7]
SMALL, WIDE = (640, 480), (1920, 1080)


def look_at(center, target):
    """cam_from_world of a camera at `center` that looks at `target`, upright."""
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.column_stack([rotation, -rotation @ center])


class Mini:
    """A place of known points, its photos as a COLMAP data set, and hloc's outputs for it."""

    def __init__(self, root, size=SMALL, dtype=np.float32, clutter=60, dimension=256, on_grid=False, scores="scores", mapped=None):
        self.root, self.size, self.dtype, self.on_grid = Path(root), size, dtype, on_grid
        self.dimension, self.scores = dimension, scores
        self.mapped = [name for name in NAMES if name not in TEST] if mapped is None else mapped
        rng = np.random.default_rng(0)
        self.points = np.column_stack([rng.uniform(-2.4, 2.4, 500), rng.uniform(-1.3, 1.3, 500), rng.uniform(3, 6, 500)])
        self.camera = make_camera("SIMPLE_RADIAL", *size, [0.8 * size[0], size[0] / 2, size[1] / 2, -0.02])
        angles = np.linspace(-0.4, 0.4, len(NAMES))
        poses = [look_at(np.array([4.5 * np.sin(a), 0.2 * np.sin(5 * a), 4.5 - 4.5 * np.cos(a)]), np.array([0, 0, 4.5])) for a in angles]
        self.poses = dict(zip(NAMES, poses, strict=True))
        images = tuple(SceneImage(name, 1, cam, "train") for name, cam in self.poses.items())
        self.scene = Scene("colmap", "place", self.root / "data" / "place" / "images", {1: self.camera}, images)
        self.rows = {name: self._rows(name, clutter, rng) for name in NAMES}
        self.hloc = self.root / "outputs" / "colmap" / "place"

    def _rows(self, name, clutter, rng):
        """Keypoints as hloc stores them, the point that each shows (-1: none), scores; in raster order, as the detector leaves them."""
        pixels, _ = project(self.camera, pose.transform(self.poses[name], self.points))
        seen = np.flatnonzero(((pixels > 4) & (pixels < np.array(self.size) - 5)).all(axis=1))
        stray = rng.uniform(4, np.array(self.size) - 5, (clutter, 2))
        keypoints = np.concatenate([pixels[seen], stray])
        if self.on_grid:
            scale = np.array(self.size) / np.round(np.array(self.size) * 1024 / max(self.size))
            keypoints = (np.round((keypoints + 0.5) / scale - 0.5) + 0.5) * scale - 0.5
        ids = np.concatenate([seen, np.full(clutter, -1)])
        order = np.lexsort((keypoints[:, 0], keypoints[:, 1]))
        scores = rng.permutation(len(order)).astype(np.float32) / len(order)
        return keypoints[order], ids[order], scores

    def stored(self, name):
        return self.rows[name][0].astype(self.dtype)

    def write(self, features=FEATURES, sfm=SFM, **model):
        self.write_data()
        self.write_features(self.hloc / features)
        self.write_model(self.hloc / sfm, **model)
        return self

    def write_data(self):
        for name in NAMES:
            path = self.scene.image_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((self.size[1], self.size[0]), np.uint8))
        folder = self.scene.image_dir.parent
        (folder / "sparse" / "0").mkdir(parents=True, exist_ok=True)
        posed_model(self.scene, {name: np.zeros((0, 2)) for name in NAMES}).write_text(str(folder / "sparse" / "0"))
        (folder / "list_test.txt").write_text("\n".join(TEST))

    def write_features(self, path, names=NAMES):
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        with h5py.File(path, "w", libver="latest") as file:
            for name in names:
                group = file.create_group(name)
                keypoints = group.create_dataset("keypoints", data=self.stored(name))
                keypoints.attrs["uncertainty"] = 2.0
                group.create_dataset(self.scores, data=self.rows[name][2].astype(self.dtype))
                descriptors = rng.normal(size=(self.dimension, len(self.rows[name][0])))
                group.create_dataset("descriptors", data=(descriptors / np.linalg.norm(descriptors, axis=0)).astype(self.dtype))
                group.create_dataset("image_size", data=np.array(self.size))

    def write_model(self, folder, rigs=True, text=False, points=True, shift=0.0, drop_row=None, transform=None):
        """The model as hloc's triangulation leaves it: points2D are the file's keypoints + 0.5, in the file's own type."""
        mapped = self.scene.with_images(image for image in self.scene.images if image.name in self.mapped)
        keypoints = {}
        for name in self.mapped:
            places = self.stored(name)
            places += self.dtype(0.5)  # rounds again where halved
            keypoints[name] = places.astype(np.float64) - 0.5 + shift
            if name == drop_row:
                keypoints[name] = keypoints[name][:-1]
        model = posed_model(mapped, keypoints)
        tracks = {}
        for image_id, name in enumerate(self.mapped, start=1):
            for row, point in enumerate(self.rows[name][1][: len(keypoints[name])]):
                if point >= 0:
                    tracks.setdefault(int(point), []).append(pycolmap.TrackElement(image_id, row))
        for point, elements in tracks.items():
            if points and len(elements) >= 2:
                model.add_point3D(self.points[point], pycolmap.Track(elements))
        if transform is not None:
            model.transform(transform)
        folder.mkdir(parents=True, exist_ok=True)
        (model.write_text if text else model.write_binary)(str(folder))
        if not rigs:
            for path in [*folder.glob("rigs.*"), *folder.glob("frames.*")]:
                path.unlink()

    def preprocess(self, *options, dataset="colmap", sfm="hloc", out_dir=None):
        arguments = ["--dataset", dataset, "--dataset_dir", self.scene.image_dir.parent, "--out_dir", out_dir or self.root / "out"]
        arguments += ["--hloc_out_dir", self.root / "outputs"] if sfm == "hloc" else []
        arguments += ["--sfm", sfm, "--cudaid", "-1", *options]
        return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in arguments])

    @property
    def folder(self):
        return self.root / "out" / "colmap" / "place"

    def check_labels(self, tolerance=1e-4, images=20):
        """Every label is the point that its keypoint shows, found by the keypoint's place; gives rows per training image."""
        counts = {}
        with FeatureReader(self.folder / "features.h5") as features, LabelReader(self.folder / "labels.h5") as labels:
            for image in Scene.load(self.folder).split("train")[:images]:
                feature, label = features.read(image.name), labels.read(image.name)
                places, ids, _ = self.rows[image.name]
                distance = np.linalg.norm(feature.keypoints[:, None] - places[None], axis=2)
                row = distance.argmin(axis=1)
                assert len(set(row.tolist())) == len(row)
                assert distance.min(axis=1).max() < 1.0
                assert not label.valid[ids[row] < 0].any()
                shown = label.valid
                assert_allclose(label.xyz[shown], self.points[ids[row[shown]]], atol=tolerance)
                assert shown.sum() > 0.8 * (ids[row] >= 0).sum()
                counts[image.name] = len(feature)
        return counts


@pytest.mark.parametrize(
    ("name", "made", "model"),
    [
        ("current", {}, {}),
        ("without rigs", {}, {"rigs": False}),
        ("text", {}, {"text": True}),
        ("text without rigs", {}, {"text": True, "rigs": False}),
        ("other dimension", {"dimension": 512}, {}),
        ("scores as DISK and ALIKED write them", {"scores": "keypoint_scores"}, {}),
    ],
)
def test_labels_are_the_points_that_keypoints_show(tmp_path, name, made, model):
    mini = Mini(tmp_path, **made).write(**model)
    assert mini.preprocess() == 0
    counts = mini.check_labels()
    assert set(counts) == {name for name in NAMES if name not in TEST}
    with FeatureReader(mini.folder / "features.h5") as features:
        assert set(features.names()) == set(NAMES)  # queries' too
        one = features.read(NAMES[1])
        assert one.descriptors.shape[1] == made.get("dimension", 256)
        assert (np.diff(one.scores) <= 0).all()
        assert one.keypoints.dtype == np.float32
    scene = Scene.load(mini.folder)
    assert scene.features["settings"]["sampling"] == "hloc"
    assert scene.features["settings"]["max_side"] == 1024
    report = json.loads((mini.folder / "report.json").read_text())
    assert report["reprojection_error"]["median"] < 0.01


def test_best_rows_by_score_are_taken_and_labels_follow(tmp_path, capsys):
    mini = Mini(tmp_path, clutter=3800).write()
    assert mini.preprocess("--num_keypoints", "2048", "--min_track_length", "2") == 0
    assert "the best 2048 are taken" in capsys.readouterr().out
    assert set(mini.check_labels(images=2).values()) == {2048}
    places, _, scores = mini.rows[NAMES[1]]
    with FeatureReader(mini.folder / "features.h5") as features:
        expected = places[np.argsort(-scores, kind="stable")[:2048]]
        assert_allclose(features.read(NAMES[1]).keypoints, expected, atol=1e-4)
        assert expected[:, 1].max() > 470  # the rows at the bottom are not lost
    model = pycolmap.Reconstruction(str(mini.folder / "sfm"))
    assert {image.num_points2D() for image in model.images.values()} == {2048}


def test_halved_keypoints_of_wide_images_are_warned_of(tmp_path, capsys):
    mini = Mini(tmp_path, WIDE, np.float16).write()
    assert mini.preprocess() == 0
    out = capsys.readouterr().out
    assert "half precision: up to 0.50 px lost" in out
    assert "--hloc_reextract" in out
    mini.check_labels(tolerance=0.02)


def test_halved_keypoints_on_superpoints_grid_are_restored(tmp_path, capsys):
    mini = Mini(tmp_path, WIDE, np.float16, on_grid=True).write()
    assert mini.preprocess() == 0
    assert "restored from the detector's pixel grid" in capsys.readouterr().out
    with FeatureReader(mini.folder / "features.h5") as features:
        places, _, scores = mini.rows[NAMES[2]]
        order = np.argsort(-scores.astype(np.float16).astype(np.float64), kind="stable")
        assert_allclose(features.read(NAMES[2]).keypoints, places[order], atol=1e-3)


def test_halved_keypoints_of_small_images_need_no_warning(tmp_path, capsys):
    mini = Mini(tmp_path, SMALL, np.float16).write()
    assert mini.preprocess() == 0
    assert "half precision" not in capsys.readouterr().out


def test_points_are_optimised_in_silence_and_nothing_else_moves(tmp_path, capfd):
    """COLMAP's own bundle adjustment prints a headline and a time whatever its log level."""
    mini = Mini(tmp_path)
    mini.write_model(mini.hloc / SFM)
    model, rng = pycolmap.Reconstruction(str(mini.hloc / SFM)), np.random.default_rng(0)
    exact = {key: point.xyz.copy() for key, point in model.points3D.items()}
    for point in model.points3D.values():
        point.xyz = point.xyz + rng.normal(0, 0.01, 3)
    poses = {key: image.cam_from_world().matrix() for key, image in model.images.items()}
    refine_points(model)
    assert max(np.abs(model.points3D[key].xyz - xyz).max() for key, xyz in exact.items()) < 1e-4
    for key, matrix in poses.items():
        assert_array_equal(model.images[key].cam_from_world().matrix(), matrix)
    assert_array_equal(model.cameras[1].params, mini.camera.params)
    assert capfd.readouterr() == ("", "")


def test_validation_and_test_images_leave_no_trace(tmp_path):
    mini = Mini(tmp_path, mapped=NAMES).write()
    (tmp_path / "val.txt").write_text("\n".join(NAMES[3:5]))
    assert mini.preprocess("--list_val", tmp_path / "val.txt") == 0
    model = pycolmap.Reconstruction(str(mini.folder / "sfm"))
    assert {image.name for image in model.images.values()} == set(NAMES) - set(TEST) - set(NAMES[3:5])
    mini.check_labels(tolerance=1e-3)
    with LabelReader(mini.folder / "labels.h5") as labels:
        assert not any(name in labels for name in (*TEST, *NAMES[3:5]))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"drop_row": NAMES[1]}, "No feature file"),  # seen before anything is read
        ({"shift": 0.3}, "Image seq/001.png: keypoint"),
        ({"shift": 0.3}, "0.30 px apart"),
        (
            {"transform": pycolmap.Sim3d(2.5, pycolmap.Rotation3d(np.array([0, 0, 0.6, 0.8])), np.array([1.0, 2, 3]))},
            "in a frame of its own",
        ),
    ],
)
def test_files_of_different_runs_are_refused(tmp_path, capsys, model, expected):
    mini = Mini(tmp_path).write(**model)
    assert mini.preprocess() == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (mini.folder / "scene.json").exists()


def test_count_that_differs_in_one_image_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hloc_outputs, "PROBED", 2)
    mini = Mini(tmp_path).write(drop_row=NAMES[4])
    assert mini.preprocess() == 2
    assert f"Image {NAMES[4]} has" in capsys.readouterr().err


def test_features_of_images_of_another_size_are_refused(tmp_path, capsys):
    mini = Mini(tmp_path).write()
    with h5py.File(mini.hloc / FEATURES, "a") as file:
        file[NAMES[3]]["image_size"][...] = (1280, 960)
    assert mini.preprocess() == 2
    assert f"image {NAMES[3]} was 1280x960, the scene's is 640x480" in capsys.readouterr().err


def test_feature_file_that_agrees_is_found_and_can_be_named(tmp_path, capsys):
    mini = Mini(tmp_path).write(features="my-features.h5")
    other = Mini(tmp_path, clutter=70)
    other.write_features(mini.hloc / "feats-a.h5")
    with h5py.File(mini.hloc / "global-feats-netvlad.h5", "w") as file:
        file.create_group(NAMES[0]).create_dataset("global_descriptor", data=np.zeros(8))
    found = hloc_outputs.find_outputs(tmp_path / "outputs", "colmap", "place")
    assert (found.features.name, found.sfm.name) == ("my-features.h5", SFM)
    assert mini.preprocess("--hloc_features", "feats-a") == 2
    assert "feature files feats-a.h5; models sfm_superpoint+superglue" in capsys.readouterr().err
    assert mini.preprocess("--hloc_features", "nothing.h5") == 2
    assert "It has: feats-a.h5, my-features.h5" in capsys.readouterr().err
    assert mini.preprocess("--hloc_features", "my-features.h5") == 0
    assert Scene.load(mini.folder).features["name"] == "hloc:my-features"


def test_plain_model_comes_before_depth_corrected_and_reference_models(tmp_path):
    mini = Mini(tmp_path).write()
    mini.write_model(mini.hloc / "sfm_superpoint+superglue+depth")
    mini.write_model(mini.hloc / "sfm_sift")
    assert hloc_outputs.find_outputs(tmp_path / "outputs", "colmap", "place").sfm.name == SFM
    chosen = hloc_outputs.find_outputs(tmp_path / "outputs", "colmap", "place", sfm="sfm_superpoint+superglue+depth")
    assert chosen.sfm.name.endswith("+depth")


def test_points_that_depth_corrected_stay_where_they_are(tmp_path):
    mini = Mini(tmp_path, mapped=NAMES)
    mini.write(sfm="sfm_superpoint+superglue+depth")
    moved = pycolmap.Reconstruction(str(mini.hloc / "sfm_superpoint+superglue+depth"))
    for point in moved.points3D.values():
        point.xyz = point.xyz + np.array([0.0, 0.002, 0.004])
    moved.write_binary(str(mini.hloc / "sfm_superpoint+superglue+depth"))
    mini.points = mini.points + np.array([0.0, 0.002, 0.004])
    assert mini.preprocess() == 0
    mini.check_labels(tolerance=1e-4)


def test_feature_file_of_two_runs_is_noticed(tmp_path, capsys):
    mini = Mini(tmp_path, clutter=400)
    for k, name in enumerate(NAMES):
        mini.rows[name] = tuple(values[: 500 if k % 2 else 600] for values in mini.rows[name])
    assert mini.write().preprocess() == 0
    assert "7 images have exactly 500, 7 images have exactly 600 keypoints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "given"),
    [
        ("o/Cambridge/Court", "o"),
        ("o/cambridge/Court", "o"),
        ("o/outputs/cambridge/court", "o"),
        ("o/Court", "o"),
        ("o", "o"),
        ("Hierarchical-Localization/outputs/cambridge/Court", "Hierarchical_Localization/outputs"),
        ("Hierarchical_Localization/outputs/Cambridge/Court", "hierarchical-localization/outputs/"),
    ],
)
def test_folders_are_found_as_people_spell_them(tmp_path, made, given):
    (tmp_path / made).mkdir(parents=True)
    assert hloc_outputs.scene_folders(tmp_path / given, "Cambridge", "Court")[0].samefile(tmp_path / made)


def test_outputs_of_a_clone_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hloc_outputs, "THIRD_PARTY", tmp_path / "third_party")
    mini = Mini(tmp_path).write()
    shutil.move(tmp_path / "outputs", tmp_path / "third_party" / "Hierarchical_Localization" / "outputs")
    assert mini.preprocess(sfm="auto") == 0
    assert "--sfm auto: hloc's outputs in" in capsys.readouterr().out
    mini.check_labels()
    assert mini.preprocess(sfm="auto") == 0  # finished before
    assert "features: finished before, skipped" in capsys.readouterr().out


def test_image_names_relative_to_another_folder(tmp_path):
    mini = Mini(tmp_path).write()
    with h5py.File(mini.hloc / FEATURES, "a") as file:
        file.create_group("place")
        for name in NAMES:
            file.require_group(str(Path("place") / Path(name).parent))
            file.move(name, f"place/{name}")
    model = pycolmap.Reconstruction(str(mini.hloc / SFM))
    for image in model.images.values():
        image.name = f"place/{image.name}"
    model.write_binary(str(mini.hloc / SFM))
    assert mini.preprocess() == 0
    mini.check_labels()


def test_images_that_hloc_lacks_are_dropped_with_the_reason(tmp_path):
    mini = Mini(tmp_path, mapped=[name for name in NAMES if name not in (*TEST, NAMES[1])]).write()
    mini.write_features(mini.hloc / FEATURES, [name for name in NAMES if name != NAMES[2] and name != TEST[0]])
    mini.mapped = [name for name in mini.mapped if name != NAMES[2]]
    mini.write_model(mini.hloc / SFM)
    assert mini.preprocess() == 0
    dropped = {image["name"]: image["reason"] for image in json.loads((mini.folder / "report.json").read_text())["images"]["dropped"]}
    assert dropped == {NAMES[1]: "not in hloc's SfM model", NAMES[2]: "not in hloc's feature file"}
    assert TEST[0] in {image.name for image in Scene.load(mini.folder).split("test")}


def test_cameras_of_hlocs_queries_are_compared(tmp_path, capsys):
    mini = Mini(tmp_path).write()
    (mini.hloc / "query_list_with_intrinsics.txt").write_text(f"{TEST[0]} SIMPLE_RADIAL 640 480 512 320 240 -0.02")
    assert mini.preprocess() == 0
    assert "gives query" not in capsys.readouterr().out
    (mini.hloc / "query_list_with_intrinsics.txt").write_text(f"{TEST[0]} SIMPLE_RADIAL 640 480 520 320 240 -0.02")
    assert mini.preprocess("--overwrite") == 0
    assert f"gives query {TEST[0]} the camera SIMPLE_RADIAL 640 480 520.0" in capsys.readouterr().out


def test_poses_and_cameras_are_the_models(tmp_path):
    mini = Mini(tmp_path).write()
    model = pycolmap.Reconstruction(str(mini.hloc / SFM))
    model.cameras[1].params = [*model.cameras[1].params[:3], -0.0201]
    model.write_binary(str(mini.hloc / SFM))
    assert mini.preprocess() == 0
    scene = Scene.load(mini.folder)
    assert {scene.camera(image).params[3] for image in scene.split("train")} == {-0.0201}
    assert {scene.camera(image).params[3] for image in scene.split("test")} == {-0.02}


def test_photos_without_poses_take_those_of_the_model(tmp_path):
    mini = Mini(tmp_path, mapped=NAMES).write()
    arguments = ["--dataset", "photos", "--dataset_dir", mini.scene.image_dir, "--camera", "SIMPLE_PINHOLE 640 480 400 320 240"]
    arguments += ["--list_test", mini.scene.image_dir.parent / "list_test.txt", "--hloc_out_dir", mini.hloc, "--out_dir", tmp_path / "out"]
    assert run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in arguments]) == 0
    scene = Scene.load(tmp_path / "out" / "photos" / "images")
    for image in scene.images:
        assert_allclose(image.cam_from_world, mini.poses[image.name], atol=1e-9)
        assert scene.camera(image).model.name == "SIMPLE_RADIAL"


def empty_model_with_database(mini, database=True):
    """What hloc and pycolmap 4 make together: verified matches of UNDEFINED geometry, and a model without points."""
    mini.write(points=False)
    if not database:
        return
    mapped = mini.scene.with_images(image for image in mini.scene.images if image.name in mini.mapped)
    path = mini.hloc / SFM / "database.db"
    write_database(path, mapped, {name: mini.stored(name) for name in mini.mapped})
    with pycolmap.Database.open(str(path)) as opened:
        for i, a in enumerate(mini.mapped, start=1):
            for j, b in enumerate(mini.mapped[i:], start=i + 1):
                shown = [np.where(mini.rows[name][1] < 0, -k, mini.rows[name][1]) for k, name in ((1, a), (2, b))]
                _, rows0, rows1 = np.intersect1d(*shown, return_indices=True)
                matches = np.column_stack([rows0, rows1]).astype(np.uint32)
                opened.write_two_view_geometry(i, j, pycolmap.TwoViewGeometry(inlier_matches=matches))


def test_model_without_points_is_mended_from_its_database(tmp_path, capsys):
    mini = Mini(tmp_path)
    empty_model_with_database(mini)
    before = (mini.hloc / SFM / "database.db").read_bytes()
    assert mini.preprocess() == 0
    out = capsys.readouterr().out
    assert "0 points" in out
    assert "UNDEFINED" in out
    assert (mini.hloc / SFM / "database.db").read_bytes() == before  # hloc's files stay as they are
    mini.check_labels(tolerance=1e-3)


def test_model_without_points_and_database_is_explained(tmp_path, capsys):
    mini = Mini(tmp_path)
    empty_model_with_database(mini, database=False)
    assert mini.preprocess() == 1
    error = capsys.readouterr().err
    assert "0 points" in error
    assert "pycolmap 4" in error
    assert error.count("\n") == 1


def test_second_run_skips_and_changed_files_are_refused(tmp_path, capsys):
    mini = Mini(tmp_path).write()
    assert mini.preprocess() == 0
    before = (mini.folder / "labels.h5").stat().st_mtime_ns
    assert mini.preprocess() == 0
    assert (mini.folder / "labels.h5").stat().st_mtime_ns == before
    Mini(tmp_path, clutter=80).write()
    capsys.readouterr()
    assert mini.preprocess() == 2
    assert "made with other settings" in capsys.readouterr().err
    assert mini.preprocess("--overwrite") == 0


def test_weights_that_come_later_change_nothing(tmp_path, monkeypatch):
    mini = Mini(tmp_path).write()
    monkeypatch.setenv("D2S_CACHE", str(tmp_path / "cache"))
    assert mini.preprocess() == 0
    before = (mini.folder / "scene.json").read_bytes()
    (tmp_path / "w.pth").write_bytes(b"weights")
    assert mini.preprocess("--weights", tmp_path / "w.pth") == 0
    assert (mini.folder / "scene.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sfm", "native", "--hloc_sfm", "x"], "--hloc_sfm means nothing"),
        (["--sfm", "native", "--hloc_reextract"], "--hloc_reextract means nothing"),
    ],
)
def test_options_that_contradict_are_refused(tmp_path, capsys, options, expected):
    mini = Mini(tmp_path)
    mini.write_data()
    assert mini.preprocess(*options, sfm="native") == 2
    assert expected in capsys.readouterr().err


def test_record_of_native_scenes_does_not_change(tmp_path):
    mini = Mini(tmp_path)
    mini.write_data()
    parser = preprocessing.argparse.ArgumentParser()
    preprocessing.add_arguments(parser)
    args = parser.parse_args(["--dataset", "colmap", "--dataset_dir", str(mini.scene.image_dir.parent), "--sfm", "native"])
    assert "hloc" not in preprocessing.settings_from_args(args, tmp_path / "out").record()


def test_mending_touches_undefined_geometries_only(tmp_path):
    from processing.hloc.repair import mend_database, undefined_geometries

    mini = Mini(tmp_path)
    empty_model_with_database(mini)
    path = mini.hloc / SFM / "database.db"
    count = undefined_geometries(path)
    assert count > 10
    with pycolmap.Database.open(str(path)) as opened:
        opened.delete_two_view_geometry(1, 2) if hasattr(opened, "delete_two_view_geometry") else opened.delete_inlier_matches(1, 2)
        opened.write_two_view_geometry(1, 2, pycolmap.TwoViewGeometry(config=pycolmap.TwoViewGeometryConfiguration.DEGENERATE))
    assert mend_database(path) == count - 1
    assert undefined_geometries(path) == 0
    with sqlite3.connect(path) as connection:
        configs = dict(connection.execute("SELECT config, COUNT(*) FROM two_view_geometries GROUP BY config").fetchall())
    assert configs[int(pycolmap.TwoViewGeometryConfiguration.DEGENERATE)] == 1
    assert_array_equal(sorted(configs), [1, 2])
