"""Draw the page of an evaluation again, from the files that d2s eval wrote: nothing is localized."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.evaluation.evaluation import METRICS, REPORT, evaluate_folder, metrics_before
from d2s.scene.manifest import Scene

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s report`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of an evaluation, for example logs/RUN/eval")
    parser.add_argument("--scene_dir", type=Path, default=None, help="folder of the preprocessed scene, where it has moved")


def run(args: argparse.Namespace) -> int:
    """Score the poses and draw the page."""
    if not (args.folder / METRICS).is_file():
        raise MissingFileError(f"{args.folder / METRICS} does not exist: no evaluation there.", "Run d2s eval first.")
    before = metrics_before(args.folder)
    scene_dir = args.scene_dir or before["scene_dir"]
    if scene_dir is None:
        raise InputError(f"{args.folder / METRICS} does not say where its scene lies.", "Give --scene_dir.")
    scene = Scene.load(Path(scene_dir))
    if before["split"] not in ("train", "val", "test"):
        raise FormatError(f"{args.folder / METRICS} names the split {before['split']!r}.", "Evaluate again.")
    evaluate_folder(args.folder, scene, scene.split(before["split"]), {**before, "scene_dir": str(scene_dir)})
    logger.info("Report: %s", args.folder / REPORT)
    return 0
