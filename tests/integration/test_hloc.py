"""hloc itself (installed, or cloned into third_party/) from end to end; skipped, by name, where it is not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.commands.doctor import find_hloc
from d2s.commands.options import run_command
from d2s.features.table import make_extractor
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from processing import preprocessing
from processing.hloc import package
from processing.hloc.again import compare
from processing.hloc.driver import exact_count
from processing.hloc.formats import HlocFeatures, HlocMatches, read_pairs

pytestmark = pytest.mark.skipif(find_hloc() is None, reason="needs hloc, installed or cloned into third_party/")

ROOT = Path(__file__).resolve().parents[2]
COUNT = 24


def preprocess(*arguments):
    return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def photos(tiny, tmp_path_factory):
    """Pictures of the demo's room with their true poses, as a COLMAP data set."""
    folder = tmp_path_factory.mktemp("photos") / "room"
    scene = Scene.load(tiny.folder)
    mapping = scene.split("train", "val")[:COUNT]
    queries = scene.split("test")[:2]
    (folder / "sparse" / "0").mkdir(parents=True)
    from processing.sfm.database import posed_model

    kept = scene.with_images((*mapping, *queries))
    for image in kept.images:
        (folder / "images" / image.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scene.path(image), folder / "images" / image.name)
    posed_model(kept, {image.name: np.zeros((0, 2)) for image in kept.images}).write_binary(str(folder / "sparse" / "0"))
    (folder / "list_test.txt").write_text("\n".join(image.name for image in queries))
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """The scene made by running hloc: its SIFT, its matcher, its triangulation."""
    out = tmp_path_factory.mktemp("out")
    options = ["--sfm", "hloc", "--hloc_conf", "sift", "--hloc_matcher", "NN-ratio", "--hloc_pairs", "poses", "--num_keypoints", "400"]
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", out, "--units", "metres", "--cudaid", "-1", *options]
    assert preprocess(*arguments) == 0
    return out / "colmap" / "room", arguments


def check_labels(folder, most=1.5):
    """Labels show up at their keypoints. Gives how many there are."""
    scene, errors = Scene.load(folder), []
    with FeatureReader(folder / "features.h5") as features, LabelReader(folder / "labels.h5") as labels:
        for image in scene.split("train"):
            feature, label = features.read(image.name), labels.read(image.name)
            pixels, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, label.xyz[label.valid]))
            assert in_front.all()
            errors.append(np.linalg.norm(pixels - feature.keypoints[label.valid], axis=1))
    errors = np.concatenate(errors)
    assert np.median(errors) < most
    return len(errors)


def test_hloc_runs_and_its_labels_fit(made):
    folder, _ = made
    assert check_labels(folder) > 1000
    hloc = folder / "hloc"
    names = {path.name for path in hloc.iterdir()}
    assert {
        "feats-sift.h5",
        "sfm_sift+NN-ratio",
        "pairs-db-poses20.txt",
        "feats-sift_matches-NN-mutual-ratio.8_pairs-db-poses20.h5",
    } <= names
    with HlocFeatures(hloc / "feats-sift.h5") as features:
        assert features.keypoints(features.names()[0]).dtype == np.float32
        assert len(features.names()) == COUNT + 2
    with sqlite3.connect(hloc / "sfm_sift+NN-ratio" / "database.db") as connection:
        configs = {row[0] for row in connection.execute("SELECT config FROM two_view_geometries WHERE rows > 0")}
    assert configs == {int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)}


def test_our_reader_gives_hlocs_matches(made):
    hloc = made[0] / "hloc"
    get_matches = package.hloc_module("utils.io").get_matches
    path = next(hloc.glob("*_matches-*.h5"))
    pairs = read_pairs(hloc / "pairs-db-poses20.txt")
    with HlocMatches(path) as matches:
        for a, b in pairs[:10]:
            expected = get_matches(path, a, b)[0]
            assert {tuple(row) for row in matches.read(a, b).tolist()} == {tuple(row) for row in expected.tolist()}


def test_second_run_makes_nothing_anew(made, capsys):
    folder, arguments = made
    files = [*(folder / "hloc").glob("*.h5"), folder / "labels.h5"]
    before = [path.stat().st_mtime_ns for path in files]
    assert preprocess(*arguments) == 0
    assert [path.stat().st_mtime_ns for path in files] == before
    assert "made with the same settings" in capsys.readouterr().out


