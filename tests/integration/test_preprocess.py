"""`d2s preprocess` as a user meets it, on a small demo scene: what it writes, its errors, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.commands.options import run_command
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from processing import preprocessing

from .conftest import kill_d2s

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--demo_option", "mapping_images=32"),
    *("--demo_option", "query_images=4"),
    *("--demo_option", "size=320x240"),
    *("--num_keypoints", "500"),
]
DEMO = ["--dataset", "demo", *SMALL]


def preprocess(*arguments):
    return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in arguments])


def start(*arguments, cwd=ROOT):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(c) for c in (sys.executable, ROOT / "processing" / "preprocessing.py", *arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The demo's pictures, rendered once."""
    folder = tmp_path_factory.mktemp("pictures")
    assert preprocess(*DEMO, "--out_dir", folder) == 0
    return folder / "demo" / "gallery"


@pytest.fixture
def fresh(pictures, tmp_path):
    """An output folder that holds the pictures and nothing else, and the scene's folder in it."""
    shutil.copytree(pictures / "images", tmp_path / "demo" / "gallery" / "images")
    return tmp_path, tmp_path / "demo" / "gallery"


def contents(path):
    """All arrays of an HDF5 file by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def assert_same_file(a, b):
    first, second = contents(a), contents(b)
    assert list(first) == list(second)
    assert len(first) > 0
    for name, value in first.items():
        assert_array_equal(value, second[name], err_msg=name)


def test_scene_folder_is_complete_and_consistent(pictures):
    scene = Scene.load(pictures)
    counts = {split: len(scene.split(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 28, "val": 4, "test": 4}
    model = pycolmap.Reconstruction(str(pictures / "sfm"))
    assert {image.name for image in model.images.values()} == {image.name for image in scene.split("train")}
    errors = []
    with FeatureReader(pictures / "features.h5") as features, LabelReader(pictures / "labels.h5") as labels:
        assert set(features.names()) == {image.name for image in scene.split("train", "val")}
        assert not any(image.name in labels for image in scene.split("val", "test"))
        assert scene.features["settings"] == features.settings
        for image in scene.split("train"):
            feature, label = features.read(image.name), labels.read(image.name)
            assert len(feature) == len(label)
            pixels, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, label.xyz[label.valid]))
            assert in_front.all()
            errors.append(np.linalg.norm(pixels - feature.keypoints[label.valid], axis=1))
    errors = np.concatenate(errors)
    assert len(errors) > 1000
    assert np.median(errors) < 1.0
    assert np.percentile(errors, 99) < 4.0


def test_report_says_what_happened(pictures):
    report = json.loads((pictures / "report.json").read_text())
    assert report["images"]["count"] == {"train": 28, "val": 4, "test": 4}
    assert report["images"]["dropped"] == []
    with LabelReader(pictures / "labels.h5") as labels:
        for entry in report["images"]["kept"]:
            expected = int(labels.read(entry["name"]).valid.sum()) if entry["split"] == "train" else None
            assert entry["labels"] == expected
    assert report["labels_per_image"]["median"] >= 50
    assert report["track_length"]["min"] >= 3
    assert report["reprojection_error"]["max"] <= 4
    assert {"source", "features", "sfm", "labels"} <= set(report["seconds"])


def test_finished_stages_are_skipped(pictures, capsys):
    before = {name: (pictures / name).stat().st_mtime_ns for name in ("features.h5", "labels.h5", "sfm")}
    manifest = (pictures / "scene.json").read_bytes()
    published = ["--process_train_data_augmentation", "0", "--process_unlabel_data", "False", "--process_unlabel_data_pls_augment", "no"]
    assert preprocess(*DEMO, *published, "--out_dir", pictures.parents[1]) == 0
    assert {name: (pictures / name).stat().st_mtime_ns for name in before} == before
    assert (pictures / "scene.json").read_bytes() == manifest
    assert "sfm: finished before, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--num_keypoints", "400"], "num_keypoints was 500 and is now 400"),
        (["--min_track_length", "4"], "labels.min_track_length was 3 and is now 4"),
        (["--demo_option", "query_images=5"], "extra.query_images was 4 and is now 5"),
    ],
)
def test_other_settings_are_refused_and_named(pictures, capsys, change, named):
    before = (pictures / "scene.json").read_bytes()
    assert preprocess(*DEMO, *change, "--out_dir", pictures.parents[1]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "--overwrite" in error
    assert error.count("\n") == 1
    assert (pictures / "scene.json").read_bytes() == before
    assert len(list((pictures / "images").rglob("*.jpg"))) == 36


def test_overwrite_starts_anew(fresh):
    out, folder = fresh
    assert preprocess(*DEMO, "--out_dir", out) == 0
    assert preprocess(*DEMO, "--num_keypoints", "400", "--out_dir", out, "--overwrite") == 0
    with FeatureReader(folder / "features.h5") as features:
        assert max(len(features.read(name)) for name in features.names()) == 400


MOMENTS = {
    "features": {"published": "features.parts/000000.h5"},
    "sfm": {"published": "sfm"},
    "labels": {"published": "stages.json", "containing": '"sfm"'},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_is_finished_with_the_same_result(pictures, fresh, moment):
    out, folder = fresh
    kill_d2s("preprocess", *DEMO, "--out_dir", out, **MOMENTS[moment])
    assert not (folder / "scene.json").exists()
    assert preprocess(*DEMO, "--out_dir", out) == 0
    assert_same_file(folder / "features.h5", pictures / "features.h5")
    assert_same_file(folder / "labels.h5", pictures / "labels.h5")
    assert_allclose(
        [image.cam_from_world for image in Scene.load(folder).images], [image.cam_from_world for image in Scene.load(pictures).images]
    )
    assert not list(folder.glob(".*.tmp"))
    assert not (folder / "features.parts").exists()


def test_script_runs_from_inside_its_folder(pictures):
    process = start(*DEMO, "--out_dir", pictures.parents[1], cwd=ROOT / "processing")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "Next: d2s train --dataset demo --scene gallery" in output


def folder_of_photos(folder, pictures, count=4):
    folder.mkdir()
    for path in sorted((pictures / "images" / "mapping").iterdir())[:count]:
        shutil.copy(path, folder / path.name)
    return folder


PHOTOS = ["--dataset", "photos", "--camera", "SIMPLE_PINHOLE 320 240 260 160 120", "--num_keypoints", "100"]


def test_corrupt_image_is_one_clear_line(pictures, tmp_path, capsys):
    photos = folder_of_photos(tmp_path / "photos", pictures)
    victim = sorted(photos.iterdir())[2]
    victim.write_bytes(victim.read_bytes()[:2000])  # a header that reads well, and half a picture
    assert preprocess(*PHOTOS, "--dataset_dir", photos, "--out_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert victim.name in error
    assert "--skip_bad_images" in error
    assert error.count("\n") == 1


def test_corrupt_image_is_left_out_on_request(fresh):
    out, folder = fresh
    victim = sorted((folder / "images" / "mapping").iterdir())[3]
    data = victim.read_bytes()
    # An end mark at the very end keeps the demo from rendering the picture again; what lies before cannot be decoded.
    victim.write_bytes(data[:200] + b"\xff\xd9")
    assert preprocess(*DEMO, "--out_dir", out) == 2
    assert not (folder / "scene.json").exists()
    assert preprocess(*DEMO, "--out_dir", out, "--skip_bad_images", "--overwrite") == 0
    report = json.loads((folder / "report.json").read_text())
    (dropped,) = report["images"]["dropped"]
    assert dropped["name"] == f"mapping/{victim.name}"
    assert "unreadable" in dropped["reason"]
    assert dropped["name"] not in {image.name for image in Scene.load(folder).images}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--dataset", "7scenes"], "--dataset 7scenes needs --dataset_dir"),
        (["--dataset", "photos", "--dataset_dir", "{empty}"], "{empty} is empty"),
        (["--dataset", "photos", "--dataset_dir", "{missing}"], "{missing} is not a folder"),
        (["--dataset", "photos", "--dataset_dir", "{photos}", "--camera", "PINHOLE 320 240 260"], "PINHOLE"),
        (["--dataset", "photos", "--dataset_dir", "{photos}", "--camera", "BOX 320 240 260"], "Unknown camera model 'BOX'"),
        (["--dataset", "photos", "--dataset_dir", "{photos}", "--list_test", "{missing}"], "Image list {missing} does not exist"),
        (["--dataset", "demo", "--hloc_out_dir", "{empty}"], "{empty} has no outputs of hloc"),
        (["--dataset", "demo", "--hloc_out_dir", "{missing}"], "{missing} does not exist"),
        (["--dataset", "demo", "--hloc_out_dir", "{empty}", "--sfm", "native"], "--hloc_out_dir means nothing"),
        (["--dataset", "demo", "--process_train_data_augmentation", "--augment_copies", "0"], "must be from 1 to 100, not 0"),
        (["--dataset", "demo", "--augment_views", "2"], "another view must be from 0 to 1, not 2"),
        (["--dataset", "demo", "--unlabel_dir", "{empty}"], "--unlabel_dir has no effect without --process_unlabel_data"),
        (["--dataset", "demo", "--process_unlabel_data", "--list_unlabel", "{missing}"], "--list_unlabel {missing} does not exist"),
        (["--dataset", "demo", "--process_unlabel_data_pls_augment", "--unlabel_camera", "A 1 1 1"], "Unknown camera model 'A'"),
        (["--dataset", "demo", "--process_unlabel_data", "1", "--unlabel_neighbors", "0"], "--unlabel_neighbors 0 must be at least 1"),
        (["--dataset", "demo", "--num_keypoints", "0"], "--num_keypoints 0 must be greater than 0"),
        (["--dataset", "demo", "--scene", "../elsewhere"], "must be a name"),
        (["--dataset", "demo", "--demo_option", "size=10"], "--demo_option 'size=10' is not understood"),
        (["--dataset", "photos", "--dataset_dir", "{photos}", "--demo_option", "size=8x8"], "does not apply to --dataset photos"),
        (["--dataset", "demo", "--weights", "{missing}", *SMALL], "has no weights"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(pictures, tmp_path, capsys, arguments, expected):
    (tmp_path / "empty").mkdir()
    photos = folder_of_photos(tmp_path / "photos", pictures)
    places = {"empty": tmp_path / "empty", "missing": tmp_path / "missing", "photos": photos}
    out = tmp_path / "out"
    if "--weights" in arguments:
        shutil.copytree(pictures / "images", out / "demo" / "gallery" / "images")
    assert preprocess(*(a.format(**places) for a in arguments), "--out_dir", out) == 2
    error = capsys.readouterr().err
    assert expected.format(**places) in error
    assert error.count("\n") == 1
    assert not list(out.rglob("scene.json"))


@pytest.mark.parametrize("arguments", ["--dataset lego", "--dataset demo --unknown 1", "--dataset demo --features orb"])
def test_unknown_options_exit_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        preprocess(*arguments.split())
    assert raised.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_too_few_labels_are_an_error_that_names_the_way_out(fresh, capsys):
    out, folder = fresh
    assert preprocess(*DEMO, "--num_keypoints", "20", "--out_dir", out) == 1
    error = capsys.readouterr().err
    assert "Try" in error or "try" in error
    assert error.count("\n") == 1
    assert not (folder / "scene.json").exists()
    assert not (folder / "labels.h5").exists()
