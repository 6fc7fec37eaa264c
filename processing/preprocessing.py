"""Photos and poses become a scene: local features, an SfM model, labels, and the manifest that the other commands read."""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script finds its own folder only; d2s and processing lie one level up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from d2s.commands.device import add_device, choose_device
from d2s.commands.folders import dataset_name, writable_folder
from d2s.commands.options import flag, run_command
from d2s.errors import InputError
from d2s.features.table import FEATURES
from d2s.matching.table import MATCHERS
from d2s.scene.atomic import read_json
from processing.adapters.base import AdapterOptions
from processing.adapters.table import ADAPTERS
from processing.augmentation.options import add_augment_arguments, augment_options
from processing.augmentation.stage import augment
from processing.augmentation.stage import report_lines as augment_lines
from processing.default_feature import ALWAYS, BEST, best_feature
from processing.depth_options import add_depth_arguments, depth_options
from processing.hloc.options import add_hloc_arguments, hloc_input
from processing.labels import LabelOptions
from processing.pipeline import Settings, preprocess
from processing.pseudo.options import add_pseudo_arguments, pseudo_options
from processing.pseudo.stage import make_pseudo_labels
from processing.report import report_lines
from processing.sfm.colmap import SfmOptions
from processing.stages import RECORD
from processing.world.measures import parse_scale

logger = logging.getLogger(__name__)

