"""Command-line options of augmented copies."""

from __future__ import annotations

import argparse
from typing import Any

from d2s.commands.options import flag
from processing.augmentation.copies import LABELS, AugmentOptions


def add_augment_arguments(group: Any) -> None:
    """Options of `--process_train_data_augmentation` and what goes with it."""
    defaults = AugmentOptions()
    text = "after the scene, make augmented copies of its training images, for d2s train --augment"
    flag(group, "--process_train_data_augmentation", False, text)
    group.add_argument(
        "--augment_copies", type=int, default=defaults.copies, metavar="N", help=f"copies of each image (default: {defaults.copies})"
    )
    group.add_argument(
        "--augment_views",
        type=float,
        default=defaults.views,
        metavar="SHARE",
        help=f"share of the copies that get another view, not only other light, 0 to 1 (default: {defaults.views:g})",
    )
    group.add_argument(
        "--augment_labels",
        choices=LABELS,
        default=defaults.labels,
        help=f"labels from the exact warp, or by matching with the source image, as published (default: {defaults.labels})",
    )
    flag(group, "--augment_images", False, "keep the copies as PNG files, to look at")


def augment_options(args: argparse.Namespace) -> AugmentOptions | None:
    """What was asked for, checked; None when no copies are."""
    options = AugmentOptions(args.augment_copies, args.augment_views, args.augment_labels, args.augment_images, args.seed)
    return options if args.process_train_data_augmentation else None
