"""`d2s map`: what the stages are told, what is checked before them, and how a second run goes on."""

from __future__ import annotations

import argparse
import json
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2s.cli import run_module
from processing import mapping
from processing.adapters.table import load_source
from processing.preprocessing import scene_folder, settings_from_args


@pytest.fixture
def place(tmp_path) -> Path:
    """Thirty photos that nobody will look at."""
    folder = tmp_path / "yard"
    folder.mkdir()
    for index in range(30):
        Image.new("RGB", (8, 6)).save(folder / f"IMG_{index}.jpg")
    return folder


class StandIns:
    """The stages' commands, replaced: what each was told; `fails` ends the first run of one of them."""

    def __init__(self, monkeypatch, fails: str = "") -> None:
        self.told: list[tuple[str, argparse.Namespace]] = []
        self.fails = fails
        for stage in ("preprocess", "train", "eval"):
            module = mapping.COMMANDS[stage][0]
            monkeypatch.setattr(f"{module}.run", self._runner(stage))
        monkeypatch.setattr(mapping, "finish", lambda out, scene_dir, check, about: ["done"])
        monkeypatch.setattr(mapping.Scene, "load", lambda folder: types.SimpleNamespace(split=lambda name: ("one",)))

    def _runner(self, stage: str):
        def run(args: argparse.Namespace) -> int:
            self.told.append((stage, args))
            if stage == self.fails:
                self.fails = ""
                raise KeyboardInterrupt
            made = {"preprocess": "scene", "train": "run/model", "eval": "check"}[stage]
            root = Path(args.out_dir).parent if stage == "preprocess" else Path(args.log_dir)
            (root / made).mkdir(parents=True, exist_ok=True)
            return 0

        return run

    def stages(self) -> list[str]:
        return [stage for stage, _ in self.told]


def map_place(*arguments: object) -> int:
    try:
        return run_module("map", [str(argument) for argument in arguments])
    except SystemExit as left:
        return int(left.code or 0)


def test_every_stage_is_told_what_it_needs(place, tmp_path, monkeypatch):
    stages = StandIns(monkeypatch)
    options = ["--features", "sift", "--camera", "PINHOLE 8 6 7 7 4 3", "--seed", 3, "--max_minutes", 1, "--cudaid", -1, "--set", "a.b=1"]
    assert map_place(place, "--out", tmp_path / "map", *options, "--scale", "IMG_1.jpg IMG_9.jpg 2") == 0
    (_, preprocess), (_, train), (_, evaluation) = stages.told
    assert stages.stages() == ["preprocess", "train", "eval"]
    assert (preprocess.dataset, preprocess.scene, preprocess.dataset_dir) == ("photos", "yard", place)
    assert (preprocess.features, preprocess.camera, preprocess.seed, preprocess.cudaid) == ("sift", "PINHOLE 8 6 7 7 4 3", 3, -1)
    assert preprocess.scale == ["IMG_1.jpg IMG_9.jpg 2"] and preprocess.skip_bad_images
    assert (train.seed, train.max_minutes, train.set, train.visdom, train.cudaid) == (3, 1.0, ["a.b=1"], "off", -1)
    assert train.data_dir == evaluation.data_dir == preprocess.out_dir and train.log_dir == evaluation.log_dir
    assert evaluation.out == tmp_path / "map" / "check"
    held_out = (tmp_path / "map" / "held_out.txt").read_text().split()
    assert preprocess.list_test == tmp_path / "map" / "held_out.txt" and len(held_out) == 4
    assert set(held_out) <= {path.name for path in place.iterdir()}


def test_gps_is_looked_for_only_where_there_are_no_poses(place, tmp_path, monkeypatch):
    stages = StandIns(monkeypatch)
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift") == 0
    assert stages.told[0][1].scale == ["auto"]
    matrix = np.eye(4).tolist()
    frames = [{"file_path": f"IMG_{i}.jpg", "transform_matrix": matrix} for i in range(30)]
    (place / "transforms.json").write_text(json.dumps({"fl_x": 7, "w": 8, "h": 6, "frames": frames}))
    assert map_place(place, "--out", tmp_path / "known", "--features", "sift") == 0
    assert stages.told[3][1].dataset == "nerfstudio" and not stages.told[3][1].scale


def test_all_photos_are_mapped_where_none_is_to_be_held_out(place, tmp_path, monkeypatch):
    stages = StandIns(monkeypatch)
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift", "--held_out", 0) == 0
    preprocess = stages.told[0][1]
    assert preprocess.list_test is None and len(preprocess.list_train.read_text().split()) == 30


