"""The files of a scene: round trips, parts that survive a kill, damage that is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from d2s.errors import FormatError, MissingFileError, SettingsMismatchError
from d2s.features.base import LocalFeatures, settings_hash
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.atomic import atomic_path, read_json, remove_leftovers, remove_leftovers_of, write_json, write_text
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.label_store import LabelReader, Labels, write_labels
from d2s.scene.manifest import Scene, SceneImage

SETTINGS = {"name": "made", "num_keypoints": 5}


def features(seed=0, count=5) -> LocalFeatures:
    random = np.random.default_rng(seed)
    descriptors = random.normal(size=(count, 8)).astype(np.float16)
    return LocalFeatures(
        random.uniform(0, 2000, (count, 2)).astype(np.float32), np.linspace(1, 0.1, count, dtype=np.float32), descriptors, (1920, 1080)
    )


def made_scene() -> Scene:
    poses = [pose.from_qvec_tvec([1, 0.1 * i, -0.2, 0.05], [i, 2.5, -1e-3]) for i in range(3)]
    cameras = {7: parse_camera("OPENCV 640 480 500.25 501 320 240 0.1 -0.2 0.001 0.002"), 3: parse_camera("SIMPLE_PINHOLE 32 24 30 16 12")}
    images = (SceneImage("a/1.jpg", 7, poses[0], "train"), SceneImage("b/1.jpg", 3, poses[1], "val"), SceneImage("c.jpg", 7, None, "test"))
    return Scene("made", "place", Path("/somewhere/images"), cameras, images, "arbitrary", {"name": "sift"}, {"poses": "made"})


def test_a_scene_comes_back_as_it_was(tmp_path):
    scene = made_scene()
    scene.save(tmp_path)
    back = Scene.load(tmp_path)
    assert [(i.name, i.camera_id, i.split) for i in back.images] == [(i.name, i.camera_id, i.split) for i in scene.images]
    for one, other in zip(back.images, scene.images, strict=True):
        if other.cam_from_world is None:
            assert one.cam_from_world is None
        else:
            np.testing.assert_allclose(one.cam_from_world, other.cam_from_world, atol=1e-12)
    assert {i: format_camera(c) for i, c in back.cameras.items()} == {i: format_camera(c) for i, c in scene.cameras.items()}
    assert (back.units, back.features, back.provenance) == (scene.units, scene.features, scene.provenance)


def test_scenes_refuse_double_names_unknown_cameras_and_splits():
    scene = made_scene()
    with pytest.raises(FormatError, match=r"unique.*a/1\.jpg"):
        scene.with_images([scene.images[0], scene.images[0]])
    with pytest.raises(FormatError, match="camera 9"):
        scene.with_images([SceneImage("x.jpg", 9, None, "train")])
    with pytest.raises(FormatError, match="'query'"):
        scene.with_images([SceneImage("x.jpg", 7, None, "query")])


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 99}', '{"format_version": 1}', "[1]"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "scene.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"scene\.json"):
        Scene.load(tmp_path)


def test_a_missing_manifest_says_what_to_run(tmp_path):
    with pytest.raises(MissingFileError, match="d2s preprocess"):
        Scene.load(tmp_path)


def test_features_come_back_as_they_were_in_hlocs_layout(tmp_path):
    path = tmp_path / "features.h5"
    writer = FeatureWriter(path, SETTINGS)
    writer.write([("seq/1.jpg", features(1)), ("seq/2.jpg", features(2, count=0))])
    writer.write([("3.jpg", features(3))])
    writer.finish(["seq/1.jpg", "seq/2.jpg", "3.jpg"])
    with FeatureReader(path) as reader:
        assert sorted(reader.names()) == ["3.jpg", "seq/1.jpg", "seq/2.jpg"] and reader.settings == SETTINGS
        back = reader.read("seq/1.jpg")
    assert np.array_equal(back.keypoints, features(1).keypoints) and back.keypoints.dtype == np.float32
    assert np.array_equal(back.descriptors, features(1).descriptors) and back.image_size == (1920, 1080)
    with h5py.File(path) as file:
        assert file["seq/1.jpg/descriptors"].shape == (8, 5) and file["seq/1.jpg/image_size"][()].tolist() == [1920, 1080]
        assert file.attrs["settings_hash"] == settings_hash(SETTINGS)
    assert not path.with_suffix(".parts").exists()


def test_parts_made_with_other_settings_are_refused(tmp_path):
    FeatureWriter(tmp_path / "features.h5", SETTINGS).write([("1.jpg", features())])
    with pytest.raises(SettingsMismatchError, match="other settings"):
        FeatureWriter(tmp_path / "features.h5", {**SETTINGS, "num_keypoints": 6})


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_scene_files import SETTINGS, FeatureWriter, features
import d2s.scene.feature_store as store
writer = FeatureWriter(Path(sys.argv[1]), SETTINGS)
writer.write([("1.jpg", features(1))])
real = store._write_group
def die(file, name, item):
    real(file, name, item)
    if name == "3.jpg":
        os.kill(os.getpid(), signal.SIGKILL)
store._write_group = die
writer.write([("2.jpg", features(2)), ("3.jpg", features(3))])
"""


