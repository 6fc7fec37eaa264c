"""D2-Net features of all images of a kapture tree, written into the tree; images that have theirs are skipped."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from d2s.commands.d2net_options import Unreadable, add_extraction, make_d2net
from d2s.d2net.kapture_extraction import extract_into
from d2s.d2net.kapture_tree import KaptureTree

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net extract-kapture`."""
    parser.add_argument("--kapture-root", "--kapture_root", type=Path, required=True, help="root folder of the kapture tree")
    for kind in ("keypoints", "descriptors"):
        text = f"name of the type of {kind} in the tree (default: name of the model file)"
        parser.add_argument(f"--{kind}-type", f"--{kind}_type", default=None, help=text)
    add_extraction(parser)


def run(args: argparse.Namespace) -> int:
    """Extract what is missing; images that cannot be read are named, and the others have their features all the same."""
    tree, unreadable = KaptureTree(args.kapture_root), Unreadable()
    count = len(tree.images())
    default = args.model_file.stem
    types = args.keypoints_type or default, args.descriptors_type or default
    extracted = extract_into(tree, make_d2net(args), types[0], types[1], args.batch, unreadable)
    log.info("Extracted the features of %d images", extracted)
    unreadable.raise_if_any(count)
    return 0
