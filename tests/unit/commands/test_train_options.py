"""Options of `d2s train` that change the recipe."""

from __future__ import annotations

import pytest

from d2s.commands.options import Parser
from d2s.commands.train import add_arguments, recipe_from_args


def recipe(*options: str):
    parser = Parser()
    add_arguments(parser)
    return recipe_from_args(parser.parse_args(["--scene", "x", *options]))


@pytest.mark.parametrize(
    ("options", "section", "key", "value"),
    [
        (("--seed", "7"), "training", "seed", 7),
        (("--max_minutes", "2.5"), "training", "max_minutes", 2.5),
        (("--model", "1"), "model", "model", 1),
        (("--set", "model.blocks=3"), "model", "blocks", 3),
        (("--set", "training.seed=4", "--set", "optimization.lr=1e-2"), "optimization", "lr", 1e-2),
        (("--config_file", "configs/configsV1.ini"), "optimization", "lr_decay", 0.6),
    ],
)
def test_options_change_the_recipe(options, section, key, value):
    assert getattr(getattr(recipe(*options), section), key) == value
    assert getattr(getattr(recipe(), section), key) != value
