"""Learn a scene: descriptors and labels of a preprocessed scene become a small network."""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from d2s.commands.calibration import measure_trust
from d2s.commands.camera_gain import measure_gain
from d2s.commands.device import add_device, choose_device
from d2s.commands.folders import dataset_name, writable_folder
from d2s.commands.map_choice import choice_text, choose_map, pose_field
from d2s.commands.options import flag
from d2s.commands.validation import make_validation
from d2s.commands.validation_view import ViewWriter
from d2s.config import Recipe, find_recipe, load_recipe, to_ini
from d2s.errors import InputError, SettingsMismatchError
from d2s.features.exif import read_photo
from d2s.geometry.camera import format_camera
from d2s.regressor.base import CAMERA_GAIN, EXIF_FOCAL, ModelInfo
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel, model_bytes, save_model
from d2s.scene.atomic import write_text
from d2s.scene.manifest import Scene
from d2s.scene.refined_map import RefinedMap
from d2s.training.checkpoint import TrainingState, checkpoint_stage, load_checkpoint
from d2s.training.data import TrainingSet, load_training_set
from d2s.training.extras import extras_record, load_extras
from d2s.training.metrics_reader import MetricsReader
from d2s.training.networks import Network, make_network, make_optimizer, make_views
from d2s.training.restart import begin_at, finish, origin_of
from d2s.training.run_dir import RunDir, default_run_name
from d2s.training.tracking import Console, JsonLines, Tracker, format_seconds
from d2s.training.trainer import Trainer
from d2s.training.visdom_tracker import make_visdom

logger = logging.getLogger(__name__)

