"""What the actions of `d2s d2net` that extract features have in common."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from d2s.commands.device import add_device, choose_device
from d2s.commands.options import flag
from d2s.errors import InputError
from d2s.features.d2net.alignment import ALIGNMENTS
from d2s.features.d2net.checkpoints import PUBLISHED, published_name
from d2s.features.d2net.extractor import D2NetExtractor
from d2s.features.d2net.pyramid import MULTISCALE
from d2s.features.weights import resolve_weights

log = logging.getLogger(__name__)

DEFAULT_MODEL = Path("d2_tf.pth")


def add_extraction(parser: argparse.ArgumentParser, several_models: bool = False) -> None:
    """Options of the network, the image sizes, the pyramid and the machine. `several_models`: --model_file takes, and gives, a list."""
    names = ", ".join(PUBLISHED)
    parser.add_argument("--preprocessing", choices=("caffe", "torch"), default="caffe", help="what the weights expect (default: caffe)")
    model = f"checkpoint of D2-Net or of VGG16, or one of {names}, which are found or downloaded (default: {DEFAULT_MODEL})"
    several: dict[str, Any] = {"nargs": "+", "default": [DEFAULT_MODEL]} if several_models else {"default": DEFAULT_MODEL}
    parser.add_argument("--model_file", "--weights", type=Path, help=model, **several)
    parser.add_argument("--max_edge", type=int, default=1600, help="longer side at the network's input, in pixels (default: 1600)")
    parser.add_argument("--max_sum_edges", type=int, default=2800, help="width and height together, in pixels (default: 2800)")
    parser.add_argument("--multiscale", action="store_true", help="detect at scales 0.5, 1 and 2")
    parser.add_argument("--scales", type=float, nargs="+", default=None, help="detect at these scales instead, coarse ones first")
    parser.add_argument("--no-relu", dest="use_relu", action="store_false", help="leave out the ReLU after the last layer")
    parser.add_argument("--max-keypoints", "--max_keypoints", type=int, default=None, help="the best per image (default: all)")
    parser.add_argument(
        "--coordinates",
        choices=tuple(ALIGNMENTS),
        default="corrected",
        help="corrected, or as published (default: corrected)",
    )
    parser.add_argument("--batch", type=int, default=None, help="images of one size at once (default: 1 on a CPU, 8 on a GPU)")
    flag(parser, "--half", False, "bfloat16 up to the last layer: faster, slightly different features")
    add_device(parser)


def make_d2net(args: argparse.Namespace) -> D2NetExtractor:
    """The extractor of the options. Raises InputError for values that are not allowed."""
    for name in ("max_keypoints", "batch"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}.")
    device = str(choose_device(args.cudaid))
    published = published_name(args.model_file)
    extractor = D2NetExtractor(
        published or "d2net",
        args.max_keypoints,
        device,
        resolve_weights(published) if published else args.model_file,
        max_side=args.max_edge,
        max_sum_edges=args.max_sum_edges,
        scales=args.scales or (MULTISCALE if args.multiscale else (1.0,)),
        preprocessing=args.preprocessing,
        use_relu=args.use_relu,
        coordinates=args.coordinates,
        half=args.half,
    )
    extractor.batch_size = args.batch or extractor.batch_size
    return extractor


class Unreadable:
    """Notes images that cannot be read: one line each at once, one error at the end."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __call__(self, name: str, error: InputError) -> None:
        """Called for each of them."""
        log.warning("Left out: %s", error.problem)
        self.problems.append(error.problem)

    def raise_if_any(self, count: int) -> None:
        """Raises InputError when there were some among `count` images: the others have their features."""
        if self.problems:
            raise InputError(f"{len(self.problems)} of {count} images could not be read.", "Replace them, or take them off the list.")
