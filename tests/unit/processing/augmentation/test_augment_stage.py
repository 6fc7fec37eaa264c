"""Augmented copies of a scene with exact geometry: labels, cameras, poses, resuming and refusing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from d2s.errors import InputError, SettingsMismatchError
from d2s.geometry.camera import format_camera
from d2s.geometry.reprojection import reprojection_errors
from d2s.scene.extra_images import ExtraImages
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene
from processing.augmentation import stage
from processing.augmentation.copies import AugmentOptions, copies_of, copy_name, read_copy
from processing.augmentation.stage import augment, report_lines
from processing.pipeline import clear

MIXED = AugmentOptions(copies=3, views=0.7)


@pytest.fixture(scope="module")
def made(wall, tmp_path_factory) -> Path:
    """The scene with 3 copies of each of its 4 images."""
    folder = tmp_path_factory.mktemp("made") / "made" / "wall"
    shutil.copytree(wall, folder)
    augment(folder, MIXED)
    return folder


def copies(folder: Path, options: AugmentOptions = MIXED) -> dict[str, object]:
    scene = Scene.load(folder)
    return {copy.name: copy for image in scene.split("train") for copy in copies_of(scene, image, options)}


def test_every_label_projects_onto_its_keypoint_by_the_copys_own_camera_and_pose(made):
    images = ExtraImages.load(made, "augment").images
    counts = []
    with FeatureReader(made / "augment" / "features.h5") as features, LabelReader(made / "augment" / "labels.h5") as labels:
        for image in images:
            feature, label = features.read(image.name), labels.read(image.name)
            assert len(feature) == len(label) and np.isin(label.weights(), (0, 1)).all() and (label.weights()[label.valid] == 1).all()
            counts.append(int(label.valid.sum()))
            if image.cam_from_world is not None:
                errors = reprojection_errors(image.camera, image.cam_from_world, label.xyz[label.valid], feature.keypoints[label.valid])
                zoom = image.camera.mean_focal_length() / 262.5
                assert errors.max() < 1.5 * zoom * 1.35 + 0.01  # a tilted view stretches its sides
                assert np.median(errors) < 0.5 * max(1, zoom)
    assert len(images) == 12 and np.median(counts) > 50


def test_labels_are_the_source_images_bit_by_bit(made):
    with LabelReader(made / "labels.h5") as originals, LabelReader(made / "augment" / "labels.h5") as labels:
        for image in ExtraImages.load(made, "augment").images:
            original, label = originals.read(image.source), labels.read(image.name)
            known = {xyz.tobytes() for xyz in original.xyz[original.valid]}
            rows = [xyz.tobytes() for xyz in label.xyz[label.valid]]
            assert set(rows) <= known and len(rows) == len(set(rows))


def test_light_keeps_camera_and_pose_and_homographies_have_none(made):
    scene, plans = Scene.load(made), copies(made)
    kinds = {copy.kind for copy in plans.values()}
    assert kinds == {"light", "view", "homography"}
    originals = {image.name: image for image in scene.images}
    for image in ExtraImages.load(made, "augment").images:
        source, kind = originals[image.source], plans[image.name].kind
        assert (image.cam_from_world is None) == (image.camera is None) == (kind == "homography")
        if kind == "light":
            assert format_camera(image.camera) == format_camera(scene.camera(source))
            np.testing.assert_allclose(image.cam_from_world, source.cam_from_world, atol=1e-12)
        if kind == "view":
            assert np.abs(image.cam_from_world - source.cam_from_world).max() > 0.01


def test_no_keypoint_shows_the_black_border(made):
    with FeatureReader(made / "augment" / "features.h5") as features:
        for name, copy in copies(made).items():
            if copy.view is not None:
                origin = copy.view.invert_points(features.read(name).keypoints)
                assert ((origin >= 4) & (origin <= [315, 235])).all()


def test_a_copy_depends_on_its_own_name_only(made):
    scene = Scene.load(made)
    one = copies_of(scene.with_images(scene.images[2:3]), scene.images[2], MIXED)
    for copy in one:
        assert np.array_equal(read_copy(scene, copy), read_copy(scene, copies(made)[copy.name]))
    pixels = [read_copy(scene, copy) for copy in one]
    assert not any(np.array_equal(pixels[0], other) for other in pixels[1:])
    assert not np.array_equal(pixels[0], read_copy(scene, copies_of(scene, scene.images[2], replace(MIXED, seed=1))[0]))


def test_names_of_copies():
    assert copy_name("a/b.jpg", 1) == "a/b.copy1.jpg" and copy_name("b", 0) == "b.copy0"


def test_the_report_says_what_was_made(made):
    report = json.loads((made / "augment" / "report.json").read_text())
    assert sum(report["copies"].values()) == 12 and set(report["labels_kept_by_kind"]) == {"light", "view", "homography"}
    assert 0.3 < report["labels_kept"] <= 1 and report["reprojection_error"]["max"] <= 1.5 + 0.01 and report["behind_camera"] == 0
    assert "augmented copies    12 (" in report_lines(report)[0]


def same_files(one: Path, other: Path) -> None:
    for name in ("features.h5", "labels.h5", "images.json"):
        assert (one / "augment" / name).read_bytes() == (other / "augment" / name).read_bytes(), name


@pytest.mark.parametrize("moment", ["features", "labels", "before the manifest"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(made, wall, tmp_path, monkeypatch, moment):
    folder = tmp_path / "made" / "wall"
    shutil.copytree(wall, folder)
    calls = []

    def stop(*arguments, **options):
        calls.append(1)
        raise KeyboardInterrupt

    if moment == "features":
        monkeypatch.setattr(stage, "PART", 2)
        real = stage.read_copy
        monkeypatch.setattr(stage, "read_copy", lambda scene, copy: real(scene, copy) if ".copy2" not in copy.name else stop())
    elif moment == "labels":
        monkeypatch.setattr(stage, "_summary", stop)
    else:
        monkeypatch.setattr(ExtraImages, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        augment(folder, MIXED)
    assert calls and not (folder / "augment" / "images.json").exists()
    assert (moment == "features") == (folder / "augment" / "features.parts").exists()
    monkeypatch.undo()
    augment(folder, MIXED)
    assert not list((folder / "augment").glob(".*.tmp")) and not (folder / "augment" / "features.parts").exists()
    same_files(made, folder)


def test_a_finished_folder_is_left_alone(made):
    before = {path: path.stat().st_mtime_ns for name in ("features.h5", "labels.h5") for path in [made / "augment" / name]}
    augment(made, MIXED)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("change", [{"copies": 2}, {"seed": 5}, {"labels": "match"}, {"views": 0.1}])
def test_other_options_are_refused_with_a_remedy(made, change):
    with pytest.raises(SettingsMismatchError, match=f"{next(iter(change))} was .*remove .*augment"):
        augment(made, replace(MIXED, **change))


def test_starting_the_scene_anew_removes_its_copies(wall_copy):
    augment(wall_copy, AugmentOptions())
    clear(wall_copy)
    assert {path.name for path in wall_copy.iterdir()} == {"photos"}


def test_parts_that_a_kill_left_beside_the_finished_file_are_removed(wall_copy):
    augment(wall_copy, AugmentOptions())
    parts = wall_copy / "augment" / "features.parts"
    parts.mkdir()
    (wall_copy / "augment" / "stages.json").write_text("{}")
    augment(wall_copy, AugmentOptions())
    assert not parts.exists()


def test_copies_of_another_version_of_the_scene_are_refused(wall_copy):
    augment(wall_copy, AugmentOptions())
    with h5py.File(wall_copy / "labels.h5", "r+") as file:
        file["wall/0.png/xyz"][1] += 1
    with pytest.raises(SettingsMismatchError, match="labels was"):
        augment(wall_copy, AugmentOptions())


def test_labels_by_matching(wall_copy):
    report = augment(wall_copy, AugmentOptions(copies=2, views=0, labels="match"))
    assert report["labels_kept"] > 0.3 and report["reprojection_error"]["median"] < 1
    with LabelReader(wall_copy / "augment" / "labels.h5") as labels:
        assert labels.read("wall/0.copy1.png").weight is None


def test_images_are_kept_on_request_only(made, wall_copy):
    assert not (made / "augment" / "images").exists()
    options = AugmentOptions(keep_images=True)
    augment(wall_copy, options)
    for name, copy in copies(wall_copy, options).items():
        stored = cv2.imread(str(wall_copy / "augment" / "images" / f"{name}.png"))[..., ::-1]
        assert np.array_equal(stored, read_copy(Scene.load(wall_copy), copy))


def test_an_image_that_is_gone_or_another_is_named(wall_copy):
    path = wall_copy / "photos" / "wall" / "3.png"
    cv2.imwrite(str(path), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(InputError, match=r"3\.png has 80x60 pixels, its camera 320x240"):
        augment(wall_copy, AugmentOptions())
    path.unlink()
    with pytest.raises(InputError, match=r"3\.png does not exist"):
        augment(wall_copy, AugmentOptions())


@pytest.mark.parametrize("values", [{"copies": 0}, {"copies": 101}, {"views": 1.5}, {"labels": "guess"}])
def test_impossible_options_are_refused(values):
    with pytest.raises(InputError, match="augmented copies"):
        AugmentOptions(**values)