def test_a_killed_writer_keeps_whole_parts_only(tmp_path):
    path = tmp_path / "features.h5"
    call = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)]
    assert subprocess.run(call, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    writer = FeatureWriter(path, SETTINGS)
    assert writer.done == {"1.jpg"} and not path.exists()
    writer.write([("2.jpg", features(2)), ("3.jpg", features(3))])
    writer.finish(["1.jpg", "2.jpg", "3.jpg"])
    with FeatureReader(path) as reader:
        assert np.array_equal(reader.read("3.jpg").keypoints, features(3).keypoints)


def test_labels_come_back_as_they_were(tmp_path):
    labels = Labels(np.ones((4, 3), np.float32), np.array([1, 0, 1, 0], bool), np.array([3, 0, 9, 0], np.int32), np.zeros(4, np.float32))
    write_labels(tmp_path / "labels.h5", [("a/b.jpg", labels)])
    with LabelReader(tmp_path / "labels.h5") as reader:
        back = reader.read("a/b.jpg")
        assert "a" not in reader and "a/b.jpg" in reader
        with pytest.raises(MissingFileError, match=r"labels of image c\.jpg"):
            reader.read("c.jpg")
    for name in ("xyz", "valid", "track_length", "error"):
        assert np.array_equal(getattr(back, name), getattr(labels, name)) and getattr(back, name).dtype == getattr(labels, name).dtype


def test_labels_must_be_row_aligned():
    with pytest.raises(FormatError, match="row-aligned"):
        Labels(np.zeros((4, 3), np.float32), np.zeros(3, bool), np.zeros(4, np.int32), np.zeros(4, np.float32))


def test_damaged_files_are_named(tmp_path):
    bad = tmp_path / "features.h5"
    bad.write_bytes(b"not hdf5")
    with pytest.raises(FormatError, match=r"features\.h5"):
        FeatureReader(bad)
    with h5py.File(tmp_path / "half.h5", "w") as file:
        file["1.jpg/keypoints"] = np.zeros((1, 2))
    with FeatureReader(tmp_path / "half.h5") as reader, pytest.raises(FormatError, match=r"half\.h5.*1\.jpg"):
        reader.read("1.jpg")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x", encoding="utf-8")
        raise RuntimeError
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_folders_replace_folders(tmp_path):
    for text in ("old", "new"):
        with atomic_path(tmp_path / "model") as temporary:
            temporary.mkdir()
            write_text(temporary / text, text)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["new"]


def test_settings_have_one_name_whatever_their_order():
    assert settings_hash({"a": 1, "b": [2]}) == settings_hash(json.loads('{"b": [2], "a": 1}')) != settings_hash({"a": 2, "b": [2]})


def test_leftovers_of_one_path_go_and_what_lies_beside_it_stays(tmp_path):
    folder, file = tmp_path / ".model.0123abcd.tmp", tmp_path / ".model.89abcdef.tmp"
    (folder / "sub").mkdir(parents=True)
    file.write_text("half")
    others = [tmp_path / name for name in (".model2.0123abcd.tmp", ".model.draft.tmp", "model")]
    for other in others:
        other.write_text("kept")
    remove_leftovers_of(tmp_path / "model")
    assert sorted(tmp_path.iterdir()) == sorted(others)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
