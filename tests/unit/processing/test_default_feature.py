"""Which local feature is taken when the user names none."""

from __future__ import annotations

import pytest

from d2s.commands.pipeline import stage_parser
from d2s.scene.atomic import write_json
from processing import default_feature, preprocessing
from processing.hloc import options as hloc_options
from processing.stages import RECORD


@pytest.fixture(autouse=True)
def _networks_are_there(monkeypatch):
    monkeypatch.setattr(preprocessing, "best_feature", lambda: "aliked")


def feature(tmp_path, *options: str) -> str:
    args = stage_parser("preprocess").parse_args(["--dataset", "colmap", "--dataset_dir", "hall", *options])
    return preprocessing.settings_from_args(args, tmp_path).features


def test_the_best_feature_is_taken_unless_the_user_names_one(tmp_path):
    assert feature(tmp_path) == "aliked" and feature(tmp_path, "--features", "disk") == "disk"


def test_a_scene_keeps_the_feature_that_it_was_begun_with(tmp_path):
    write_json(tmp_path / RECORD, {"settings": {"settings": {"features": "sift"}}})
    assert feature(tmp_path) == "sift" and feature(tmp_path, "--overwrite", "true") == "aliked"


def test_rendered_scenes_need_no_network(tmp_path):
    assert feature(tmp_path, "--dataset", "demo") == "sift"


def test_hloc_works_with_what_it_worked_with_before(tmp_path, monkeypatch):
    monkeypatch.setattr(hloc_options, "find_hloc", lambda: "hloc")
    args = stage_parser("preprocess").parse_args(["--dataset", "colmap", "--dataset_dir", "hall", "--sfm", "hloc"])
    settings = preprocessing.settings_from_args(args, tmp_path)
    assert settings.hloc is not None and settings.hloc.drive is not None
    assert (settings.features, settings.hloc.drive.options.features) == ("sift", "sift")


def test_without_weights_sift_is_taken_and_what_it_costs_is_said(monkeypatch, caplog):
    monkeypatch.setattr(default_feature, "find_weights", lambda name: None)
    with caplog.at_level("INFO"):
        assert default_feature.best_feature() == "sift"
    assert "weights are not on this machine" in caplog.text and default_feature.COST in caplog.text