@pytest.mark.parametrize("moment", [".feats-sift.h5.*.tmp", ".feats-sift_matches-*.tmp"])
def test_killed_run_is_finished_with_the_same_result(made, tmp_path, moment):
    folder, arguments = made
    arguments = [tmp_path if argument == folder.parents[1] else argument for argument in arguments]
    command = [sys.executable, str(ROOT / "processing" / "preprocessing.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    while not list((tmp_path / "colmap" / "room" / "hloc").glob(moment)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)  # hloc's loaders are processes of their own
    process.communicate()
    assert preprocess(*arguments) == 0
    again = tmp_path / "colmap" / "room"
    assert not list((again / "hloc").glob(".*.tmp"))
    with LabelReader(folder / "labels.h5") as before, LabelReader(again / "labels.h5") as after:
        for image in Scene.load(folder).split("train"):
            assert_array_equal(after.read(image.name).valid, before.read(image.name).valid)
            assert_allclose(after.read(image.name).xyz, before.read(image.name).xyz, atol=1e-5)


def test_configurations_of_hloc_are_not_changed(made):
    confs = package.hloc_module("extract_features").confs
    copy = package.configuration("extract_features", "superpoint_aachen")
    copy["model"]["max_keypoints"] = 7
    assert confs["superpoint_aachen"]["model"]["max_keypoints"] == 4096


def test_what_plain_hloc_leaves_is_read_and_mended(made, photos, tmp_path, capsys):
    """hloc's own triangulation.main: with pycolmap 4 it gives 0 points and no error; its database has all that is needed."""
    hloc = made[0] / "hloc"
    outputs = tmp_path / "outputs" / "colmap" / "room"
    outputs.mkdir(parents=True)
    shutil.copy(hloc / "feats-sift.h5", outputs)
    (pairs,), (matches,) = hloc.glob("pairs-*.txt"), hloc.glob("*_matches-*.h5")
    sfm = outputs / "sfm_sift+NN-ratio"
    model = package.hloc_module("triangulation").main(
        sfm, hloc / "sfm_reference", photos / "images", pairs, hloc / "feats-sift.h5", matches
    )
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", tmp_path / "out", "--units", "metres", "--cudaid", "-1"]
    assert preprocess(*arguments, "--sfm", "auto", "--hloc_out_dir", tmp_path / "outputs") == 0
    out = capsys.readouterr().out
    assert ("0 points" in out) == (model.num_points3D() == 0)
    found = check_labels(tmp_path / "out" / "colmap" / "room")
    assert found > 0.9 * check_labels(made[0])


def test_native_labels_agree_with_hlocs(made, photos, tmp_path):
    """The same keypoints and matches, triangulated by hloc and by the native path."""
    from processing.labels import LabelOptions, make_labels, point_table
    from processing.sfm.colmap import SfmOptions, triangulate, verify_matches

    folder = made[0]
    scene = Scene.load(folder)
    train = scene.with_images(scene.split("train"))
    with FeatureReader(folder / "features.h5") as reader:
        features = {image.name: reader.read(image.name) for image in train.images}
    hloc = folder / "hloc"
    rows = {}
    with HlocFeatures(hloc / "feats-sift.h5") as reader:
        for image in train.images:
            raw = reader.read(image.name)
            new = np.full(len(raw), -1)
            new[raw.best(400)] = np.arange(min(400, len(raw)))
            rows[image.name] = new
    with HlocMatches(next(hloc.glob("*_matches-*.h5"))) as reader:
        matches = {}
        for a, b in read_pairs(next(hloc.glob("pairs-*.txt"))):
            found = np.column_stack([rows[name][column] for name, column in zip((a, b), reader.read(a, b).T, strict=True)])
            if (b, a) not in matches:
                matches[a, b] = found[(found >= 0).all(axis=1)].astype(np.int32)
    verified = verify_matches(train, features.__getitem__, matches, SfmOptions())
    model = triangulate(train, {name: feature.keypoints for name, feature in features.items()}, verified, SfmOptions())
    native = dict(make_labels(point_table(model), {name: len(f) for name, f in features.items()}, LabelOptions()))
    with LabelReader(folder / "labels.h5") as reader:
        theirs = {image.name: reader.read(image.name) for image in train.images}
    both = {name: native[name].valid & theirs[name].valid for name in native}
    apart = np.concatenate([np.linalg.norm(native[name].xyz[both[name]] - theirs[name].xyz[both[name]], axis=1) for name in native])
    assert len(apart) > 0.7 * sum(int(label.valid.sum()) for label in theirs.values())
    assert np.median(apart) < 0.005
    assert (apart < 0.01).mean() > 0.8


def test_our_features_go_through_hloc(photos, tmp_path):
    """`--hloc_conf own`: extracted by us, in hloc's layout, matched and triangulated by hloc; queries are extracted live."""
    options = ["--sfm", "hloc", "--hloc_conf", "own", "--num_keypoints", "400", "--hloc_out_dir", tmp_path / "h"]
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", tmp_path / "out", "--units", "metres", "--cudaid", "-1"]
    assert preprocess(*arguments, *options) == 0
    folder = tmp_path / "out" / "colmap" / "room"
    check_labels(folder)
    assert Scene.load(folder).features["settings"]["name"] == "sift"
    assert (tmp_path / "h" / "colmap" / "room" / "feats-sift-n400-own.h5").is_file()
    assert json.loads((folder / "report.json").read_text())["sfm"]["made_by"] == "hloc"


def test_extractor_without_its_submodule_is_one_clear_line(photos, tmp_path, capsys):
    if not package.usable("extractors", {"name": "superpoint"}):
        pytest.skip("hloc's SuperPoint is here")
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", tmp_path, "--sfm", "hloc", "--hloc_conf", "superpoint_aachen"]
    assert preprocess(*arguments) == 2
    error = capsys.readouterr().err
    assert "hloc.extractors.superpoint cannot be used here" in error
    assert error.count("\n") == 1


@pytest.fixture
def superpoint_weights():
    """The checkpoint that hloc's submodule brings."""
    if problem := package.usable("extractors", {"name": "superpoint"}):
        pytest.skip(problem)
    return find_hloc() / "third_party" / "SuperGluePretrainedNetwork" / "models" / "weights" / "superpoint_v1.pth"


def test_superpoint_of_hloc_equals_ours(photos, superpoint_weights, tmp_path):
    """With hloc's sampling and its shrunk images; gray levels of the two decoders may differ by one."""
    conf = exact_count(package.configuration("extract_features", "superpoint_aachen"), 200)
    conf["preprocessing"]["resize_max"] = 250
    names = [image.relative_to(photos / "images").as_posix() for image in sorted((photos / "images").rglob("*.*g"))[:3]]
    package.hloc_module("extract_features").main(
        conf, photos / "images", as_half=False, image_list=names, feature_path=tmp_path / "feats.h5"
    )
    ours = make_extractor("superpoint", 200, weights=superpoint_weights, sampling="hloc", max_side=250)
    with HlocFeatures(tmp_path / "feats.h5") as reader:
        for name in names:
            found = compare(ours, photos / "images" / name, reader.read(name), 200)
            assert found.found > 0.98 and found.similarity > 0.99999


def test_superpoint_of_hloc_with_the_best_matcher_that_is_here(photos, superpoint_weights, tmp_path):
    options = [
        "--features",
        "superpoint",
        "--weights",
        superpoint_weights,
        "--sfm",
        "hloc",
        "--hloc_pairs",
        "poses",
        "--num_neighbors",
        "5",
    ]
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", tmp_path, "--units", "metres", "--cudaid", "-1", *options]
    assert preprocess(*arguments, "--num_keypoints", "300") == 0
    assert check_labels(tmp_path / "colmap" / "room", most=2.0) > 1000


def test_halved_features_of_hloc_are_read(made, photos, tmp_path):
    """hloc's default, as_half=True."""
    path = tmp_path / "feats-sift.h5"
    shutil.copy(made[0] / "hloc" / "feats-sift.h5", path)
    with h5py.File(path, "a") as file, HlocFeatures(made[0] / "hloc" / "feats-sift.h5") as reader:
        for name in reader.names():
            keypoints = file[name]["keypoints"][()].astype(np.float16)
            del file[name]["keypoints"]
            file[name]["keypoints"] = keypoints
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    shutil.move(path, outputs / "feats-sift.h5")
    reference, (pairs,) = made[0] / "hloc" / "sfm_reference", (made[0] / "hloc").glob("pairs-*.txt")
    matches = next((made[0] / "hloc").glob("*_matches-*.h5"))
    from processing.hloc.driver import triangulate

    triangulate(outputs / "sfm_sift+NN-ratio", reference, photos / "images", pairs, outputs / "feats-sift.h5", matches)
    arguments = ["--dataset", "colmap", "--dataset_dir", photos, "--out_dir", tmp_path / "out", "--units", "metres", "--cudaid", "-1"]
    assert preprocess(*arguments, "--hloc_out_dir", outputs) == 0
    check_labels(tmp_path / "out" / "colmap" / "room")
    assert_allclose(Scene.load(tmp_path / "out" / "colmap" / "room").images[0].cam_from_world, Scene.load(made[0]).images[0].cam_from_world)