DEMO_SCENE = "gallery"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s preprocess`."""
    parser.add_argument("--dataset_dir", type=Path, default=None, help="folder of the data set or of the scene (demo needs none)")
    parser.add_argument("--dataset", required=True, type=dataset_name, choices=tuple(ADAPTERS), help="format of the data")
    parser.add_argument("--scene", default="", help=f"name of the scene (default: name of the folder; demo: {DEMO_SCENE}, stairs, museum)")
    parser.add_argument("--out_dir", type=Path, default=Path("dataset"), help="where scenes are written (default: dataset)")
    gt = "which poses of 7scenes, 12scenes or Cambridge (default: original)"
    parser.add_argument("--gt", choices=("original", "sfm", "dslam"), default="original", help=gt)
    gt_file = "pose file, or folder of an SfM model, that --gt means (default: pgt_GT.txt in the scene, else the SfM layout)"
    parser.add_argument("--gt_file", type=Path, default=None, help=gt_file)
    for split in ("train", "test", "val"):
        parser.add_argument(f"--list_{split}", type=Path, default=None, metavar="FILE", help=f"text file that names the {split} images")
    parser.add_argument("--test_every", type=int, default=None, metavar="N", help="without lists, every N-th image is a query (default: 8)")
    parser.add_argument(
        "--camera",
        default=None,
        metavar="'MODEL W H p0 …'",
        help="camera of all images, parameters as in COLMAP, pixels (default: as the data says)",
    )
    parser.add_argument("--units", choices=("metres", "arbitrary"), default=None, help="unit of the poses (default: as the format says)")
    add_scale_argument(parser)
    demo = "of the demo: mapping_images=N, query_images=N (default: by the scene) or size=WIDTHxHEIGHT (default: 640x480); repeatable"
    parser.add_argument("--demo_option", action="append", default=[], metavar="KEY=VALUE", help=demo)
    add_processing_arguments(parser)


def add_scale_argument(parser: argparse.ArgumentParser, default: str = "none") -> None:
    """The option --scale."""
    parser.add_argument(
        "--scale",
        action="append",
        metavar="TEXT",
        help="what gives poses of arbitrary scale, or a reconstruction, their metres: 'A.jpg B.jpg 1.5', metres between two cameras; "
        "'A.jpg 310,95 480,102 0.9', metres between what is seen at two pixels (photos without poses only); both repeatable; a number, "
        f"metres per unit; gps, positions in the photos; auto, gps where it is good enough; none (default: {default})",
    )


def add_processing_arguments(parser: argparse.ArgumentParser) -> None:
    """Options on what is done with a scene, wherever it comes from."""
    _add_feature_arguments(parser.add_argument_group("features"))
    _add_sfm_arguments(parser.add_argument_group("structure from motion and labels"))
    add_depth_arguments(parser.add_argument_group("labels corrected by depth"))
    add_augment_arguments(parser.add_argument_group("augmented copies"))
    add_pseudo_arguments(parser.add_argument_group("photos without labels"))
    flag(parser, "--skip_bad_images", False, "leave out images that cannot be read, instead of stopping")
    flag(parser, "--overwrite", False, "start anew, whatever an earlier run left in the scene's folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number (default: 0)")


def _add_feature_arguments(group: Any) -> None:
    group.add_argument(
        "--features",
        default="auto",
        choices=("auto", *FEATURES),
        help=f"local feature (default: {BEST} where its weights are, else {ALWAYS}; {ALWAYS} for the demo and where hloc works)",
    )
    group.add_argument("--num_keypoints", type=int, default=2048, help="keypoints per image at most (default: 2048)")
    group.add_argument("--weights", type=Path, default=None, help="weights of the feature network (default: found or downloaded)")
    group.add_argument("--batch", type=int, default=None, help="images extracted at once (default: what suits the feature)")
    add_device(group)


def _add_sfm_arguments(group: Any) -> None:
    sfm, labels = SfmOptions(), LabelOptions()
    group.add_argument("--sfm", choices=("auto", "hloc", "native"), default="auto", help="who makes the SfM model (default: auto)")
    add_hloc_arguments(group)
    group.add_argument(
        "--refine_poses",
        choices=("auto", "yes", "no"),
        default="auto",
        help="make a second map at poses refined by bundle adjustment; auto: where the images disagree with the given ones (default)",
    )
    group.add_argument("--matcher", choices=MATCHERS, default="nn", help="nn: mutual nearest neighbours; lightglue (default: nn)")
    for name, default, text in (
        ("num_neighbors", sfm.num_neighbors, "images that each image is matched with, where there are too many for all pairs"),
        ("max_epipolar_error", sfm.max_error_px, "pixels up to which a match agrees with known poses"),
        ("min_track_length", labels.min_track_length, "number of images that must see a labelled point"),
        ("max_reprojection_error", labels.max_error_px, "mean reprojection error that a labelled point may have, pixels"),
        ("min_angle", labels.min_angle_deg, "angle that some two rays of a labelled point must have between them, degrees"),
    ):
        group.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: {default:g})")


def run(args: argparse.Namespace) -> int:
    """Preprocess one scene, or finish what a killed run began."""
    folder = scene_folder(args)
    return process(args, folder, settings_from_args(args, folder))


def process(args: argparse.Namespace, folder: Path, settings: Settings) -> int:
    """Preprocess the scene of `folder`, and make the further training images that the options ask for."""
    copies = augment_options(args)
    pseudo = pseudo_options(args)
    writable_folder("--out_dir", args.out_dir)
    report = preprocess(settings, folder, args.overwrite)
    for line in (f"Scene {folder}", *report_lines(report)):
        logger.info("%s", line)
    if copies is not None:
        for line in augment_lines(augment(folder, copies, settings.device, settings.weights, settings.batch)):
            logger.info("%s", line)
    if pseudo is not None:
        make_pseudo_labels(settings, pseudo, folder)
    scene = folder.relative_to(Path(args.out_dir) / args.dataset).as_posix()
    if getattr(args, "say_next", True):
        logger.info("Next: d2s train --dataset %s --scene %s --data_dir %s", args.dataset, scene, args.out_dir)
    return 0


def scene_folder(args: argparse.Namespace) -> Path:
    """OUT_DIR/DATASET/SCENE. Raises InputError when the scene has no name that can be a folder."""
    folder_name = args.dataset_dir.resolve().name if args.dataset_dir else ""
    scene = args.scene or (DEMO_SCENE if args.dataset == "demo" else folder_name)
    if not scene:
        raise InputError(f"--dataset {args.dataset} needs --dataset_dir.", "Give the folder of the data set or of the scene.")
    if Path(scene).is_absolute() or ".." in Path(scene).parts:
        raise InputError(f"--scene {scene!r} must be a name, not a path that leads elsewhere.")
    return Path(args.out_dir) / args.dataset / scene


def settings_from_args(args: argparse.Namespace, folder: Path) -> Settings:
    """What the options say, checked."""
    _require_positive(args, "num_keypoints", "num_neighbors", "max_epipolar_error", "max_reprojection_error")
    if args.min_track_length < 2:
        raise InputError(f"--min_track_length {args.min_track_length} must be at least 2.")
    if not 0 <= args.min_angle < 180:
        raise InputError(f"--min_angle {args.min_angle} must be at least 0 and below 180 degrees.")
    if args.batch is not None:
        _require_positive(args, "batch")
    lists = {f"list_{split}": getattr(args, f"list_{split}") for split in ("train", "test", "val")}
    where = {"dataset_dir": args.dataset_dir, "scene": args.scene, "gt": args.gt, "gt_file": args.gt_file, "camera": args.camera}
    where["is_scene"] = getattr(args, "is_scene", False)  # d2s map says so
    adapter = AdapterOptions(**where, **lists, work_dir=folder, seed=args.seed, extra=_extra(args))
    hloc = hloc_input(args, args.dataset, folder)
    return Settings(
        dataset=args.dataset,
        adapter=adapter,
        features=_feature(args, folder, hloc is not None),
        num_keypoints=args.num_keypoints,
        weights=args.weights,
        batch=args.batch,
        device=str(choose_device(args.cudaid)),
        matcher=args.matcher,
        refine_poses=args.refine_poses,
        sfm=SfmOptions(args.num_neighbors, args.max_epipolar_error, min_angle_deg=args.min_angle, seed=args.seed),
        labels=replace(
            LabelOptions(), min_track_length=args.min_track_length, max_error_px=args.max_reprojection_error, min_angle_deg=args.min_angle
        ),
        skip_bad_images=args.skip_bad_images,
        depth=depth_options(args),
        hloc=hloc,
        scale=parse_scale(args.scale or ()),
    )


def _feature(args: argparse.Namespace, folder: Path, by_hloc: bool) -> str:
    """The feature that was asked for; else that of a scene already begun, or the best that there is. Rendered scenes need no network."""
    if args.features != "auto":
        return str(args.features)
    if by_hloc or args.dataset == "demo":
        return ALWAYS
    record = folder / RECORD
    begun = {} if args.overwrite or not record.is_file() else read_json(record).get("settings", {}).get("settings", {})
    return str(begun.get("features") or best_feature())


def _require_positive(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if not 0 < getattr(args, name) < float("inf"):
            raise InputError(f"--{name} {getattr(args, name)} must be greater than 0.")


def _extra(args: argparse.Namespace) -> dict[str, Any]:
    """Options that only some adapters know."""
    extra: dict[str, Any] = {name: getattr(args, name) for name in ("test_every", "units") if getattr(args, name) is not None}
    if args.skip_bad_images and args.dataset == "photos":
        extra["skip_bad_images"] = True
    if args.demo_option and args.dataset != "demo":
        raise InputError(f"--demo_option does not apply to --dataset {args.dataset}.", "Leave it out.")
    return {**extra, **dict(_demo_option(text) for text in args.demo_option)}


def _demo_option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        numbers = [int(part) for part in value.split("x")]
    except ValueError:
        numbers = []
    if key not in ("mapping_images", "query_images", "size") or len(numbers) != (2 if key == "size" else 1):
        raise InputError(f"--demo_option {text!r} is not understood.", "Write mapping_images=N, query_images=N or size=WIDTHxHEIGHT.")
    return key, numbers if key == "size" else numbers[0]


if __name__ == "__main__":
    sys.exit(run_command("preprocessing.py", add_arguments, run, description=__doc__))
