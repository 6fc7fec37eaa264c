from __future__ import annotations

from importlib import import_module

import pytest

from d2s.errors import InputError
from processing.adapters.base import AdapterOptions
from processing.adapters.table import ADAPTERS, load_source


@pytest.mark.parametrize("dataset", ADAPTERS)
def test_every_name_leads_to_a_function(dataset):
    module, description = ADAPTERS[dataset]
    assert callable(import_module(module).load) and description


def test_unknown_dataset_lists_the_choices():
    with pytest.raises(InputError) as error:
        load_source("8scenes", AdapterOptions())
    assert all(name in str(error.value) for name in ("8scenes", *ADAPTERS))


@pytest.mark.parametrize("dataset", sorted(set(ADAPTERS) - {"demo"}))
def test_every_error_is_one_line_with_exit_code_2(dataset, tmp_path):
    for options in (AdapterOptions(), AdapterOptions(tmp_path / "none"), AdapterOptions(tmp_path), AdapterOptions(tmp_path, "scene")):
        with pytest.raises(InputError) as error:
            load_source(dataset, options)
        assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_the_table_dispatches(tmp_path, write_seven_scenes):
    write_seven_scenes(tmp_path / "chess")
    assert load_source("7scenes", AdapterOptions(tmp_path, "chess")).scene.dataset == "7scenes"
