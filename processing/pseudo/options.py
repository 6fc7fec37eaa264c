"""Options of preprocessing that speak of photos without labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from d2s.commands.options import flag
from d2s.errors import InputError, MissingFileError
from d2s.geometry.camera import parse_camera
from processing.pseudo.copies import CopyOptions
from processing.pseudo.photos import PhotoOptions
from processing.pseudo.stage import PseudoOptions
from processing.pseudo.transfer import TransferOptions

NEEDS = ("unlabel_dir", "list_unlabel", "unlabel_pairs", "unlabel_camera", "unlabel_extend_map")
"""Options that mean something only together with --process_unlabel_data."""


def add_pseudo_arguments(group: Any) -> None:
    """Add the options to a group of the parser."""
    flag(group, "--process_unlabel_data", False, "label photos without poses by matching them with the map, for d2s train --unlabel")
    flag(group, "--process_unlabel_data_pls_augment", False, "the same, and darker and brighter copies of these photos")
    group.add_argument("--unlabel_dir", type=Path, default=None, metavar="DIR", help="their folder (default: the scene's)")
    listed = "text file that names them, with cameras or without (default: all photos of the folder that the scene does not use)"
    group.add_argument("--list_unlabel", type=Path, default=None, metavar="FILE", help=listed)
    pairs = "hloc pairs file, `photo training_image` per line (default: retrieval by the local features)"
    group.add_argument("--unlabel_pairs", type=Path, default=None, metavar="FILE", help=pairs)
    camera = "their camera (default: that of the scene's images of the same size, else from EXIF)"
    group.add_argument("--unlabel_camera", default=None, metavar="'MODEL W H p0 …'", help=camera)
    neighbors = PseudoOptions().neighbors
    text = f"training images that each photo is matched with (default: {neighbors})"
    group.add_argument("--unlabel_neighbors", type=int, default=neighbors, help=text)
    text = "add points to the map that only these photos see, triangulated at the poses found for them"
    flag(group, "--unlabel_extend_map", False, text)


def pseudo_options(args: argparse.Namespace) -> PseudoOptions | None:
    """What the options say, checked; None where no photos are to be labelled."""
    if not (args.process_unlabel_data or args.process_unlabel_data_pls_augment):
        for name in NEEDS:
            if getattr(args, name) not in (None, False):
                raise InputError(f"--{name} has no effect without --process_unlabel_data.", "Add that option.")
        return None
    if args.unlabel_neighbors < 1:
        raise InputError(f"--unlabel_neighbors {args.unlabel_neighbors} must be at least 1.")
    _require_files(args)
    return PseudoOptions(
        photos=PhotoOptions(args.unlabel_dir, args.list_unlabel, args.unlabel_camera),
        pairs=args.unlabel_pairs,
        neighbors=args.unlabel_neighbors,
        transfer=TransferOptions(max_error_px=args.max_reprojection_error),
        extend=args.unlabel_extend_map,
        copies=CopyOptions() if args.process_unlabel_data_pls_augment else None,
    )


def _require_files(args: argparse.Namespace) -> None:
    """What is missing is said before the hours of work that come first."""
    if args.unlabel_dir is not None and not args.unlabel_dir.is_dir():
        raise MissingFileError(f"--unlabel_dir {args.unlabel_dir} is not a folder.", "Give the folder of the photos without labels.")
    for name in ("list_unlabel", "unlabel_pairs"):
        path = getattr(args, name)
        if path is not None and not path.is_file():
            raise MissingFileError(f"--{name} {path} does not exist.", "Give a text file.")
    if args.unlabel_camera is not None:
        parse_camera(args.unlabel_camera)
