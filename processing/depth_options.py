"""The options of `d2s preprocess` that concern labels corrected by depth images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2s.commands.options import flag
from d2s.errors import InputError
from processing.depth_labels import CAMERAS, MISSING, DepthOptions


def add_depth_arguments(group: Any) -> None:
    """`--depth_labels` and what belongs to it."""
    flag(group, "--depth_labels", False, "move labelled points to where depth images (FRAME.depth.png) put them")
    group.add_argument("--depth_dir", type=Path, default=None, help="depth images of the colour camera (default: those beside the images)")
    camera = "who took them: the colour camera, or the depth camera of a Kinect (default: kinect for 7scenes' own, else aligned)"
    group.add_argument("--depth_camera", choices=CAMERAS, default=None, help=camera)
    missing = "points that depth does not settle keep their place or lose their label (default: keep)"
    group.add_argument("--depth_missing", choices=MISSING, default=None, help=missing)


def depth_options(args: argparse.Namespace) -> DepthOptions | None:
    """What the options say of depth, checked; None when labels stay as triangulated."""
    given = {name: value for name in ("dir", "camera", "missing") if (value := getattr(args, f"depth_{name}")) is not None}
    if not args.depth_labels:
        if given:
            raise InputError(f"--depth_{next(iter(given))} needs --depth_labels.", "Add it, or leave both out.")
        return None
    if args.depth_dir is not None and not args.depth_dir.is_dir():
        raise InputError(f"--depth_dir {args.depth_dir} is not a folder.", "Name the folder that holds the depth images.")
    return replace(DepthOptions(), **{"depth_dir" if name == "dir" else name: value for name, value in given.items()})
