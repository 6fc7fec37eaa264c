"""Your own photos or video become a place to localize in, with a plain verdict on how well that works.

One command for preprocess, train and eval. A share of the photos is held out of the map and localized in the end; what comes of it is said
in words, with the parts that are weak and the photos that would help. A killed run goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2s.cli import COMMANDS
from d2s.commands.device import add_device
from d2s.commands.folders import writable_folder
from d2s.commands.options import flag
from d2s.commands.pipeline import stage_parser
from d2s.errors import InputError, SettingsMismatchError
from d2s.features.base import settings_hash
from d2s.features.table import FEATURES
from d2s.scene.atomic import read_json, write_text
from d2s.scene.manifest import Scene
from processing.adapters.base import AdapterOptions
from processing.adapters.lists import own_lists
from processing.adapters.nerfstudio import SPLIT_KEYS, TRANSFORMS
from processing.adapters.table import load_source
from processing.default_feature import best_feature
from processing.own_photos.held_out import SHARE, capture_order, held_out
from processing.own_photos.kinds import KINDS, MIN_PHOTOS, Given, find_kind
from processing.own_photos.outcome import HELD_OUT, RUN, finish
from processing.own_photos.video import extract_frames
from processing.preprocessing import add_scale_argument
from processing.stages import Stages, remove_outputs
from processing.world.measures import parse_scale

logger = logging.getLogger(__name__)

FRAMES, SCENES, CHECK = "frames", "scene", "check"
OUTPUTS = ("map.json", "model", FRAMES, SCENES, CHECK, RUN, HELD_OUT, "stages.json")
FEW_PHOTOS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s map`."""
    given = "folder of photos, folder with images and a COLMAP model, nerfstudio capture (transforms.json), or video file"
    parser.add_argument("input", type=Path, metavar="PHOTOS_OR_VIDEO", help=given)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the map: model/, map.json, check/report.html")
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="what the input is (default: auto, by its content)")
    parser.add_argument("--name", default="", help="name of the place, for reports (default: name of the input)")
    parser.add_argument(
        "--features", choices=("auto", *FEATURES), default="auto", help="local feature (default: aliked where its weights are, else sift)"
    )
    parser.add_argument("--num_keypoints", type=int, default=2048, help="keypoints per image at most (default: 2048)")
    parser.add_argument("--max_frames", type=int, default=130, help="frames to take from a video at most (default: 130)")
    parser.add_argument(
        "--camera",
        default=None,
        metavar="'MODEL W H p0 …'",
        help="camera of all images, parameters as in COLMAP, pixels (default: from the model, or EXIF, refined)",
    )
    add_scale_argument(parser, default="auto")
    parser.add_argument("--held_out", type=float, default=SHARE, metavar="SHARE", help=f"photos to test on, 0 to 0.5 (default: {SHARE:g})")
    parser.add_argument("--list_test", type=Path, default=None, metavar="FILE", help="text file that names the photos to test on instead")
    parser.add_argument("--max_minutes", type=float, default=None, help="training time at most, minutes (default: what the recipe says, 1)")
    parser.add_argument("--config_file", type=Path, default=Path("configs/fast.ini"), help="recipe (default: configs/fast.ini)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one option of the recipe; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number (default: 0)")
    flag(parser, "--overwrite", False, "start anew, whatever an earlier run left in --out")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Map the place, check it, and say what came of it."""
    _check(args)
    given = find_kind(args.input, args.kind)
    writable_folder("--out", args.out)
    if args.overwrite:
        clear(args.out)
    features = best_feature() if args.features == "auto" else args.features
    logger.info("%s: %s, %s features", given.path, DESCRIPTION[given.kind], features)
    stages = Stages(args.out)
    try:
        return _run_stages(args, given, features, stages)
    except SettingsMismatchError as error:
        remedy = "Give the same options and the same photos as before, another --out, or --overwrite to start anew."
        raise SettingsMismatchError(error.problem, remedy) from error


DESCRIPTION = {
    "photos": "photos without poses",
    "colmap": "images with the poses of a COLMAP model",
    "nerfstudio": "images with the poses of a transforms.json",
    "video": "a video",
}


def clear(out: Path) -> None:
    """Remove what `d2s map` wrote, and nothing else: first what says that it is finished."""
    remove_outputs(out, OUTPUTS)


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.held_out <= 0.5:
        raise InputError(f"--held_out {args.held_out} must be between 0 and 0.5: the share of the photos to test on.")
    if args.max_frames < 10:
        raise InputError(f"--max_frames {args.max_frames} must be at least 10.")
    parse_scale(args.scale or ())


def _run_stages(args: argparse.Namespace, given: Given, features: str, stages: Stages) -> int:
    dataset, folder, video, names = given.kind, given.path, {}, list[str]()
    if given.kind != "video":  # before anything is recorded: another --kind may be the remedy
        names = _usable(args, given, dataset, folder)
    stages.run("settings", _settings(args, given, features), (), dict)
    if given.kind == "video":
        dataset, folder = "photos", args.out / FRAMES
        logger.info("\n== Choosing frames")
        video = stages.run("frames", _file_record(given.path), (FRAMES,), lambda: extract_frames(given.path, folder, args.max_frames))
        names = _usable(args, given, dataset, folder)
    name = args.name or (given.path.stem if given.kind == "video" else given.path.resolve().name)
    stages.run("photos", {"photos": len(names), "names": settings_hash({"names": names})}, (), dict)
    where, log_level = ["--dataset", dataset, "--scene", name], args.log_level
    logger.info("\n== %s", "Finding points at the given poses" if given.poses_known else "Finding out where the photos were taken")
    options = [*where, *_preprocess_options(args, dataset, folder, features), *_test_options(args, dataset, folder, names)]
    stages.run("scene", {}, (SCENES,), lambda: _stage("preprocess", options, log_level))
    logger.info("\n== Learning the place")
    place = [*where, f"--data_dir={args.out / SCENES}", f"--log_dir={args.out}", "--name", RUN, *_device(args)]
    stages.run("train", {}, (f"{RUN}/model",), lambda: _stage("train", [*place, *_train_options(args)], log_level))
    scene_dir, check = args.out / SCENES / dataset / name, args.out / CHECK
    if Scene.load(scene_dir).split("test"):
        logger.info("\n== Localizing the held-out photos")
        stages.run("check", {}, (CHECK,), lambda: _stage("eval", [*place, f"--out={check}"], log_level))
    about = {"input": str(given.path), "kind": given.kind, "features": features, "video": video, "seconds": stages.seconds}
    for line in finish(args.out, scene_dir, check, about):
        logger.info("%s", line)
    return 0


def _usable(args: argparse.Namespace, given: Given, dataset: str, folder: Path) -> list[str]:
    """The usable photos in the order in which they were taken. Raises InputError where they are too few or cannot be used."""
    try:
        names = _names(args, dataset, folder)
    except InputError as error:
        raise _with_other_kind(error, args, given) from error
    _require_enough(names, given)
    return names


def _require_enough(names: Sequence[str], given: Given) -> None:
    if len(names) < MIN_PHOTOS:
        raise InputError(
            f"{given.path} has only {len(names)} usable photos; a map needs at least {MIN_PHOTOS}.",
            "Take 30 to 130, each with two thirds of what the last one shows.",
        )
    if len(names) < FEW_PHOTOS:
        logger.warning("%d photos are few: expect gaps. 30 to 130 make a good map.", len(names))


def _settings(args: argparse.Namespace, given: Given, features: str) -> dict[str, Any]:
    """What decides the map, apart from the photos themselves, as JSON values."""
    same = ("camera", "held_out", "max_minutes", "seed", "num_keypoints", "scale")
    return {
        "input": str(given.path.resolve()),
        "kind": given.kind,
        "name": args.name,
        "features": features,
        "config_file": str(args.config_file),
        "set": list(args.set),
        "list_test": None if args.list_test is None else str(args.list_test.resolve()),
        **({"max_frames": args.max_frames} if given.kind == "video" else {}),
        **{name: getattr(args, name) for name in same},
    }


def _file_record(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "changed": path.stat().st_mtime_ns}


def _names(args: argparse.Namespace, dataset: str, folder: Path) -> list[str]:
    """The usable photos in the order in which they were taken."""
    options = AdapterOptions(folder, camera=args.camera, list_test=args.list_test, extra={"skip_bad_images": True})
    source = load_source(dataset, options)
    return capture_order(source.scene.image_dir, [image.name for image in source.scene.images])


def _with_other_kind(error: InputError, args: argparse.Namespace, given: Given) -> InputError:
    """The error with one remedy more where poses that nobody asked for are what is wrong."""
    if args.kind != "auto" or args.list_test is not None or not given.poses_known:
        return error
    return type(error)(error.problem, f"{error.remedy} To find the poses anew from the photos alone: --kind photos.".lstrip())


def _test_options(args: argparse.Namespace, dataset: str, folder: Path, names: Sequence[str]) -> list[str]:
    """Options of preprocess that say which photos are held out: the user's, the data's own, else ours, which go to held_out.txt."""
    if args.list_test is not None:
        return [f"--list_test={args.list_test}"]
    if has_own_split(dataset, folder):
        logger.info("Held out are the photos that %s itself names.", folder)
        return []
    chosen = held_out(names, args.held_out)
    write_text(args.out / HELD_OUT, "\n".join(chosen or names) + "\n")
    return [f"--list_{'test' if chosen else 'train'}={args.out / HELD_OUT}"]


def has_own_split(dataset: str, folder: Path) -> bool:
    """Whether the data says by itself which images are for testing."""
    if dataset == "nerfstudio" and any(read_json(folder / TRANSFORMS).get(key) for key in SPLIT_KEYS.values()):
        return True
    return bool(own_lists(folder))


def _preprocess_options(args: argparse.Namespace, dataset: str, folder: Path, features: str) -> list[str]:
    scale = args.scale or (["auto"] if dataset == "photos" else [])  # given poses stay where they are, unless the user asks
    return [
        f"--dataset_dir={folder}",
        f"--out_dir={args.out / SCENES}",
        f"--features={features}",
        f"--num_keypoints={args.num_keypoints}",
        f"--seed={args.seed}",
        "--skip_bad_images",
        *(f"--scale={text}" for text in scale),
        *([] if args.camera is None else [f"--camera={args.camera}"]),
        *_device(args),
    ]


def _train_options(args: argparse.Namespace) -> list[str]:
    minutes = [] if args.max_minutes is None else [f"--max_minutes={args.max_minutes}"]
    return [f"--config_file={args.config_file}", f"--seed={args.seed}", "--visdom=off", *minutes, *(f"--set={text}" for text in args.set)]


def _device(args: argparse.Namespace) -> list[str]:
    return [] if args.cudaid is None else [f"--cudaid={args.cudaid}"]


def _stage(stage: str, arguments: Sequence[str], log_level: str) -> dict[str, Any]:
    """Run a command as its user would, but let its errors through: they are ours to word."""
    parsed = stage_parser(stage).parse_args([*arguments, "--log_level", log_level])
    parsed.say_next, parsed.is_scene = False, True  # the folder is the place, even if one in it has the place's name
    code = importlib.import_module(COMMANDS[stage][0]).run(parsed)
    assert code == 0, stage  # a command that cannot do its work raises
    return {}
