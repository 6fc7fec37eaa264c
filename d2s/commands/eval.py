"""Localize the test images of a scene and report how well it went: poses, errors, recalls, times, and an HTML report."""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2s.commands.device import add_device, choose_device
from d2s.commands.folders import dataset_name, writable_folder
from d2s.commands.options import add_effort, add_min_confidence, flag
from d2s.config import find_recipe, load_recipe
from d2s.errors import InputError, MissingFileError
from d2s.evaluation import wording
from d2s.evaluation.comparison import FOLDER as MATCHING
from d2s.evaluation.comparison import save_comparison
from d2s.evaluation.conventions import other_convention
from d2s.evaluation.evaluation import REPORT, clear_scores, evaluate_folder, metrics_before, read_scores
from d2s.evaluation.matching_baseline import MAX_ERROR, matching_results
from d2s.evaluation.model_parts import model_parts
from d2s.evaluation.pose_files import RESULTS
from d2s.evaluation.predict import live, predict, save, stored
from d2s.evaluation.report_data import landmarks_of
from d2s.evaluation.sweep import RANKINGS, SweepEntry, best_entry, ranking_tolerance, sweep_checkpoint, sweep_table
from d2s.features.table import is_foreign
from d2s.localization.effort import Effort
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.localization.table import DEFAULT_ESTIMATOR, ESTIMATORS, make_estimator
from d2s.regressor.model_files import is_checkpoint_file, load_model, model_bytes
from d2s.regressor.published import load_published
from d2s.scene.atomic import write_text
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene
from d2s.training.run_dir import RunDir, default_run_name

logger = logging.getLogger(__name__)

