"""Undistorted photos and cameras of MegaDepth, which the training of D2-Net needs; scenes that have theirs are skipped."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2s.d2net.megadepth import SOURCES, SceneReport, attempt, scenes_of
from d2s.d2net.megadepth_undistort import find_program, undistort_scene
from d2s.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net undistort`."""
    parser.add_argument("--base_path", type=Path, required=True, help=f"folder that MegaDepth was unpacked in (holds {SOURCES})")
    parser.add_argument("--colmap_path", type=Path, default=None, help="COLMAP's program, or its folder (default: pycolmap)")
    parser.add_argument("--scene_id", nargs="+", default=[], help="only these scenes (default: all)")


def run(args: argparse.Namespace) -> int:
    """Undistort scene after scene; those that lack files are left out, those that fail are an error at the end."""
    program = find_program(args.colmap_path)
    scenes = scenes_of(args.base_path, SOURCES, args.scene_id)
    report = SceneReport(len(scenes))
    for scene in scenes:
        report.add(scene.name, attempt(undistort_scene, scene, program))
    report.raise_if_any()
    if not any((scene.undistorted / "sparse-txt").is_dir() for scene in scenes):
        raise InputError(f"{args.base_path} has no scene with an SfM model and photos.", "Unpack both parts of MegaDepth there.")
    return 0