ANEW = "Start anew with --resume never, or give the run another --name."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s train`."""
    parser.add_argument("--dataset", type=dataset_name, default="7scenes", help="data set of the preprocessed scene (default: 7scenes)")
    parser.add_argument("--scene", required=True, help="name of the preprocessed scene")
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"), help="where d2s preprocess wrote (default: dataset)")
    parser.add_argument("--config_file", type=Path, default=Path("configs/fast.ini"), help="recipe (default: configs/fast.ini)")
    parser.add_argument(
        "--model",
        type=int,
        choices=(1, 2, 3),
        default=None,
        help="1: MLP, 2: attention + MLP, 3: ours, attention + landmarks (default: what the recipe says)",
    )
    add_device(parser)
    flag(parser, "--augment", False, "also train on the augmented copies that d2s preprocess made")
    flag(parser, "--unlabel", False, "also train on the pseudo-labelled images that d2s preprocess made; with --resume_optim: third stage")
    parser.add_argument("--unlabel_rate", type=float, default=1.0, help="share of the pseudo-labelled images to use, 0 to 1 (default: 1)")
    flag(
        parser,
        "--resume_optim",
        False,
        "second stage: go on from a finished first stage with lr_add and the reprojection loss; with --unlabel the third stage: go on from "
        "a finished first or second one with lr_add_unlabel",
    )
    parser.add_argument(
        "--checkpoint",
        type=int,
        default=0,
        metavar="EPOCH",
        help="begin at this epoch's checkpoint of the run: start over with its weights, or with --resume_optim go on from it with its "
        "optimiser too; later epochs are removed",
    )
    parser.add_argument("--log_dir", type=Path, default=Path("logs"), help="folder of all runs (default: logs)")
    parser.add_argument("--name", default=None, help="name of the run (default: DATASET_SCENE_CONFIG_model_M)")
    parser.add_argument(
        "--visdom", choices=("auto", "on", "off"), default="auto", help="curves in Visdom; auto: when a server answers (default)"
    )
    parser.add_argument("--visdom_server", default="http://localhost", help="address of the Visdom server (default: http://localhost)")
    parser.add_argument("--visdom_port", type=int, default=8097, help="port of the Visdom server (default: 8097)")
    parser.add_argument("--seed", type=int, default=None, help="seed of every random number (default: what the recipe says)")
    parser.add_argument(
        "--max_minutes", type=float, default=None, help="end after this many minutes; 0: by steps only (default: what the recipe says)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one option of the recipe; repeatable"
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="{auto,never,PATH}",
        help="auto: go on with an unfinished run (default); never: start anew; PATH: from a checkpoint",
    )


def run(args: argparse.Namespace) -> int:
    """Train, or finish a killed training, and publish the model."""
    recipe = recipe_from_args(args)
    folder = args.data_dir / args.dataset / args.scene
    scene = Scene.load(folder)
    if not 0 <= args.unlabel_rate <= 1:
        raise InputError(f"--unlabel_rate {args.unlabel_rate} must be between 0 and 1.")
    extras = load_extras(folder, scene, args.augment, args.unlabel, args.unlabel_rate, recipe.training.seed)
    if args.checkpoint and args.resume not in ("auto", "never"):
        raise InputError("--checkpoint and --resume PATH exclude each other.", "Each of them says where to begin.")
    if args.resume == "never" and args.resume_optim:
        raise InputError("--resume never starts anew, --resume_optim goes on.", "Train anew without --resume_optim, then the second stage.")
    device = choose_device(args.cudaid)
    writable_folder("--log_dir", args.log_dir)
    run_dir = RunDir(args.log_dir / (args.name or default_run_name(args.dataset, args.scene, args.config_file.stem, recipe.model.model)))
    visdom = make_visdom(args.visdom, run_dir.path.name, args.visdom_server, args.visdom_port, run_dir.view)
    stage = (3 if args.unlabel else 2) if args.resume_optim else 1
    if _prepare_run_dir(run_dir, recipe, scene, folder, args, stage, extras_record(folder, extras)):
        logger.info("%s is already finished: %s. Train anew with --resume never.", run_dir.path, run_dir.model)
        return 0
    _log_to_file(run_dir)
    refined = _refined_map(folder, scene, recipe, run_dir, bool(extras))
    data = load_training_set(folder, scene, extras, refined)
    began = time.monotonic()
    network = make_network(recipe, data)
    choosing = time.monotonic() - began
    optimizer = make_optimizer(recipe, network)
    network.to(device)
    state = _starting_state(run_dir, args, stage, network, optimizer)
    state.total_seconds = state.total_seconds or choosing  # of landmarks: all that some recipes do
    info = _model_info(scene, recipe, data, refined)
    logger.info("%s", _beginning(recipe, data, network, device, stage))
    trackers: list[Tracker] = [Console(), JsonLines(run_dir.metrics, state.total_steps), *([visdom] if visdom else [])]
    if visdom:
        visdom.begin(MetricsReader(run_dir.metrics).read()[0])
    watch = ViewWriter(run_dir.view, scene, data.xyz[: data.num_real][data.valid[: data.num_real]].numpy())
    validation = make_validation(folder, scene, info, watch)
    trainer = Trainer(recipe, data, network, optimizer, state, run_dir, info, trackers, validation, device)
    try:
        trainer.run()
    finally:
        for tracker in trackers:
            tracker.close()
    _publish(run_dir, network, state, folder, scene, replace(info, views=make_views(network, data)), stage)
    return 0


def recipe_from_args(args: argparse.Namespace) -> Recipe:
    """The recipe file with what the command line changes."""
    values: dict[str, Any] = {"model.model": args.model, "training.seed": args.seed, "training.max_minutes": args.max_minutes}
    return load_recipe(find_recipe(args.config_file), args.set, {name: value for name, value in values.items() if value is not None})


def _prepare_run_dir(
    run_dir: RunDir, recipe: Recipe, scene: Scene, folder: Path, args: argparse.Namespace, stage: int, extras: dict[str, Any]
) -> bool:
    """Make the run's folder ready; True when there is nothing left to do."""
    finish(run_dir)
    anew = args.resume == "never"
    if anew and stage == 1 and not args.checkpoint:
        run_dir.clear()
    run_dir.remove_leftovers()
    if args.checkpoint and stage == 1:
        begin_at(run_dir, args.checkpoint, stage, anew)
    text, scene_hash = to_ini(recipe), hashlib.sha256((folder / "scene.json").read_bytes()).hexdigest()[:16]
    if run_dir.config.is_file() and run_dir.checkpoints():
        _require_equal(run_dir, text, scene_hash)
    else:
        write_text(run_dir.config, text)
        run_dir.write_state(dataset=scene.dataset, scene=scene.name, scene_hash=scene_hash, finished_stages=[], extra_images={})
    if args.checkpoint and stage > 1:  # only now that recipe and scene are known to be the run's: later epochs are removed
        begin_at(run_dir, args.checkpoint, stage)
    _note_extras(run_dir, stage, extras)
    return stage in run_dir.state().get("finished_stages", []) and (bool(args.checkpoint) or not anew)


def _note_extras(run_dir: RunDir, stage: int, extras: dict[str, Any]) -> None:
    """Record which extra images a stage trains on. A stage that has begun goes on with the same ones."""
    noted = run_dir.state().get("extra_images", {})
    before = noted.get(str(stage), {})
    if before != extras and _has_begun(run_dir, stage):
        raise SettingsMismatchError(
            f"{run_dir.path} was trained with other extra images in this stage ({_extras_text(before)}; now {_extras_text(extras)}).",
            "Give the same --augment, --unlabel and --unlabel_rate, start anew with --resume never, or give the run another --name.",
        )
    run_dir.write_state(extra_images={**noted, str(stage): extras})


def _has_begun(run_dir: RunDir, stage: int) -> bool:
    """Whether the last checkpoint is of this stage."""
    epochs = run_dir.checkpoints()
    return bool(epochs) and checkpoint_stage(run_dir.checkpoint(epochs[-1])) == stage


def _extras_text(extras: dict[str, Any]) -> str:
    return ", ".join(f"{entry['images']} {kind} {entry['hash']}" for kind, entry in extras.items()) or "none"


def _require_equal(run_dir: RunDir, text: str, scene_hash: str) -> None:
    """Going on with another recipe or another scene would give a model that neither describes."""
    old = run_dir.config.read_text(encoding="utf-8").splitlines()
    changed = [line for line in text.splitlines() if line not in old]
    if changed:
        raise SettingsMismatchError(f"{run_dir.path} was started with another recipe (now: {'; '.join(changed[:4])}).", ANEW)
    if run_dir.state().get("scene_hash") != scene_hash:
        raise SettingsMismatchError(f"{run_dir.path} was started on another version of the scene.", ANEW)


def _starting_state(
    run_dir: RunDir, args: argparse.Namespace, stage: int, network: Network, optimizer: torch.optim.Optimizer
) -> TrainingState:
    """Load what the options ask to start from."""
    if args.resume not in ("auto", "never"):
        return load_checkpoint(Path(args.resume), network, optimizer)
    origin = origin_of(run_dir, stage)
    if origin is not None and not _has_begun(run_dir, stage):
        state = load_checkpoint(origin, network, optimizer if stage > 1 else None)
        return _next_stage(state, stage) if stage > 1 else TrainingState()
    epochs = run_dir.checkpoints()
    if stage > 1 and not epochs:
        raise InputError(f"--resume_optim: {run_dir.path} has no finished first stage.", "Train without --resume_optim first.")
    if not epochs:
        return TrainingState()
    state = load_checkpoint(run_dir.checkpoint(epochs[-1]), network, optimizer)
    if state.stage > stage:
        raise InputError(f"{run_dir.path} is past stage {stage} already: its last checkpoint is of stage {state.stage}.", ANEW)
    if state.stage < stage:
        if state.stage not in run_dir.state().get("finished_stages", []):
            which, how = ("first", "without --resume_optim") if state.stage == 1 else ("second", "without --unlabel")
            raise InputError(f"--resume_optim: the {which} stage of {run_dir.path} is not finished.", f"Finish it {how} first.")
        return _next_stage(state, stage)
    logger.info("Going on after epoch %d.", state.epoch)
    return state


def _next_stage(state: TrainingState, stage: int) -> TrainingState:
    return replace(state, stage=stage, step=0, elapsed=0.0, scores={})


def _refined_map(folder: Path, scene: Scene, recipe: Recipe, run_dir: RunDir, with_extras: bool) -> RefinedMap | None:
    """The refined map where the recipe wants it, the scene has one and it answers better than the given one; labels of extra images are
    in the frame of the given poses.

    A run stays in the frame in which it began.
    """
    refined = RefinedMap.load(folder) if recipe.training.refined_poses else None
    if run_dir.checkpoints():
        began_refined = bool(run_dir.state().get("refined", False))
        if began_refined and with_extras:
            raise InputError(
                f"{run_dir.path} began at refined poses, but the labels of extra images are at the given ones.",
                "Train anew with --set training.refined_poses=no --resume never, or leave out --augment and --unlabel.",
            )
        return refined if began_refined else None
    if refined is not None and with_extras:
        logger.info("The map is learnt at the given poses: extra images have no labels at refined ones.")
        refined = None
    choice = None if refined is None else choose_map(folder, scene, recipe, refined)
    if refined is not None:
        logger.info("%s", choice_text(choice, scene.units))
    takes_refined = choice is not None and choice.takes_refined
    run_dir.write_state(refined=takes_refined, map_choice=None if choice is None else choice.to_json())
    return refined if takes_refined else None


def _model_info(scene: Scene, recipe: Recipe, data: TrainingSet, refined: RefinedMap | None) -> ModelInfo:
    return ModelInfo(
        dataset=scene.dataset,
        scene=scene.name,
        units=scene.units,
        features=scene.features.get("settings", {}),
        num_keypoints=int(data.mask.shape[1]),
        reliability_threshold=recipe.localization.reliability_threshold,
        max_error=recipe.localization.max_error,
        cameras=tuple(dict.fromkeys(format_camera(camera) for camera in data.cameras)),
        bounds=data.bounds(),
        seed=recipe.training.seed,
        pose_field=None if refined is None else pose_field(scene, refined),
        extra={**exif_focal(scene), CAMERA_GAIN: measure_gain(data, recipe.localization.max_error)},
    )


def exif_focal(scene: Scene) -> dict[str, dict[str, float]]:
    """The focal lengths in the EXIF data of the mapping images, of one image per camera: a query that names the same has that camera."""
    firsts = {image.camera_id: image for image in reversed(scene.split("train"))}
    focals = {format_camera(scene.camera(image)): _read_focal(scene.path(image)) for image in firsts.values()}
    known = {camera: focal for camera, focal in focals.items() if focal is not None}
    return {EXIF_FOCAL: known} if known else {}


def _read_focal(path: Path) -> float | None:
    try:
        return read_photo(path).focal
    except InputError:  # training needs the features only: the images may be elsewhere by now
        return None


def _log_to_file(run_dir: RunDir) -> None:
    handler = logging.FileHandler(run_dir.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)


def _publish(run_dir: RunDir, network: Network, state: TrainingState, folder: Path, scene: Scene, info: ModelInfo, stage: int) -> None:
    """The best checkpoint on validation (the last one where there is no validation split) becomes the run's model."""
    best = state.best_epoch()
    epoch = best if best in run_dir.checkpoints() else run_dir.checkpoints()[-1]
    load_checkpoint(run_dir.checkpoint(epoch), network, None)
    trust = measure_trust(folder, scene, TrainedModel(network, info, next(network.parameters()).device))
    train_seconds = round(state.total_seconds, 3)
    save_model(run_dir.model, network, replace(info, train_seconds=train_seconds, trust=trust.to_json()))
    run_dir.write_state(
        finished_stages=sorted({*run_dir.state().get("finished_stages", []), stage}),
        model_epoch=epoch,
        train_seconds=train_seconds,
    )
    how = f"Trained in {format_seconds(state.total_seconds)}. Model of epoch {epoch}" if state.total_steps else "Model"
    logger.info("%s: %s (%.1f MB).", how, run_dir.model, model_bytes(run_dir.model) / 1e6)


def _beginning(recipe: Recipe, data: TrainingSet, network: Network, device: torch.device, stage: int) -> str:
    """What the stage does with what."""
    images = f"{data.num_real} images" + (f" and {data.num_extra} extra ones" if data.num_extra else "")
    labelled = int(data.valid.sum())
    if stage == 1 and not recipe.training.n_iters and isinstance(network, LandmarkNet):
        points = len(data.point[: data.num_real][data.valid[: data.num_real]].unique())
        return f"Took {network.count} landmarks from the {points} points of {images} ({labelled} labelled keypoints); nothing is trained."
    weights = sum(parameter.numel() for parameter in network.parameters())
    return f"Training on {images} ({labelled} labelled keypoints), {weights} weights, on {device}."
