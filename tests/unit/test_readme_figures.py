"""The figures of the README are those that the benchmark wrote."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def accuracy(monkeypatch):
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    accuracy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "accuracy", accuracy)  # dataclasses look up the module of their class there
    spec.loader.exec_module(accuracy)
    return accuracy


def test_rendered_places_are_measured_without_a_folder_of_photos(accuracy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "accuracy.json")
    monkeypatch.setattr(accuracy, "measure", lambda name, *_: {"measured": name})
    monkeypatch.setattr(accuracy, "describe", lambda name, row: f"{name}: {row}")
    assert accuracy.main(["--only", "demo", "stairs"]) == 0
    assert list(json.loads((tmp_path / "accuracy.json").read_text())["rows"]) == ["demo", "stairs"]
    with pytest.raises(SystemExit):
        accuracy.main(["--only", "demo", "fox"])
    assert "--data_dir is needed to measure fox" in capsys.readouterr().err


def test_thin_rows_keep_every_nth_mapping_image_and_all_queries(accuracy, shared_data, tmp_path):
    case = accuracy.CASES["gerrard-thin"]
    options = accuracy.thin_lists(case, shared_data, tmp_path)
    train, test = ((tmp_path / f"list_{split}.txt").read_text().split() for split in ("train", "test"))
    assert options == [f"--list_train={tmp_path / 'list_train.txt'}", f"--list_test={tmp_path / 'list_test.txt'}"]
    assert len(train) == 20 and sorted(test) == sorted((shared_data / "gerrard_hall" / "list_test.txt").read_text().split())
    assert not set(train) & set(test)


def test_the_readme_states_what_the_benchmark_measured(accuracy):
    rows = json.loads(accuracy.RESULTS.read_text(encoding="utf-8"))["rows"]
    readme = accuracy.README.read_text(encoding="utf-8")
    assert len(rows) > 5
    features = {name: case.features for name, case in accuracy.CASES.items()}
    assert accuracy.with_table(readme, rows, features) == readme, "run: python benchmarks/accuracy.py --readme"


def test_the_page_about_latency_states_what_the_benchmark_measured():
    spec = importlib.util.spec_from_file_location("latency", ROOT / "benchmarks" / "latency.py")
    latency = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(latency)
    rows = json.loads(latency.RESULTS.read_text(encoding="utf-8"))["rows"]
    page = latency.PAGE.read_text(encoding="utf-8")
    assert rows and latency.with_table(page, rows) == page, "run: python benchmarks/latency.py --page"
