"""The table of matching with LightGlue."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from d2s.scene.atomic import read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lightglue(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("lightglue")


def test_the_page_states_what_was_measured(lightglue):
    page = lightglue.PAGE.read_text(encoding="utf-8")
    assert lightglue.with_table(page, read_json(lightglue.RESULTS)["rows"]) == page, "run: python benchmarks/lightglue.py --page"


def test_without_a_folder_there_is_nothing_to_measure(lightglue, capsys):
    with pytest.raises(SystemExit) as stopped:
        lightglue.main([])
    assert stopped.value.code == 2 and "--work" in capsys.readouterr().err
