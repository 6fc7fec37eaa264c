"""What the command line says about hloc, and which way it leads: hloc's outputs, hloc itself, or our own path."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from d2s.errors import InputError, MissingPackageError
from processing.hloc.outputs import CLONES, THIRD_PARTY, HlocOutputs, find_outputs, scene_folders
from processing.hloc.stages import HlocInput

logger = logging.getLogger(__name__)

GET_HLOC = f"Install it, or: git clone --recursive https://github.com/cvg/Hierarchical-Localization third_party/{CLONES[0]}"


def add_hloc_arguments(group: Any) -> None:
    """Options of `d2s preprocess` that concern hloc."""
    where = "hloc's outputs: the scene's folder, or one that holds DATASET/SCENE (default: third_party/*/outputs)"
    group.add_argument("--hloc_out_dir", type=Path, default=None, help=where)
    features = "hloc's feature file (default: the one that the SfM model agrees with)"
    group.add_argument("--hloc_features", default="", metavar="NAME", help=features)
    group.add_argument("--hloc_sfm", default="", metavar="NAME", help="folder of hloc's SfM model (default: the first that fits)")


def hloc_input(args: argparse.Namespace, dataset: str, folder: Path) -> HlocInput | None:
    """What to read of hloc, None for our own path. One line says which way `--sfm auto` took.

    Raises InputError where hloc is asked for and neither its outputs nor hloc itself are there.
    """
    if args.sfm == "native":
        _refuse_hloc_options(args)
        return None
    outputs = _outputs(args, dataset, folder)
    if outputs is not None:
        logger.info("--sfm %s: hloc's outputs in %s", args.sfm, outputs.folder)
        return HlocInput(outputs, args.num_keypoints, args.weights)
    if args.sfm == "hloc" or args.hloc_out_dir is not None:
        raise _nothing_found(args, dataset, folder.name)
    logger.info("--sfm auto: no outputs of hloc found, so the native path is taken")
    return None


def _outputs(args: argparse.Namespace, dataset: str, folder: Path) -> HlocOutputs | None:
    if args.sfm == "auto" and args.hloc_out_dir is None and (folder / "stages.json").is_file():
        return None
    return find_outputs(args.hloc_out_dir, dataset, folder.name, args.hloc_features, args.hloc_sfm)


def _refuse_hloc_options(args: argparse.Namespace) -> None:
    given = [name for name in ("hloc_out_dir", "hloc_features", "hloc_sfm") if getattr(args, name)]
    if given:
        raise InputError(f"--sfm native makes its own SfM model; --{given[0]} means nothing.", "Leave out one of them.")


def _nothing_found(args: argparse.Namespace, dataset: str, scene: str) -> InputError:
    if args.hloc_out_dir is not None and not scene_folders(args.hloc_out_dir, dataset, scene):
        return InputError(f"--hloc_out_dir {args.hloc_out_dir} does not exist.", "Give the folder that hloc wrote.")
    where = args.hloc_out_dir or f"{THIRD_PARTY}/*/outputs"
    return MissingPackageError(f"{where} has no outputs of hloc for {dataset}/{scene}, and hloc is not installed.", GET_HLOC)
