"""Cameras, overlaps and common points of MegaDepth's scenes, for the training of D2-Net; scenes that have their file are skipped."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from d2s.commands.folders import writable_folder
from d2s.d2net.megadepth import UNDISTORTED, Attempt, MegaDepthScene, SceneReport, attempt, scenes_of
from d2s.d2net.megadepth_prepare import MIN_DEPTH_KB, prepare_scene
from d2s.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net prepare`."""
    parser.add_argument("--base_path", type=Path, required=True, help="folder that MegaDepth was unpacked and undistorted in")
    parser.add_argument("--output_path", type=Path, required=True, help="folder of the results, one npz file per scene")
    parser.add_argument("--scene_id", nargs="+", default=[], help="only these scenes (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="scenes at the same time (default: 1)")
    limit = f"smaller depth files hold no depth, in kilobytes (default: {MIN_DEPTH_KB})"
    parser.add_argument("--min_depth_kb", type=float, default=MIN_DEPTH_KB, help=limit)


def run(args: argparse.Namespace) -> int:
    """Prepare the scenes; those that lack files are left out, those that fail are an error at the end."""
    if args.workers < 1:
        raise InputError(f"--workers must be at least 1, not {args.workers}.")
    writable_folder("--output_path", args.output_path)
    scenes = scenes_of(args.base_path, UNDISTORTED, args.scene_id)
    report = SceneReport(len(scenes))
    for scene, outcome in zip(scenes, _attempts(scenes, args), strict=True):
        report.add(scene.name, outcome)
    report.raise_if_any()
    if not any(_target(args.output_path, scene).is_file() for scene in scenes):
        raise InputError(f"{args.base_path} has no scene with undistorted photos and depth maps.", "Run d2s d2net undistort first.")
    return 0


def _attempts(scenes: list[MegaDepthScene], args: argparse.Namespace) -> Iterator[Attempt]:
    work = partial(attempt, prepare_scene, min_depth_kb=args.min_depth_kb)
    targets = [_target(args.output_path, scene) for scene in scenes]
    if args.workers == 1:
        yield from map(work, scenes, targets)
        return
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        yield from pool.map(work, scenes, targets)


def _target(folder: Path, scene: MegaDepthScene) -> Path:
    return folder / f"{scene.name}.npz"
