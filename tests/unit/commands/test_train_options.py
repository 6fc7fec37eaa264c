"""Options of `d2s train` that change the recipe, and what a model is told beside it."""

from __future__ import annotations

import pytest
from PIL import Image

from d2s.commands.options import Parser
from d2s.commands.train import add_arguments, exif_focal, recipe_from_args
from d2s.errors import ConfigError
from d2s.geometry.camera import format_camera, make_camera
from d2s.regressor.base import EXIF_FOCAL
from d2s.scene.manifest import Scene, SceneImage


def recipe(*options: str):
    parser = Parser()
    add_arguments(parser)
    return recipe_from_args(parser.parse_args(["--scene", "x", *options]))


@pytest.mark.parametrize(
    ("options", "section", "key", "value"),
    [
        (("--seed", "7"), "training", "seed", 7),
        (("--max_minutes", "2.5"), "training", "max_minutes", 2.5),
        (("--model", "1", "--set", "training.n_iters=9"), "model", "model", 1),
        (("--set", "model.blocks=3"), "model", "blocks", 3),
        (("--set", "training.seed=4", "--set", "optimization.lr=1e-2"), "optimization", "lr", 1e-2),
        (("--config_file", "configs/configsV1.ini"), "optimization", "lr_decay", 0.6),
    ],
)
def test_options_change_the_recipe(options, section, key, value):
    assert getattr(getattr(recipe(*options), section), key) == value
    assert getattr(getattr(recipe(), section), key) != value


def test_a_regression_network_asks_for_a_recipe_that_trains():
    with pytest.raises(ConfigError, match="leaves model 2 untrained"):
        recipe("--model", "2")
    assert recipe("--model", "2", "--config_file", "configs/configsV2.ini").training.n_iters > 0


def test_a_model_knows_what_the_mapping_photos_say_of_their_focal_length(tmp_path):
    exif = Image.Exif()
    exif[0xA405] = 35  # FocalLengthIn35mmFilm
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (640, 480)).save(tmp_path / "b.jpg")
    cameras = {index: make_camera("SIMPLE_PINHOLE", 640, 480, [500 + index, 320, 240], index) for index in (1, 2, 3)}
    images = tuple(SceneImage(name, index, None, "train") for name, index in (("a.jpg", 1), ("b.jpg", 2), ("gone.jpg", 3)))
    found = exif_focal(Scene("photos", "yard", tmp_path, cameras, images))
    assert found == {EXIF_FOCAL: {format_camera(cameras[1]): pytest.approx(35 / 43.2666 * 800, rel=1e-3)}}
    assert exif_focal(Scene("photos", "yard", tmp_path, cameras, images[1:])) == {}
