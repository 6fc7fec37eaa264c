"""A scene of ours given out as hloc's outputs and read again: the same labels; and its features extracted anew."""

from __future__ import annotations

import json
import shutil

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.commands.options import run_command
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from processing import preprocessing
from processing.sfm.database import posed_model


@pytest.fixture(scope="module")
def given(tiny, tmp_path_factory):
    """A COLMAP data set of the demo's pictures, and beside it our features and model under hloc's names, keypoints halved."""
    root = tmp_path_factory.mktemp("given")
    scene = Scene.load(tiny.folder)
    mapping = scene.with_images(scene.split("train", "test"))
    data, outputs = root / "room", root / "outputs"
    (data / "sparse" / "0").mkdir(parents=True)
    (data / "images").symlink_to(scene.image_dir)
    posed_model(mapping, {image.name: np.zeros((0, 2)) for image in mapping.images}).write_binary(str(data / "sparse" / "0"))
    (data / "list_test.txt").write_text("\n".join(image.name for image in scene.split("test")))
    (data / "list_train.txt").write_text("\n".join(image.name for image in scene.split("train")))
    outputs.mkdir()
    shutil.copy(tiny.folder / "features.h5", outputs / "feats-sift.h5")
    shutil.copytree(tiny.folder / "sfm", outputs / "sfm_sift+nn")
    record = {"own_features": scene.features["settings"]}
    (outputs / "feats-sift.h5.json").write_text(json.dumps(record))
    return data, outputs


def preprocess(data, outputs, out, *options):
    arguments = ["--dataset", "colmap", "--dataset_dir", data, "--hloc_out_dir", outputs, "--out_dir", out, "--units", "metres"]
    arguments += ["--num_keypoints", "500", "--cudaid", "-1", *options]
    return run_command("preprocess", preprocessing.add_arguments, preprocessing.run, [str(a) for a in arguments])


def test_labels_come_back_as_they_were(tiny, given, tmp_path, capsys):
    assert preprocess(*given, tmp_path) == 0
    assert "finds 100% of hloc's keypoints" in capsys.readouterr().out
    folder = tmp_path / "colmap" / "room"
    with LabelReader(tiny.folder / "labels.h5") as ours, LabelReader(folder / "labels.h5") as read:
        names = [image.name for image in Scene.load(tiny.folder).split("train")]
        assert len(names) > 20
        for name in names:
            before, after = ours.read(name), read.read(name)
            assert_array_equal(after.valid, before.valid)
            assert_allclose(after.xyz, before.xyz, atol=1e-6)
            assert_array_equal(after.track_length, before.track_length)
            assert_allclose(after.error, before.error, atol=1e-4)
    assert Scene.load(folder).features["settings"] == Scene.load(tiny.folder).features["settings"]


def halve(path):
    with h5py.File(path, "a") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Group) and "keypoints" in item else None)
        for name in names:
            keypoints = file[name]["keypoints"][()].astype(np.float16)
            del file[name]["keypoints"]
            file[name]["keypoints"] = keypoints


def test_extracting_again_restores_what_was_halved(tiny, given, tmp_path):
    data, outputs = given
    halved = shutil.copytree(outputs, tmp_path / "halved")
    halve(halved / "feats-sift.h5")
    assert preprocess(data, halved, tmp_path, "--hloc_reextract") == 0
    folder = tmp_path / "colmap" / "room"
    shares = []
    with (
        FeatureReader(tiny.folder / "features.h5") as exact,
        FeatureReader(folder / "features.h5") as again,
        LabelReader(tiny.folder / "labels.h5") as before,
        LabelReader(folder / "labels.h5") as after,
    ):
        for image in Scene.load(folder).split("train"):
            assert_array_equal(again.read(image.name).keypoints, exact.read(image.name).keypoints)
            both = after.read(image.name).valid & before.read(image.name).valid
            shares.append(both.sum() / before.read(image.name).valid.sum())
            assert_allclose(after.read(image.name).xyz[both], before.read(image.name).xyz[both], atol=0.02)
    assert np.mean(shares) > 0.95


def test_extracting_again_needs_an_equal_extractor(given, tmp_path, capsys):
    data, outputs = given
    foreign = shutil.copytree(outputs, tmp_path / "foreign")
    (foreign / "feats-sift.h5.json").unlink()
    assert preprocess(data, foreign, tmp_path, "--hloc_reextract") == 2
    assert "no extractor of ours equals feats-sift.h5" in capsys.readouterr().err


def test_another_extractor_is_noticed(given, tmp_path, capsys):
    data, outputs = given
    other = shutil.copytree(outputs, tmp_path / "other")
    record = json.loads((other / "feats-sift.h5.json").read_text())
    record["own_features"]["max_side"] = 160
    (other / "feats-sift.h5.json").write_text(json.dumps(record))
    assert preprocess(data, other, tmp_path) == 0
    assert "queries may fit the map badly" in capsys.readouterr().out
