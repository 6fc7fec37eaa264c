"""Poses of single images: one line of JSON, or of text, per image."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pycolmap

from d2s.commands.device import add_device, choose_device
from d2s.commands.options import add_min_confidence, flag
from d2s.errors import InputError
from d2s.evaluation import wording
from d2s.features.images import read_image
from d2s.geometry.camera import parse_camera
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.localization.table import DEFAULT_ESTIMATOR, ESTIMATORS
from d2s.regressor.base import ModelInfo

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s localize`."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR_OR_FILE", help="model/ folder of a run, checkpoint folder, or model file"
    )
    parser.add_argument("--image", type=Path, required=True, action="append", metavar="FILE", help="image to localize; repeatable")
    parser.add_argument(
        "--camera",
        metavar="'MODEL W H p0 ...'",
        help="COLMAP camera, e.g. 'SIMPLE_PINHOLE 640 480 525 320 240' (default: the mapping images' camera, if they share one)",
    )
    flag(parser, "--json", False, "print one line of JSON per image and nothing else")
    parser.add_argument("--pnp", choices=tuple(ESTIMATORS), default=DEFAULT_ESTIMATOR, help=f"PnP back end (default: {DEFAULT_ESTIMATOR})")
    parser.add_argument("--max_error", type=float, default=None, help="RANSAC inlier threshold in pixels (default: the model's)")
    add_min_confidence(parser)
    parser.add_argument("--weights", type=Path, default=None, help="file of the feature network, where it is not found by itself")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Print the pose of each image; an image that cannot be localized is an answer too."""
    if args.json:
        logging.getLogger().setLevel(logging.CRITICAL)  # standard output is for JSON alone
    camera = None if args.camera is None else parse_camera(args.camera)  # a wrong camera is said before the model is loaded
    device = str(choose_device(args.cudaid))
    localizer = Localizer.load(args.model, device, args.pnp, args.max_error, args.weights, args.min_confidence)
    camera = camera or shared_camera(localizer.info)
    for path in args.image:
        result = localizer.localize(read_image(path), camera)
        print(json.dumps(result.to_json(str(path)), allow_nan=False) if args.json else describe(path, result, localizer.info), flush=True)
    return 0


def shared_camera(info: ModelInfo) -> pycolmap.Camera:
    """The camera of all mapping images. Raises InputError when there are several."""
    cameras: Sequence[str] = sorted(set(info.cameras))
    if len(cameras) == 1:
        return parse_camera(cameras[0])
    example = f" One of them: --camera '{cameras[0]}'." if cameras else ""
    raise InputError(
        f"The mapping images of this model have {len(cameras) or 'no known'} cameras.",
        f"Say which one took the image, with --camera.{example}",
    )


def describe(path: Path, result: LocalizationResult, info: ModelInfo) -> str:
    """One line for people."""
    time = wording.milliseconds(result.ms.get("total"))
    counts = f"{result.num_inliers} inliers of {result.kept} reliable of {result.extracted} keypoints, {time}"
    if result.center is None:
        return f"{path}: not localized: {result.reason} ({counts})"
    x, y, z = result.center
    unit = "m" if info.units == "metres" else "scene units"
    return f"{path}: camera at {x:.3f} {y:.3f} {z:.3f} {unit}, confidence {result.confidence:.2f} ({counts})"
