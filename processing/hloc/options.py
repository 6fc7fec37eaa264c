"""What the command line says about hloc, and which way it leads: hloc's outputs, hloc itself, or our own path."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from d2s.commands.device import choose_device
from d2s.commands.doctor import find_hloc
from d2s.commands.options import flag
from d2s.errors import InputError, MissingPackageError
from d2s.scene.atomic import read_json
from processing.default_feature import ALWAYS
from processing.hloc.driver import MARK, OWN, PAIRS, DriveOptions, Driver
from processing.hloc.outputs import HlocOutputs, find_outputs, scene_folders
from processing.hloc.package import GET_HLOC
from processing.hloc.stages import HlocInput
from processing.stages import RECORD

logger = logging.getLogger(__name__)

DRIVING = ("hloc_conf", "hloc_matcher", "hloc_pairs", "hloc_reference", "hloc_global")
READING = ("hloc_features", "hloc_sfm")


def add_hloc_arguments(group: Any) -> None:
    """Options of `d2s preprocess` that concern hloc."""
    for name, kind, metavar, text in (
        (
            "hloc_out_dir",
            Path,
            "DIR",
            "outputs of hloc: the scene's folder, or one with DATASET/SCENE in it (default: third_party/*/outputs)",
        ),
        ("hloc_features", str, "NAME", "feature file to read (default: the one that the SfM model agrees with)"),
        ("hloc_sfm", str, "NAME", "folder of the SfM model to read (default: the first that fits)"),
        (
            "hloc_conf",
            str,
            "NAME",
            f"hloc's extractor configuration to run, or {OWN}: our extractor (default: what --features is called there)",
        ),
        ("hloc_matcher", str, "NAME", "hloc's matcher configuration to run (default: the best that is usable for the features)"),
        ("hloc_pairs", str, "KIND", f"pairs that hloc matches: {', '.join(PAIRS)}, or a pairs file (default: {PAIRS[0]})"),
        ("hloc_reference", Path, "DIR", "COLMAP model with points, for --hloc_pairs covisibility"),
        ("hloc_global", str, "NAME", "hloc's global descriptor, for --hloc_pairs retrieval (default: netvlad)"),
    ):
        group.add_argument(f"--{name}", type=kind, default=None, metavar=metavar, help=text)
    flag(group, "--hloc_reextract", False, "extract features anew where hloc's file has halved keypoints; labels go to the same places")


def hloc_input(args: argparse.Namespace, dataset: str, folder: Path) -> HlocInput | None:
    """What to read of hloc or to run, None for our own path. One line says which way `--sfm auto` took.

    `folder`: of the scene that is made. Raises InputError where hloc is asked for and neither its outputs nor hloc itself are there.
    """
    if args.sfm == "native":
        _refuse_options(args)
        return None
    wanted = args.sfm == "hloc" or _given(args, ("hloc_out_dir", *DRIVING, *READING))
    target = _target(args, dataset, folder)
    driven = bool(_given(args, DRIVING)) or (target / MARK).is_file()
    if wanted and driven and find_hloc() is not None:
        return _drive(args, target)
    outputs = _outputs(args, dataset, folder, bool(wanted))
    if outputs is not None:
        return _read(args, outputs)
    if wanted and find_hloc() is not None:
        return _drive(args, target)
    if wanted:
        raise _nothing_found(args, dataset, folder.name)
    here = "not asked for (--sfm hloc runs it)" if find_hloc() is not None else "not installed"
    logger.info("--sfm auto: hloc is %s and no outputs of it were found: the native path is taken", here)
    return None


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(args, name) is not None]


def _refuse_options(args: argparse.Namespace) -> None:
    given = _given(args, ("hloc_out_dir", *DRIVING, *READING)) + (["hloc_reextract"] if args.hloc_reextract else [])
    if given:
        raise InputError(f"--sfm native makes its own SfM model, so --{given[0]} means nothing.", "Leave out one of them.")


def _target(args: argparse.Namespace, dataset: str, folder: Path) -> Path:
    """Where hloc writes: --hloc_out_dir/DATASET/SCENE as upstream, --hloc_out_dir itself where it is the scene's, else in our folder."""
    if args.hloc_out_dir is None:
        return folder / "hloc"
    out = Path(args.hloc_out_dir)
    return out if out.name.casefold() == folder.name.casefold() or (out / MARK).is_file() else out / dataset / folder.name


def _drive(args: argparse.Namespace, target: Path) -> HlocInput:
    if _given(args, READING) and not _given(args, DRIVING):
        raise InputError(
            f"--{_given(args, READING)[0]} chooses among outputs of hloc, and there are none.", "Leave it out, or check --hloc_out_dir."
        )
    device = str(choose_device(args.cudaid))
    options = DriveOptions(
        features=ALWAYS if args.features == "auto" else args.features,
        num_keypoints=args.num_keypoints,
        conf=args.hloc_conf or "",
        matcher=args.hloc_matcher or "",
        pairs=args.hloc_pairs or PAIRS[0],
        num_pairs=args.num_neighbors,
        reference=args.hloc_reference,
        global_conf=args.hloc_global or DriveOptions.global_conf,
    )
    return HlocInput(args.num_keypoints, drive=Driver(options, target, device, args.weights), device=device, weights=args.weights)


def _read(args: argparse.Namespace, outputs: HlocOutputs) -> HlocInput:
    if _given(args, DRIVING):
        logger.warning(
            "hloc is not installed: --%s means nothing, and the outputs in %s are read.", _given(args, DRIVING)[0], outputs.folder
        )
    logger.info("--sfm %s: hloc's outputs in %s", args.sfm, outputs.folder)
    device = str(choose_device(args.cudaid))
    return HlocInput(args.num_keypoints, outputs, device=device, weights=args.weights, reextract=args.hloc_reextract)


def _outputs(args: argparse.Namespace, dataset: str, folder: Path, wanted: bool) -> HlocOutputs | None:
    """Outputs that belong together, None where there are none; a scene that was made natively stays so unless hloc is asked for."""
    if not wanted and _was_native(folder):
        return None
    names = (args.hloc_features or "", args.hloc_sfm or "")
    try:
        return find_outputs(args.hloc_out_dir, dataset, folder.name, *names)
    except InputError as error:
        if args.sfm == "auto" and args.hloc_out_dir is None:
            logger.warning("%s", error.problem)
            return None
        if find_hloc() is None or any(names):
            raise
        logger.info("%s hloc is run.", error.problem)
        return None


def _was_native(folder: Path) -> bool:
    record = folder / RECORD
    return record.is_file() and "hloc" not in read_json(record).get("settings", {}).get("settings", {})


def _nothing_found(args: argparse.Namespace, dataset: str, scene: str) -> InputError:
    if args.hloc_out_dir is not None and not scene_folders(args.hloc_out_dir, dataset, scene):
        return InputError(
            f"--hloc_out_dir {args.hloc_out_dir} does not exist, and hloc is not installed.", "Give the folder that hloc wrote."
        )
    where = args.hloc_out_dir or "third_party/*/outputs"
    return MissingPackageError(f"{where} has no outputs of hloc for {dataset}/{scene}, and hloc is not installed.", GET_HLOC)
