"""Extra training images: round trips, missing and damaged files named with the option that makes them, weights of labels."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError, SettingsMismatchError
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.extra_images import KINDS, MAKERS, ExtraImage, ExtraImages, extra_folder
from d2s.scene.label_store import LabelReader, Labels, write_labels


def made(kind: str = "augment") -> ExtraImages:
    camera = parse_camera("OPENCV 640 480 500.25 501 320 240 0.1 -0.2 0.001 0.002")
    placed = pose.from_qvec_tvec([1, 0.1, -0.2, 0.05], [1, 2.5, -1e-3])
    images = (ExtraImage("a/1.jpg/0", "a/1.jpg", camera, placed), ExtraImage("a/1.jpg/1", "a/1.jpg"), ExtraImage("b", "b.jpg", camera))
    return ExtraImages(kind, "abc", images, {"seed": 3})


@pytest.mark.parametrize("kind", KINDS)
def test_extra_images_come_back_as_they_were(tmp_path, kind):
    images = made(kind)
    images.save(tmp_path)
    assert (tmp_path / kind / "images.json").is_file()
    back = ExtraImages.load(tmp_path, kind)
    assert (back.kind, back.features_hash, back.info) == (kind, "abc", {"seed": 3})
    assert [(i.name, i.source) for i in back.images] == [(i.name, i.source) for i in images.images]
    assert back.images[1].camera is None and back.images[2].cam_from_world is None
    assert format_camera(back.images[0].camera) == format_camera(images.images[0].camera)
    np.testing.assert_allclose(back.images[0].cam_from_world, images.images[0].cam_from_world, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_names_the_option_that_makes_it(tmp_path, kind):
    with pytest.raises(MissingFileError, match=rf"{kind}.*d2s preprocess --{MAKERS[kind]} true"):
        ExtraImages.load(tmp_path, kind)


def test_features_of_other_settings_are_refused(tmp_path):
    made().require_features("abc", tmp_path)
    with pytest.raises(SettingsMismatchError, match="abc.*xyz"):
        made().require_features("xyz", tmp_path)


def test_unknown_kinds_double_names_and_poses_without_camera_are_refused(tmp_path):
    with pytest.raises(InputError, match="'other'.*augment, unlabel, unlabel_augment"):
        ExtraImages("other", "", ())
    with pytest.raises(InputError, match="'other'"):
        extra_folder(tmp_path, "other")
    with pytest.raises(FormatError, match="unique: twice"):
        ExtraImages("augment", "", (ExtraImage("twice", "a"), ExtraImage("twice", "b")))
    with pytest.raises(FormatError, match="here.*no camera"):
        ExtraImage("here", "a", None, pose.IDENTITY)


@pytest.mark.parametrize(
    "change",
    [{"format_version": 9}, {"kind": "unlabel"}, {"images": [{"name": "a"}]}, {"images": 3}, {"features_hash": None, "info": 1}],
)
def test_damage_is_named(tmp_path, change):
    made().save(tmp_path)
    path = tmp_path / "augment" / "images.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FormatError, match=r"images\.json.*process_train_data_augmentation"):
        ExtraImages.load(tmp_path, "augment")


def labels(**optional) -> Labels:
    count = 4
    ones = np.ones(count, np.int32)
    return Labels(np.zeros((count, 3), np.float32), np.array([True, False] * 2), ones, ones.astype(np.float32), **optional)


def test_weights_and_votes_come_back_and_are_one_where_absent(tmp_path):
    path = tmp_path / "labels.h5"
    weight, votes = np.array([1, 0.25, 0, 0.5], np.float32), np.array([3, 0, 0, 1], np.int32)
    write_labels(path, [("plain", labels()), ("weighted", labels(weight=weight, votes=votes))])
    with LabelReader(path) as reader:
        plain, weighted = reader.read("plain"), reader.read("weighted")
    assert plain.weight is None and plain.votes is None and plain.weights().tolist() == [1] * 4
    assert weighted.weights().tolist() == weight.tolist() and weighted.votes is not None and weighted.votes.tolist() == votes.tolist()


@pytest.mark.parametrize("bad", [[1, -0.5, 1, 1], [1, np.nan, 1, 1], [1, 1]])
def test_impossible_weights_are_named(tmp_path, bad):
    with pytest.raises(FormatError, match="[Ww]eights|row-aligned"):
        labels(weight=np.array(bad, np.float32))
    path = tmp_path / "labels.h5"
    write_labels(path, [("a.jpg", labels(weight=np.ones(4, np.float32)))])
    with h5py.File(path, "r+") as file:
        del file["a.jpg/weight"]
        file["a.jpg/weight"] = np.array(bad, np.float32)
    with LabelReader(path) as reader, pytest.raises(FormatError, match=r"labels\.h5.*a\.jpg"):
        reader.read("a.jpg")
