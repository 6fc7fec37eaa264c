from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from d2s.errors import SettingsMismatchError
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.report import summary
from processing.stages import Stages, differences
from processing.validation_split import validation_rows, with_validation


class Work:
    """A stage that publishes one file and counts its runs."""

    def __init__(self, folder, name="a", fail=False):
        self.path, self.fail, self.runs = folder / name, fail, 0

    def __call__(self):
        self.runs += 1
        if self.fail:
            raise RuntimeError("killed")
        self.path.write_text("done")
        return {"runs": self.runs}


def test_finished_stage_is_not_run_again(tmp_path):
    work = Work(tmp_path)
    assert Stages(tmp_path).run("one", {"x": 1}, ("a",), work) == {"runs": 1}
    assert Stages(tmp_path).run("one", {"x": 1}, ("a",), work) == {"runs": 1}
    assert work.runs == 1


def test_stage_is_redone_when_its_output_is_gone(tmp_path):
    work = Work(tmp_path)
    Stages(tmp_path).run("one", {}, ("a",), work)
    (tmp_path / "a").unlink()
    assert Stages(tmp_path).run("one", {}, ("a",), work) == {"runs": 2}


def test_stage_that_failed_is_redone(tmp_path):
    failing, work = Work(tmp_path, fail=True), Work(tmp_path)
    with pytest.raises(RuntimeError):
        Stages(tmp_path).run("one", {}, ("a",), failing)
    (tmp_path / "a").write_text("half")
    assert Stages(tmp_path).run("one", {}, ("a",), work) == {"runs": 1}
    assert (tmp_path / "a").read_text() == "done"


def test_other_settings_are_refused_whether_finished_or_begun(tmp_path):
    with pytest.raises(RuntimeError):
        Stages(tmp_path).run("one", {"x": 1}, (), Work(tmp_path, fail=True))
    with pytest.raises(SettingsMismatchError, match=r"one: x was 1 and is now 2"):
        Stages(tmp_path).run("one", {"x": 2}, (), Work(tmp_path))


def test_change_of_an_earlier_stage_reaches_the_later_ones(tmp_path):
    first = Stages(tmp_path)
    first.run("one", {"x": 1}, (), dict)
    first.run("two", {}, (), dict)
    record = json.loads((tmp_path / "stages.json").read_text())
    del record["one"]
    (tmp_path / "stages.json").write_text(json.dumps(record))
    second = Stages(tmp_path)
    second.run("one", {"x": 2}, (), dict)
    with pytest.raises(SettingsMismatchError, match="an earlier stage changed"):
        second.run("two", {}, (), dict)


def test_differences_name_nested_keys():
    assert differences({"a": {"b": 1, "c": 2}, "d": 0}, {"a": {"b": 1, "c": 3}}) == ["a.c was 2 and is now 3", "d was 0 and is now None"]
    assert differences({"a": 1}, {"a": 1}) == []


def scene_of(num_train, num_val=0):
    camera = make_camera("SIMPLE_PINHOLE", 64, 48, [50, 32, 24])
    splits = ["train"] * num_train + ["val"] * num_val + ["test"] * 5
    return Scene("made", "x", Path(), {1: camera}, tuple(SceneImage(f"{i:05d}.png", 1, np.eye(3, 4), s) for i, s in enumerate(splits)))


@pytest.mark.parametrize(("num_train", "expected"), [(30, 4), (99, 5), (150, 8), (700, 35), (1300, 60), (5000, 60)])
def test_validation_is_spread_and_small(num_train, expected):
    rows = validation_rows(num_train)
    assert len(rows) == len(set(rows)) == expected <= 60
    assert 0 <= min(rows) < num_train / 3
    assert num_train > max(rows) > num_train * 2 / 3
    longest = max(len(run) for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1))
    assert longest == max(1, min(num_train // 100, 12))


def test_validation_comes_from_train_alone():
    before = scene_of(100)
    after = with_validation(before)
    assert [image.name for image in after.images] == [image.name for image in before.images]
    assert after.split("test") == before.split("test")
    assert len(after.split("train")) + len(after.split("val")) == 100
    assert with_validation(before).split("val") == after.split("val")


def test_validation_that_is_given_or_too_dear_is_left_alone():
    for scene in (scene_of(100, 3), scene_of(29)):
        assert with_validation(scene) is scene


def test_summary_of_numbers_and_of_none():
    assert summary([]) == {"count": 0}
    values = summary(np.arange(101))
    assert (values["count"], values["min"], values["p5"], values["median"], values["p95"], values["max"]) == (101, 0, 5, 50, 95, 100)
