"""D2-Net features of a list of images: for each a file of keypoints (x, y, scale), scores and descriptors beside it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from d2s.commands.d2net_options import Unreadable, add_extraction, make_d2net
from d2s.commands.options import flag
from d2s.d2net.file_extraction import OUTPUT_TYPES, extract_files, read_image_list

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net extract`."""
    parser.add_argument("--image_list_file", type=Path, required=True, help="one image path per line, relative to this folder")
    parser.add_argument("--output_extension", default=".d2-net", help="what is added to an image's name (default: .d2-net)")
    parser.add_argument("--output_type", choices=OUTPUT_TYPES, default="npz", help="file format (default: npz)")
    flag(parser, "--skip_existing", False, "leave images alone that have their file")
    add_extraction(parser)


def run(args: argparse.Namespace) -> int:
    """Extract; images that cannot be read are named, and the others have their files all the same."""
    images, unreadable = read_image_list(args.image_list_file), Unreadable()
    extractor = make_d2net(args)
    written = extract_files(images, extractor, args.output_extension, args.output_type, args.skip_existing, args.batch, unreadable)
    log.info("Wrote the features of %d of %d images", written, len(images))
    unreadable.raise_if_any(len(images))
    return 0