@pytest.mark.parametrize("kind", ["photos", "nerfstudio"])
@pytest.mark.parametrize("name", [[], ["--name", "hall"], ["--name", "below"]])
def test_the_folder_is_the_place_whatever_lies_in_it(place, tmp_path, monkeypatch, kind, name):
    """A folder of the place's name in it, or photos in sub-folders alone, must not hide a part of them."""
    below = place / ("below" if name else place.name)
    below.mkdir()
    if kind == "nerfstudio":
        frames = [{"file_path": f"IMG_{i}.jpg", "transform_matrix": np.eye(4).tolist()} for i in range(30)]
        (place / "transforms.json").write_text(json.dumps({"fl_x": 7, "frames": frames}))
        (below / "transforms.json").write_text(json.dumps({"fl_x": 7, "frames": frames[:9]}))
    for path in sorted(place.glob("*.jpg"))[:: 1 if name else 3]:
        path.rename(below / path.name) if kind == "photos" else (below / path.name).write_bytes(path.read_bytes())
    stages = StandIns(monkeypatch)
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift", *name) == 0
    args = stages.told[0][1]
    scene = load_source(kind, settings_from_args(args, scene_folder(args)).adapter).scene
    assert scene.image_dir == place and len(scene.images) == 30 and scene.name == (name[1] if name else "yard")
    assert len(scene.split("test")) == 4


def test_lists_of_the_user_and_of_the_data_win(place, tmp_path, monkeypatch):
    stages = StandIns(monkeypatch)
    (tmp_path / "other_day.txt").write_text("IMG_3.jpg\n")
    assert map_place(place, "--out", tmp_path / "a", "--features", "sift", "--list_test", tmp_path / "other_day.txt") == 0
    assert stages.told[0][1].list_test == tmp_path / "other_day.txt"
    (place / "list_test.txt").write_text("IMG_5.jpg\n")
    assert map_place(place, "--out", tmp_path / "b", "--features", "sift") == 0
    assert stages.told[3][1].list_test is None and not (tmp_path / "b" / "held_out.txt").exists()


@pytest.mark.parametrize(("killed", "again"), [("preprocess", 3), ("train", 2), ("eval", 1)])
def test_a_killed_run_goes_on(place, tmp_path, monkeypatch, killed, again):
    stages = StandIns(monkeypatch, fails=killed)
    command = [place, "--out", tmp_path / "map", "--features", "sift"]
    assert map_place(*command) == 130
    stages.told.clear()
    assert map_place(*command) == 0
    assert len(stages.told) == again
    stages.told.clear()
    assert map_place(*command) == 0
    assert stages.told == []  # all done


def test_other_settings_or_photos_need_another_folder(place, tmp_path, monkeypatch, capsys):
    stages = StandIns(monkeypatch)
    command = [place, "--out", tmp_path / "map", "--features", "sift"]
    assert map_place(*command) == 0
    assert map_place(*command, "--seed", 1) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "seed was 0 and is now 1" in error and "--overwrite" in error and "another --out," in error
    Image.new("RGB", (8, 6)).save(place / "IMG_30.jpg")
    assert map_place(*command) == 2
    assert "photos was 30 and is now 31" in capsys.readouterr().err
    stages.told.clear()
    (tmp_path / "map" / "mine.txt").touch()
    assert map_place(*command, "--overwrite") == 0
    assert stages.stages() == ["preprocess", "train", "eval"] and (tmp_path / "map" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--held_out", "0.7"], "--held_out 0.7 must be between 0 and 0.5"),
        (["--max_frames", "2"], "--max_frames 2 must be at least 10"),
        (["--scale", "far"], "--scale 'far' is not understood"),
        (["--kind", "video"], "must hold one video"),
        (["--kind", "colmap"], "does not hold images"),
        (["--camera", "LENS 1"], "Camera 'LENS 1' is incomplete"),
        (["--features", "best"], "invalid choice: 'best'"),
    ],
)
def test_wrong_use_is_one_line_before_anything_starts(place, tmp_path, monkeypatch, capsys, arguments, problem):
    stages = StandIns(monkeypatch)
    assert map_place(place, "--out", tmp_path / "map", *arguments) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1 and error.startswith("d2s map: ") and not stages.told


def test_poses_that_do_not_fit_can_be_left_aside(place, tmp_path, monkeypatch, capsys):
    stages = StandIns(monkeypatch)
    frames = [{"file_path": f"IMG_{i}.jpg", "transform_matrix": np.eye(4).tolist()} for i in range(30)]
    (place / "transforms.json").write_text(json.dumps({"fl_x": 7, "w": 16, "h": 12, "frames": frames}))
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift") == 2
    error = capsys.readouterr().err
    assert "is 8x6, but its camera is for 16x12 images" in error and error.endswith("from the photos alone: --kind photos.\n")
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift", "--kind", "nerfstudio") == 2
    assert "--kind photos" not in capsys.readouterr().err
    assert map_place(place, "--out", tmp_path / "map", "--features", "sift", "--kind", "photos") == 0
    assert stages.told[0][1].dataset == "photos"


def test_unreadable_photos_do_not_count(tmp_path, monkeypatch, capsys):
    StandIns(monkeypatch)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        (folder / f"{index}.jpg").write_bytes(b"\xff\xd8\xff broken")
    for index in range(2):
        Image.new("RGB", (8, 6)).save(folder / f"good_{index}.jpg")
    assert map_place(folder, "--out", tmp_path / "map", "--features", "sift") == 2
    assert "has only 2 usable photos; a map needs at least 5" in capsys.readouterr().err
