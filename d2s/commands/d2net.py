"""D2-Net as a system of its own: extraction, matching, training on MegaDepth, evaluation."""

from __future__ import annotations

import argparse
import importlib

from d2s.commands.options import Parser

LEVELS = ("debug", "info", "warning", "error")

# Action -> (module with add_arguments and run, what it does)
ACTIONS: dict[str, tuple[str, str]] = {
    "extract": ("d2s.commands.d2net_extract", "features of a list of images, one npz or mat file beside each"),
    "extract-kapture": ("d2s.commands.d2net_extract_kapture", "features of all images of a kapture tree, written into the tree"),
    "match": ("d2s.commands.d2net_match", "two photos: matches, inliers of a homography, and a picture of them"),
    "undistort": ("d2s.commands.d2net_undistort", "MegaDepth: undistorted photos and their cameras"),
    "prepare": ("d2s.commands.d2net_prepare", "MegaDepth: overlaps and common points of all pairs of photos"),
    "train": ("d2s.commands.d2net_train", "train on MegaDepth"),
    "hpatches": ("d2s.commands.d2net_hpatches", "mean matching accuracy of D2-Net and other features on the HPatches sequences"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command per action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser, help="what to do:")
    for name, (path, help) in ACTIONS.items():
        module = importlib.import_module(path)
        action = actions.add_parser(name, help=help, description=module.__doc__)
        module.add_arguments(action)
        # Without a default of its own, which would undo what stands before the action
        action.add_argument("--log_level", choices=LEVELS, default=argparse.SUPPRESS, help="as before the action")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    code: int = importlib.import_module(ACTIONS[args.action][0]).run(args)
    return code
