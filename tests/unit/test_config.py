"""Recipes: defaults, files, overrides, and errors that name everything at once."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from d2s import config
from d2s.config import Recipe, find_recipe, load_recipe, to_ini
from d2s.errors import ConfigError, MissingFileError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_base_ini_is_what_the_code_says():
    text = (CONFIGS / "base.ini").read_text(encoding="utf-8")
    assert text.split("\n", 1)[1] == to_ini(Recipe(), comments=True), "regenerate: python -m d2s.config > configs/base.ini"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.ini")), ids=lambda path: path.name)
def test_every_shipped_recipe_loads_and_round_trips(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.ini"
    copy.write_text(to_ini(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.ini")), ids=lambda path: path.name)
def test_shipped_recipes_hold_only_what_differs_from_the_defaults(path):
    parser = configparser.ConfigParser()
    parser.read(path)
    for section in parser.sections() if path.name != "base.ini" else ():
        for key in parser[section]:
            value, default = (getattr(getattr(recipe, section), key) for recipe in (load_recipe(path), Recipe()))
            assert value != default or key == "model", f"{section}.{key} is the default"


def test_all_problems_are_reported_at_once(tmp_path):
    file = tmp_path / "bad.ini"
    text = "[training]\nbatch_size = 0\nspeed = 3\n[loss]\nmap_loss = huber\n[model]\nnormalize_targets = perhaps\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["optimization.lr=fast", "nonsense"])
    message = str(caught.value)
    for part in (
        "batch_size = 0",
        "unknown key training.speed",
        "map_loss = huber",
        "normalize_targets = perhaps",
        "lr = fast",
        "'nonsense'",
        "bad.ini",
    ):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("model", [1, 2])
def test_a_regression_network_must_be_trained(model):
    with pytest.raises(ConfigError, match=rf"training.n_iters = 0 leaves model {model} untrained, and.*configsV{model}.ini trains it"):
        load_recipe(CONFIGS / "fast.ini", values={"model.model": model})
    assert load_recipe(CONFIGS / "fast.ini", ["training.n_iters=1"], {"model.model": model}).training.n_iters == 1


def test_width_must_fit_the_heads():
    with pytest.raises(ConfigError, match="divisible"):
        load_recipe(None, ["model.width=255"])


def test_cross_entropy_needs_a_sigmoid():
    with pytest.raises(ConfigError, match="sigmoid"):
        load_recipe(None, ["loss.reliability_loss=bce"])


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(MissingFileError, match=r"absent\.ini"):
        load_recipe(tmp_path / "absent.ini")
    broken = tmp_path / "broken.ini"
    broken.write_text("model = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.ini"):
        load_recipe(broken)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("YES", True), ("off", False), ("False", False)])
def test_booleans_mean_what_they_say(text, value):
    assert load_recipe(None, [f"model.normalize_targets={text}"]).model.normalize_targets is value


def test_recipes_are_found_by_name_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(find_recipe("configs/fast.ini")).model.model == 3
    package = tmp_path / "site-packages" / "d2s"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "fast.ini").write_text("[model]\nmodel = 1\n", encoding="utf-8")
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    assert find_recipe("fast.ini") == package / "configs" / "fast.ini"
    assert find_recipe("configs/fast.ini") == package / "configs" / "fast.ini"
    assert find_recipe("elsewhere/fast.ini") == Path("elsewhere/fast.ini")
    (tmp_path / "fast.ini").write_text("[model]\nmodel = 2\n", encoding="utf-8")
    assert find_recipe("fast.ini") == Path("fast.ini")


def test_published_recipes_have_the_published_values():
    first, second = (load_recipe(CONFIGS / f"configsV{number}.ini") for number in (1, 2))
    assert (first.model.model, first.training.batch_size, first.optimization.lr_decay, first.loss.coef_lrepr_unlabel) == (1, 8, 0.6, 0.1)
    assert (second.model.model, second.training.batch_size, second.optimization.lr_decay, second.loss.coef_lrepr_unlabel) == (2, 1, 0.5, 10)
    for recipe in (first, second):
        rates = recipe.optimization
        assert (rates.opt, rates.lr, rates.lr_add, rates.lr_add_unlabel, rates.weight_decay) == ("adam", 1e-4, 1e-5, 5e-5, 5e-4)
        lengths = recipe.training
        assert (lengths.n_iters, lengths.n_iters_add, lengths.n_iters_unlabel_add) == (300000, 100000, 50000)
        assert (recipe.loss.coef_lrepr, recipe.loss.reprojection_stage, recipe.loss.reprojection_mask) == (10, 2, "labelled")
