"""Photos without poses, from the command line: labels, copies, the extension of the map, training on them, and SIGKILL in between."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.geometry.reprojection import reprojection_errors
from d2s.scene.extra_images import ExtraImages
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene

from .conftest import kill_d2s

TINY = ["--demo_option", "mapping_images=32", "--demo_option", "query_images=5", "--demo_option", "size=320x240", "--num_keypoints", "500"]
"""How the fixture `tiny` was made."""

CLOCK = ("stages.json", "report.json")
"""Files that tell seconds."""


@dataclass(frozen=True)
class Updated:
    """A copy of the tiny scene, and the command that labels its query photos as if nobody knew their poses."""

    tiny: Any
    data_dir: Path

    @property
    def folder(self) -> Path:
        return self.data_dir / "demo" / "gallery"

    @property
    def command(self) -> list[object]:
        photos = self.folder / Scene.load(self.tiny.folder).image_dir.relative_to(self.tiny.folder) / "query"
        return ["preprocess", "--dataset", "demo", *TINY, "--out_dir", self.data_dir, "--cudaid", "-1", "--unlabel_dir", photos]

    def contents(self) -> dict[str, bytes]:
        """What must not depend on how often the command was killed."""
        paths = [path for kind in ("unlabel", "unlabel_augment") for path in (self.folder / kind).rglob("*")]
        files = [path for path in paths if path.is_file() and path.name not in CLOCK]
        return {str(path.relative_to(self.folder)): path.read_bytes().replace(str(self.data_dir).encode(), b"") for path in files}


def copy_of(tiny, folder):
    shutil.copytree(tiny.data_dir, folder)
    return Updated(tiny, folder)


EVERYTHING = ["--process_unlabel_data_pls_augment", "--unlabel_extend_map"]


@pytest.fixture(scope="module")
def updated(tiny, tmp_path_factory):
    """Everything that can be made of photos without labels, in an undisturbed run."""
    place = copy_of(tiny, tmp_path_factory.mktemp("updated") / "scenes")
    output = tiny.d2s(*place.command, *EVERYTHING)
    assert "photos labelled" in output
    return place


def test_labels_are_right_though_no_pose_was_given(updated):
    scene = Scene.load(updated.folder)
    truth = {image.name.removeprefix("query/"): image for image in scene.split("test")}
    photos = ExtraImages.load(updated.folder, "unlabel")
    assert len(photos.images) >= 4
    errors = []
    with FeatureReader(updated.folder / "unlabel" / "features.h5") as f, LabelReader(updated.folder / "unlabel" / "labels.h5") as reader:
        for photo in photos.images:
            labels, keypoints = reader.read(photo.name), f.read(photo.name).keypoints
            image = truth[photo.name]
            errors.append(reprojection_errors(scene.camera(image), image.cam_from_world, labels.xyz, keypoints)[labels.valid])
            assert photo.cam_from_world is None  # a pose from the map is no reference
            assert ((labels.weight > 0) | ~labels.valid).all()
    assert np.median(np.concatenate(errors)) < 2
    assert np.percentile(np.concatenate(errors), 95) < 6


def test_report_and_records_tell_where_the_photos_were_taken(updated):
    scene = Scene.load(updated.folder)
    report = json.loads((updated.folder / "unlabel" / "report.json").read_text())
    assert report["photos"] == 5
    assert report["labelled"] + len(report["dropped"]) == 5
    for image in scene.split("test"):
        record = report["records"][image.name.removeprefix("query/")]
        if record["labels"]:
            found = pose.from_qvec_tvec(record["qvec"], record["tvec"])
            distance, angle = pose.pose_error(found, image.cam_from_world)
            assert distance < 0.1
            assert angle < 2
            assert len(record["neighbours"]) == 10


def test_copies_have_the_labels_of_their_photos(updated):
    photos, copies = (ExtraImages.load(updated.folder, kind) for kind in ("unlabel", "unlabel_augment"))
    assert len(copies.images) == 2 * len(photos.images)
    with (
        LabelReader(updated.folder / "unlabel" / "labels.h5") as known,
        LabelReader(updated.folder / "unlabel_augment" / "labels.h5") as made,
    ):
        for copy in copies.images:
            of_photo, of_copy = known.read(copy.source), made.read(copy.name)
            points = {xyz.tobytes() for xyz in of_photo.xyz[of_photo.valid]}
            assert of_copy.valid.sum() > 10
            assert {xyz.tobytes() for xyz in of_copy.xyz[of_copy.valid]} <= points


def test_scene_itself_does_not_change(tiny, updated):
    for name in ("labels.h5", "features.h5"):
        assert (updated.folder / name).read_bytes() == (tiny.folder / name).read_bytes(), name
    assert Scene.load(updated.folder).split("train", "val", "test")[3].name == Scene.load(tiny.folder).images[3].name
    assert len(Scene.load(updated.folder).images) == len(Scene.load(tiny.folder).images)


def test_finished_labels_are_kept_and_other_options_refused(updated):
    before = updated.contents()
    assert "labels: finished before, skipped" in updated.tiny.d2s(*updated.command, *EVERYTHING)
    assert updated.contents() == before
    process = updated.tiny.start(*updated.command, *EVERYTHING, "--unlabel_neighbors", "3")
    output = process.communicate()[0]
    assert process.returncode == 2, output
    assert "neighbors was 10 and is now 3" in output
    assert f"remove {updated.folder / 'unlabel'}" in output


def test_training_takes_them(updated, tmp_path):
    where = ["--dataset", "demo", "--scene", "gallery", "--data_dir", updated.data_dir, "--log_dir", tmp_path, "--name", "run"]
    changes = ["model.blocks=1", "training.max_minutes=0", "training.n_iters=4"]
    steps = [*(text for change in changes for text in ("--set", change)), "--visdom", "off", "--cudaid", "-1"]
    updated.tiny.d2s("train", *where, *steps, "--unlabel", "--unlabel_rate", "0.5")
    assert (tmp_path / "run" / "model").is_dir()


def test_list_pairs_and_camera_of_the_users_choice(tiny, tmp_path):
    place = copy_of(tiny, tmp_path / "scenes")
    scene = Scene.load(tiny.folder)
    train = [image.name for image in scene.split("train")]
    camera = format_camera(scene.camera(scene.images[0]))
    (tmp_path / "list.txt").write_text(f"0001.jpg {camera}\n0003.jpg\n")
    pairs = [f"{photo} {image}" for photo in ("0001.jpg", "0003.jpg", "another.jpg") for image in train[::-1]]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs) + "\n")
    options = ["--list_unlabel", tmp_path / "list.txt", "--unlabel_pairs", tmp_path / "pairs.txt", "--unlabel_neighbors", "25"]
    other = format_camera(parse_camera("SIMPLE_PINHOLE 320 240 262 160 120"))
    tiny.d2s(*place.command, "--process_unlabel_data", *options, "--unlabel_camera", other)
    records = json.loads((place.folder / "unlabel" / "records.json").read_text())
    assert list(records) == ["0001.jpg", "0003.jpg"]
    assert [n["name"] for n in records["0001.jpg"]["neighbours"]] == train[::-1][:25]
    cameras = {image.name: format_camera(image.camera) for image in ExtraImages.load(place.folder, "unlabel").images}
    assert cameras == {"0001.jpg": camera, "0003.jpg": other}


def test_photos_of_another_place_are_dropped_and_none_left_is_an_error(tiny, tmp_path):
    place = copy_of(tiny, tmp_path / "scenes")
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (2, 30, 40, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).resize((320, 240)).save(folder / f"{index}.png")
    process = tiny.start(*place.command[:-1], folder, "--process_unlabel_data")
    output = process.communicate()[0]
    assert process.returncode == 1, output
    assert "None of 2 photos could be placed in the map" in output
    assert not (place.folder / "unlabel" / "images.json").exists()


MOMENTS = {
    "labels": "unlabel/labels.parts/000000",
    "extension": "unlabel/transferred.h5",
    "copies": "unlabel_augment/stages.json",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_with_the_files_of_an_undisturbed_one(tiny, updated, tmp_path, moment):
    place = copy_of(tiny, tmp_path / "scenes")
    kill_d2s(*place.command, *EVERYTHING, published=MOMENTS[moment])
    tiny.d2s(*place.command, *EVERYTHING)
    assert place.contents() == updated.contents()
    assert not list(place.folder.rglob(".*.tmp"))
