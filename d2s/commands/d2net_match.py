"""Match two photos with D2-Net and draw what one homography explains of it: a picture to judge weights and options by."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import cv2

from d2s.commands.d2net_options import add_extraction, make_d2net
from d2s.d2net.image_pair import MAX_ERROR, draw_matches, match_pair
from d2s.errors import InputError
from d2s.features.images import read_image
from d2s.scene.atomic import atomic_path

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net match`."""
    parser.add_argument("images", type=Path, nargs=2, metavar="IMAGE", help="the two photos")
    parser.add_argument("--output", type=Path, default=Path("matches.png"), help="picture, png or jpg (default: matches.png)")
    error = f"pixels that an inlier of the homography may be off (default: {MAX_ERROR:g})"
    parser.add_argument("--max_error", type=float, default=MAX_ERROR, help=error)
    add_extraction(parser)


def run(args: argparse.Namespace) -> int:
    """Extract, match, draw."""
    if args.output.suffix.lower() not in (".png", ".jpg"):
        raise InputError(f"--output must end in .png or .jpg, not {args.output.name!r}.")
    if not args.max_error > 0:
        raise InputError(f"--max_error must be positive, not {args.max_error}.")
    images = read_image(args.images[0]), read_image(args.images[1])
    extractor = make_d2net(args)
    first, second = (extractor.extract([image])[0] for image in images)
    matches = match_pair(first, second, args.max_error)
    _, data = cv2.imencode(args.output.suffix, cv2.cvtColor(draw_matches(images, matches), cv2.COLOR_RGB2BGR))
    with atomic_path(args.output) as temporary:
        temporary.write_bytes(data.tobytes())
    counts = len(first), len(second), len(matches.inliers), int(matches.inliers.sum())
    log.info("%d and %d keypoints, %d matches, %d inliers of a homography: %s", *counts, args.output)
    return 0
