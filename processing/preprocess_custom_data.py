"""Your own hloc scene: one SfM model of all images and a list of those that are queries become a scene to train on."""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script finds its own folder only; d2s and processing lie one level up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from d2s.commands.doctor import find_hloc
from d2s.commands.options import run_command
from d2s.errors import InputError, MissingFileError
from processing import preprocessing
from processing.hloc.outputs import feature_files, find_outputs, sfm_folders

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `preprocess_custom_data.py`: those of the published code, and all of `d2s preprocess` that apply."""
    parser.add_argument("--list_test", type=Path, required=True, metavar="FILE", help="text file that names the query images")
    parser.add_argument("--out_dir", type=Path, default=Path("dataset"), help="where scenes are written (default: dataset)")
    parser.add_argument("--dataset", default="custom", metavar="NAME", help="name of your data set (default: custom)")
    parser.add_argument("--scene", default="", help="name of the scene (default: name of --hloc_out_dir)")
    images = "folder that the model's image names are relative to (default: images/ in --hloc_out_dir, or it itself)"
    parser.add_argument("--image_dir", type=Path, default=None, help=images)
    parser.add_argument("--list_val", type=Path, default=None, metavar="FILE", help="text file that names the validation images")
    parser.add_argument("--units", choices=("metres", "arbitrary"), default=None, help="unit of the poses (default: arbitrary)")
    preprocessing.add_processing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Preprocess the scene, from hloc's features where there are any, else from our own at the model's poses."""
    home = _home(args)
    folder = _scene_folder(args, home)
    model, features = _model(args, home, folder.name)
    settings = preprocessing.settings_from_args(_as_colmap(args, home, folder.name, model, features), folder)
    extra = {**settings.adapter.extra, "model": Path(os.path.relpath(model, home)).as_posix(), "dataset_name": args.dataset}
    if args.image_dir is not None:
        extra["image_dir"] = str(args.image_dir)
    return preprocessing.process(args, folder, replace(settings, adapter=replace(settings.adapter, extra=extra)))


def _home(args: argparse.Namespace) -> Path:
    if args.hloc_out_dir is None:
        raise InputError("--hloc_out_dir is missing.", "Give the scene's folder, in which hloc wrote its features and its SfM model.")
    home = Path(args.hloc_out_dir)
    if not home.is_dir():
        raise MissingFileError(f"--hloc_out_dir {home} is not a folder.", "Give the scene's folder, in which hloc wrote its SfM model.")
    return home


def _scene_folder(args: argparse.Namespace, home: Path) -> Path:
    """OUT_DIR/DATASET/SCENE, of two names that can be folders."""
    scene = args.scene or home.resolve().name
    for option, name in (("dataset", args.dataset), ("scene", scene)):
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"--{option} {name!r} must be a name, not a path that leads elsewhere.")
    return Path(args.out_dir) / args.dataset / scene


def _model(args: argparse.Namespace, home: Path, scene: str) -> tuple[Path, str]:
    """The SfM model to take poses from, and where features come from: "read" (of hloc, with that model), "run" (hloc) or "native".

    Raises InputError where there is no model.
    """
    models = sfm_folders(home)
    if not models:
        raise InputError(f"{home} holds no SfM model (a folder with images.bin or images.txt).", "Run hloc's reconstruction there first.")
    if args.sfm != "native" and feature_files(home):
        outputs = find_outputs(home, args.dataset, scene, args.hloc_features or "", args.hloc_sfm or "")
        assert outputs is not None  # there are features and a model
        return outputs.sfm, "read"
    if args.sfm == "hloc" and find_hloc() is None:
        raise InputError(
            f"{home} holds no local features of hloc (.h5), and hloc is not installed.", "Put the file there, or take --sfm native."
        )
    if args.sfm == "auto":
        logger.info("--sfm auto: %s holds no local features of hloc: our own are extracted, at the poses of %s", home, models[0].name)
    return models[0], "run" if args.sfm == "hloc" else "native"


def _as_colmap(args: argparse.Namespace, home: Path, scene: str, model: Path, features: str) -> argparse.Namespace:
    """The same as `d2s preprocess --dataset colmap` would be told."""
    told: dict[str, Any] = {**vars(args), "dataset": "colmap", "dataset_dir": home, "scene": scene}
    told |= {"gt": "original", "gt_file": None, "list_train": None, "test_every": None, "camera": None, "scale": None, "demo_option": []}
    if features == "read":
        return argparse.Namespace(**{**told, "hloc_sfm": str(model)})
    return argparse.Namespace(**{**told, "sfm": "hloc" if features == "run" else "native", "hloc_out_dir": None})


if __name__ == "__main__":
    sys.exit(run_command("preprocess_custom_data.py", add_arguments, run, description=__doc__))
