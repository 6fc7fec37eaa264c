"""`d2s COMMAND …`: the table of commands. Modules are imported only when their command runs, so that `d2s --help` is instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from d2s.commands.options import run_command

# Command -> (module with add_arguments and run, what it does). `processing` is named as text: d2s never imports it.
COMMANDS: dict[str, tuple[str, str]] = {
    "map": ("processing.mapping", "your own photos or video become a place to localize in, with a verdict on how well that works"),
    "preprocess": ("processing.preprocessing", "photos and poses become a scene: features, SfM model, labels"),
    "download": ("processing.download", "fetch a public data set"),
    "train": ("d2s.commands.train", "learn a scene"),
    "watch": ("d2s.commands.watch", "show a training in Visdom, while it goes on or afterwards"),
    "eval": ("d2s.commands.eval", "localize the test images of a scene and report how well it went"),
    "report": ("d2s.commands.report", "draw the page of an evaluation again, from its files"),
    "localize": ("d2s.commands.localize", "camera poses of images, a video, a camera or a network stream"),
    "serve": ("d2s.commands.serve", "poses over HTTP: post a photo, get its pose; a page to try it with"),
    "export": ("d2s.commands.export", "scene or map for COLMAP, nerfstudio, PLY viewers; network for ONNX Runtime; public checkpoints"),
    "pipeline": ("d2s.commands.pipeline", "preprocess, train and eval in one go; the demo scene when no data set is named"),
    "d2net": ("d2s.commands.d2net", "D2-Net as a system of its own: features into files or kapture trees"),
    "doctor": ("d2s.commands.doctor", "what this machine has: versions, devices, hloc, weights and their licences"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(importlib.import_module("d2s").__version__)
        return 0
    if argv[0] not in COMMANDS:
        print(f"d2s: unknown command {argv[0]!r}; choose one of: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return run_module(argv[0], argv[1:])


def run_module(command: str, argv: Sequence[str] | None = None) -> int:
    """Run one command with its own arguments (used by `train.py`, `eval.py` and `processing/preprocessing.py` too)."""
    module = importlib.import_module(COMMANDS[command][0])
    return run_command(f"d2s {command}", module.add_arguments, module.run, argv, module.__doc__)


def _usage() -> str:
    lines = [f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: d2s COMMAND [options]", "", *lines, "", "d2s COMMAND --help lists the options of a command."])