FEATURES, BEST = "features.h5", "best.txt"
KEEP_ALL = -math.inf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s eval`."""
    _add_run_options(parser)
    _add_checkpoint_options(parser)
    _add_localization_options(parser)
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="where the results go (default: LOG_DIR/NAME/eval)")
    flag(parser, "--eval_train", False, "also localize the mapping images, from their stored features (results in OUT/train)")
    flag(parser, "--stored_features", False, "localize the test images from the scene's features.h5, where hloc extracted them too")
    flag(parser, "--compare_matching", False, "localize the test images by matching with the mapping images, too, and report both")
    flag(parser, "--score_only", False, "localize nothing: score the results.txt that is in OUT already")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=dataset_name, default="7scenes", help="data set of the preprocessed scene (default: 7scenes)")
    parser.add_argument("--scene", required=True, help="name of the preprocessed scene")
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"), help="where d2s preprocess wrote (default: dataset)")
    parser.add_argument("--log_dir", type=Path, default=Path("logs"), help="folder of all runs (default: logs)")
    parser.add_argument("--name", default=None, help="name of the run (default: DATASET_SCENE_CONFIG_model_M)")
    parser.add_argument(
        "--config_file",
        type=Path,
        default=Path("configs/fast.ini"),
        help="recipe of the run, for its default name only (default: configs/fast.ini)",
    )
    parser.add_argument(
        "--model", type=int, default=None, help="model number, for the run's default name only (default: what the recipe says)"
    )
    add_device(parser)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=None,
        metavar="PATH",
        help="a model or checkpoint folder, or a .pth.tar of the public code, instead of the run's model",
    )
    flag(parser, "--single", False, "evaluate one checkpoint of the run, that of --epoch, or the run's model without it")
    parser.add_argument("--epoch", type=int, default=None, help="epoch of the checkpoint to evaluate")
    parser.add_argument("--start_epoch", type=int, default=None, help="sweep over checkpoints and reliability thresholds, from this epoch")
    parser.add_argument("--stop_epoch", type=int, default=None, help="sweep up to, but not including, this epoch")
    parser.add_argument(
        "--idx_eval", type=int, default=0, choices=tuple(RANKINGS), help=f"recall that ranks a sweep: {_rankings()} (default: 0)"
    )


def _rankings() -> str:
    return ", ".join(f"{i}: {cm:g} cm" + (f"/{deg:g} deg" if deg < 360 else "") for i, (cm, deg) in RANKINGS.items())


def _add_localization_options(parser: argparse.ArgumentParser) -> None:
    flag(parser, "--uncer", True, "drop unreliable keypoints before PnP")
    parser.add_argument(
        "--uncer_thres", type=float, default=None, help="keep keypoints with a reliability above this, 0 to 1 (default: the model's)"
    )
    parser.add_argument("--pnp", choices=tuple(ESTIMATORS), default=DEFAULT_ESTIMATOR, help=f"PnP back end (default: {DEFAULT_ESTIMATOR})")
    parser.add_argument("--max_error", type=float, default=None, help="RANSAC inlier threshold in pixels (default: the model's)")
    add_min_confidence(parser)
    add_effort(parser)
    parser.add_argument("--weights", type=Path, default=None, help="file of the feature network, where it is not found by itself")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, and say where the report is."""
    _check_combination(args)
    folder = folder_of(args)
    scene = Scene.load(folder)
    run_dir = RunDir(args.log_dir / (args.name or _default_name(args)))
    out = args.out or run_dir.path / "eval"
    if not scene.split("test"):
        raise InputError(f"{folder} has no test images.", "Preprocess again with --list_test.")
    if args.score_only:
        about = {**metrics_before(out), "split": "test", "scene_dir": str(folder)}
        if args.compare_matching:
            _compare(args, scene, folder, out)
        _show("test", evaluate_folder(out, scene, scene.split("test"), about), out)
        if convention := other_convention(read_scores(out, scene.split("test"))):
            text = "%s: read as %s, the poses agree with the truth far better. Wanted are 'name qw qx qy qz tx ty tz', world to camera."
            logger.warning(text, out / RESULTS, convention)
        return 0
    choose_device(args.cudaid)
    path, threshold = _choose_model(args, run_dir, scene, folder, out)
    localizer = _localizer(args, path, scene, folder, threshold)
    writable_folder("--out", out)
    _evaluate_test(localizer, scene, path, args, out)
    if args.eval_train:
        _evaluate_train(localizer, scene, path, args, folder, out / "train")
    return 0


def folder_of(args: argparse.Namespace) -> Path:
    """The preprocessed scene."""
    return Path(args.data_dir / args.dataset / args.scene)


def _check_combination(args: argparse.Namespace) -> None:
    sweep = args.start_epoch is not None or args.stop_epoch is not None
    single = args.single or args.epoch is not None
    chosen = [
        name
        for name, given in (("--checkpoint", args.checkpoint), ("--single/--epoch", single), ("--start_epoch/--stop_epoch", sweep))
        if given
    ]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} exclude each other.", "Each of them says which checkpoint to evaluate.")
    if sweep and (args.uncer_thres is not None or not args.uncer):
        raise InputError(
            "A sweep chooses the reliability threshold itself.", "Leave out --uncer and --uncer_thres, or --start_epoch and --stop_epoch."
        )
    if not args.uncer and args.uncer_thres is not None:
        raise InputError("--uncer 0 keeps all keypoints, so --uncer_thres means nothing.", "Give one of them.")
    if args.uncer_thres is not None and not 0 <= args.uncer_thres <= 1:
        raise InputError(f"--uncer_thres {args.uncer_thres} must be between 0 and 1.")
    if args.score_only and (chosen or args.eval_train):
        raise InputError(f"--score_only localizes nothing, so {(chosen or ['--eval_train'])[0]} means nothing.", "Leave one of them out.")


def _default_name(args: argparse.Namespace) -> str:
    model = args.model if args.model is not None else load_recipe(find_recipe(args.config_file)).model.model
    return default_run_name(args.dataset, args.scene, args.config_file.stem, model)


def _choose_model(args: argparse.Namespace, run_dir: RunDir, scene: Scene, folder: Path, out: Path) -> tuple[Path, float | None]:
    """Path of the model to evaluate, and the reliability threshold (None: the model's own)."""
    threshold = args.uncer_thres if args.uncer else KEEP_ALL
    if args.checkpoint is not None:
        return args.checkpoint, threshold
    if not run_dir.path.is_dir():
        raise MissingFileError(
            f"There is no run {run_dir.path}.", "Train first (d2s train), or say which with --name, --log_dir or --checkpoint."
        )
    if args.epoch is not None:
        return run_dir.require_checkpoint(args.epoch), threshold
    if args.start_epoch is not None or args.stop_epoch is not None:
        best = _sweep(args, run_dir, scene, folder, out)
        return run_dir.checkpoint(best.epoch), best.threshold
    return run_dir.model, threshold


def _localizer(args: argparse.Namespace, path: Path, scene: Scene, folder: Path, threshold: float | None = None) -> Localizer:
    device = str(choose_device(args.cudaid))
    regressor = load_published(path, scene, folder, device) if is_checkpoint_file(path) else load_model(path, device=device)
    estimator = make_estimator(args.pnp, regressor.info.max_error if args.max_error is None else args.max_error)
    limits = {"min_confidence": args.min_confidence, "effort": Effort(args.effort, args.budget_ms)}
    return Localizer(regressor, estimator, threshold=threshold, device=device, weights=args.weights, **limits)


def _sweep(args: argparse.Namespace, run_dir: RunDir, scene: Scene, folder: Path, out: Path) -> SweepEntry:
    """The best pair of checkpoint and threshold on the validation images; all pairs go to `best.txt`."""
    start, stop = args.start_epoch or 0, math.inf if args.stop_epoch is None else args.stop_epoch
    epochs = [epoch for epoch in run_dir.checkpoints() if start <= epoch < stop]
    if not epochs:
        have = ", ".join(map(str, run_dir.checkpoints())) or "none"
        raise InputError(f"{run_dir.path} has no checkpoint with {start} <= epoch < {stop}.", f"Epochs with a checkpoint: {have}.")
    images = [image for image in scene.split("val") if image.cam_from_world is not None]
    if not images:
        raise InputError(
            f"{folder} has no validation images, and checkpoints are never chosen on test images.",
            "Preprocess again with --list_val, or use --epoch.",
        )
    tolerance = ranking_tolerance(args.idx_eval, scene)
    with FeatureReader(folder / FEATURES) as reader:
        queries = [(image, reader.read(image.name)) for image in images]
    entries: list[SweepEntry] = []
    for epoch in epochs:
        entries += sweep_checkpoint(epoch, _localizer(args, run_dir.checkpoint(epoch), scene, folder), scene, queries, tolerance)
        best = best_entry(entry for entry in entries if entry.epoch == epoch)
        logger.info("epoch %d: recall %.3f with threshold %g on %d validation images", epoch, best.recall, best.threshold, len(images))
    best = best_entry(entries)
    write_text(out / BEST, sweep_table(entries))
    logger.info("Best on validation: epoch %d with threshold %g (%s).", best.epoch, best.threshold, out / BEST)
    return best


def _evaluate_test(localizer: Localizer, scene: Scene, path: Path, args: argparse.Namespace, out: Path) -> None:
    images = scene.split("test")
    logger.info("Localizing %d test images of %s/%s with %s.", len(images), scene.dataset, scene.name, path)
    results = _predict_test(localizer, scene, folder_of(args), args.stored_features)
    clear_scores(out)
    save(out, results)
    if args.compare_matching:
        _compare(args, scene, folder_of(args), out)
    about = _about(localizer, path, "test", args)
    _show("test", evaluate_folder(out, scene, images, about, results, landmarks_of(localizer.regressor)), out)


def _predict_test(localizer: Localizer, scene: Scene, folder: Path, from_store: bool) -> dict[str, LocalizationResult]:
    """From the image files, as a user would; from stored features on request, and where only another program can extract them."""
    images = scene.split("test")
    if not from_store and not is_foreign(localizer.info.features):
        return predict(images, live(localizer, scene))
    if not from_store:
        logger.info("No extractor here equals %s: the stored features of the test images are used.", localizer.info.features["name"])
    with FeatureReader(folder / FEATURES) as reader:
        return predict(images, stored(localizer, scene, reader))


def _evaluate_train(localizer: Localizer, scene: Scene, path: Path, args: argparse.Namespace, folder: Path, out: Path) -> None:
    images = scene.split("train")
    logger.info("Localizing %d mapping images from their stored features.", len(images))
    with FeatureReader(folder / FEATURES) as reader:
        results = predict(images, stored(localizer, scene, reader))
    clear_scores(out)
    save(out, results)
    about = _about(localizer, path, "train", args)
    _show("train", evaluate_folder(out, scene, images, about, results, landmarks_of(localizer.regressor)), out)


def _compare(args: argparse.Namespace, scene: Scene, folder: Path, out: Path) -> None:
    """Localize the same images by matching, too, for the report."""
    logger.info("Localizing them by matching with the mapping images, to compare.")
    estimator = make_estimator(args.pnp, MAX_ERROR if args.max_error is None else args.max_error)
    with tempfile.TemporaryDirectory(dir=out) as cache:
        results, size = matching_results(folder, scene, scene.split("test"), Path(cache) / FEATURES, estimator, args.weights)
    save_comparison(out / MATCHING, results, size)


def _about(localizer: Localizer, path: Path, split: str, args: argparse.Namespace) -> dict[str, Any]:
    """The entries of `metrics.json` that do not follow from the scores."""
    info = localizer.info
    return {
        "split": split,
        "map_bytes": model_bytes(path),
        "map_parts": model_parts(path),
        "train_seconds": info.train_seconds or None,  # a public checkpoint does not say
        "features": info.features.get("name", ""),
        "num_keypoints": info.num_keypoints,
        "pnp": args.pnp,
        "max_error": localizer.estimator.max_error,
        "reliability_threshold": localizer.threshold if math.isfinite(localizer.threshold) else None,
        "min_confidence": localizer.judge.least,
        "seed": info.seed,
        "model": str(path),
        "scene_dir": str(folder_of(args)),
        "device": str(choose_device(args.cudaid)),
    }


def _show(split: str, metrics: Mapping[str, Any], out: Path) -> None:
    """The table at the end."""
    rows = [
        (f"{split} images", f"{metrics['n_queries']}, {metrics['n_failed']} not localized"),
        ("median error", wording.median(metrics)),
        *((f"within {name}", wording.share(value)) for name, value in wording.recalls(metrics)),
    ]
    costs = [
        *((f"ms {stage}", wording.milliseconds(value)) for stage, value in metrics["ms"].items()),
        ("map size", wording.size(metrics["map_bytes"])),
        ("training", wording.duration(metrics["train_seconds"])),
    ]
    rows += [(name, value) for name, value in costs if value != wording.NONE]  # poses of another program do not say
    width = max(len(name) for name, _ in rows)
    logger.info("\n%s", "\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    if note := wording.unit_note(metrics):
        logger.info("%s", note)
    logger.info("Report: %s", out / REPORT)
