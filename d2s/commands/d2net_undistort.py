"""Undistorted photos and cameras of MegaDepth, which the training of D2-Net needs; scenes that have theirs are skipped."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from d2s.d2net.megadepth import scenes_of
from d2s.d2net.megadepth_undistort import SOURCES, find_program, undistort_scene
from d2s.errors import InputError

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net undistort`."""
    parser.add_argument("--base_path", type=Path, required=True, help=f"folder that MegaDepth was unpacked in (holds {SOURCES})")
    parser.add_argument("--colmap_path", type=Path, default=None, help="COLMAP's program, or its folder (default: pycolmap)")
    parser.add_argument("--scene_id", nargs="+", default=[], help="only these scenes (default: all)")


def run(args: argparse.Namespace) -> int:
    """Undistort scene after scene; those that lack files are named and left out."""
    program = find_program(args.colmap_path)
    scenes = scenes_of(args.base_path, SOURCES, args.scene_id)
    done = 0
    for number, scene in enumerate(scenes, start=1):
        outcome = undistort_scene(scene, program)
        done += outcome in ("undistorted", "present")
        log.info("%d/%d %s: %s", number, len(scenes), scene.name, outcome)
    if not done:
        raise InputError(f"{args.base_path} has no scene with an SfM model and photos.", "Unpack both parts of MegaDepth there.")
    return 0
