"""Train D2-Net on MegaDepth, prepared by `d2s d2net undistort` and `prepare`; a run that was killed goes on where it was."""

from __future__ import annotations

import argparse
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from d2s.commands.device import add_device, choose_device
from d2s.commands.folders import writable_folder
from d2s.commands.options import flag
from d2s.d2net.correspondences import KINDS, TOLERANCE
from d2s.d2net.megadepth import PHOTOTOURISM_SCENES, TRAIN_SCENES, VALID_SCENES, read_scene_list
from d2s.d2net.megadepth_data import PairLimits
from d2s.d2net.processes import Processes, joined_processes
from d2s.d2net.starting_weights import RANDOM, starting_network
from d2s.d2net.training import D2NetTrainer, make_optimizer
from d2s.d2net.training_checkpoint import CheckpointFiles, resume
from d2s.d2net.training_options import SCHEDULERS, TrainingOptions
from d2s.d2net.training_report import LossLog, Pictures, step_text, validation_text
from d2s.d2net.triplet_loss import MARGIN, SAFE_RADIUS
from d2s.errors import InputError, MissingFileError
from d2s.features.d2net.checkpoints import PUBLISHED
from d2s.features.d2net.network import D2Net
from d2s.training.metrics_reader import MetricsReader
from d2s.training.tracking import Console, JsonLines, Tracker
from d2s.training.visdom_tracker import VisdomTracker, make_visdom

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net train`."""
    _add_data(parser)
    _add_learning(parser)
    _add_run(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder that MegaDepth was unpacked and undistorted in")
    parser.add_argument("--scene_info_path", type=Path, required=True, help="folder of what d2s d2net prepare wrote")
    for split, scenes in (("train", TRAIN_SCENES), ("valid", VALID_SCENES)):
        text = f"text file of the scenes to use instead of the published {len(scenes)}"
        parser.add_argument(f"--{split}_scenes", type=Path, default=None, metavar="FILE", help=text)
    left_out = f"leave out the scenes of the PhotoTourism benchmark, {' '.join(PHOTOTOURISM_SCENES)}, as for d2_tf_no_phototourism.pth"
    flag(parser, "--no_phototourism", False, left_out)
    parser.add_argument("--pairs_per_scene", type=int, default=100, help="pairs drawn per scene and epoch (default: 100)")
    parser.add_argument("--validation_pairs", type=int, default=25, help="pairs per scene in validation (default: 25)")
    parser.add_argument("--min_overlap", type=float, default=0.5, help="share of the points that a pair has in common (default: 0.5)")
    parser.add_argument("--max_overlap", type=float, default=1.0, help="at most this share (default: 1)")
    parser.add_argument("--max_scale_ratio", type=float, default=float("inf"), help="between the images of a pair (default: any)")
    parser.add_argument("--crop_size", type=int, default=256, help="side of the crops, in pixels (default: 256)")
    parser.add_argument(
        "--correspondences",
        choices=KINDS,
        default=KINDS[0],
        help="corrected: by inverse depth, checked relative to it; legacy: as published (default: corrected)",
    )
    parser.add_argument(
        "--depth_tolerance",
        type=float,
        default=TOLERANCE,
        help=f"by how much depths may differ: a share (corrected), or units of the scene (legacy) (default: {TOLERANCE})",
    )
    parser.add_argument("--min_correspondences", type=int, default=128, help="pairs with fewer are left out (default: 128)")


def _add_learning(parser: argparse.ArgumentParser) -> None:
    model = f"weights to begin with: a checkpoint of D2-Net or of VGG16, one of {', '.join(PUBLISHED)}, or {RANDOM} (default: d2_ots.pth)"
    parser.add_argument("--model_file", "--weights", type=Path, default=Path("d2_ots.pth"), help=model)
    parser.add_argument("--preprocessing", choices=("caffe", "torch"), default="caffe", help="what the weights expect (default: caffe)")
    parser.add_argument("--num_epochs", type=int, default=10, help="number of epochs (default: 10)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: 0.001)")
    parser.add_argument(
        "--scheduler", choices=SCHEDULERS, default="constant", help="learning rate; halve: every 10 epochs (default: constant)"
    )
    parser.add_argument("--batch_size", type=int, default=1, help="pairs per step (default: 1)")
    parser.add_argument("--margin", type=float, default=MARGIN, help=f"of the triplet loss (default: {MARGIN:g})")
    parser.add_argument("--safe_radius", type=int, default=SAFE_RADIUS, help=f"cells that are no negatives (default: {SAFE_RADIUS})")
    flag(parser, "--amp", False, "bfloat16 in all layers but the one that learns")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random number (default: 1)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_workers", type=int, default=4, help="processes that load images (default: 4)")
    flag(parser, "--use_validation", False, "validate before the first epoch and after each, and keep the best checkpoint")
    parser.add_argument("--log_interval", type=int, default=250, help="batches between two lines of the log (default: 250)")
    parser.add_argument("--log_file", type=Path, default=Path("log.txt"), help="text file that losses are added to (default: log.txt)")
    flag(parser, "--plot", False, "pictures of correspondences and scores in train_vis/, every --log_interval batches")
    parser.add_argument(
        "--checkpoint_directory", type=Path, default=Path("checkpoints"), help="folder of the checkpoints (default: checkpoints)"
    )
    parser.add_argument("--checkpoint_prefix", default="d2", help="beginning of their names (default: d2)")
    parser.add_argument(
        "--save_interval", type=int, default=500, help="batches between checkpoints to go on from; 0: epochs (default: 500)"
    )
    parser.add_argument("--resume", choices=("auto", "never"), default="auto", help="go on with an unfinished run (auto), or start anew")
    parser.add_argument(
        "--visdom", choices=("auto", "on", "off"), default="auto", help="curves in Visdom; auto: when a server answers (default)"
    )
    parser.add_argument("--visdom_server", default="http://localhost", help="address of the Visdom server (default: http://localhost)")
    parser.add_argument("--visdom_port", type=int, default=8097, help="port of the Visdom server (default: 8097)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or finish a killed training."""
    options = options_from_args(args)
    for name in ("dataset_path", "scene_info_path"):
        if not getattr(args, name).is_dir():
            raise MissingFileError(f"--{name} {getattr(args, name)} does not exist.", "Make it with d2s d2net undistort and prepare.")
    if not args.checkpoint_prefix or "/" in args.checkpoint_prefix:
        raise InputError(f"--checkpoint_prefix must be the beginning of a file name, not {args.checkpoint_prefix!r}.")
    writable_folder("--checkpoint_directory", args.checkpoint_directory)
    with joined_processes(choose_device(args.cudaid)) as processes:
        if options.batch_size % processes.count:
            raise InputError(f"--batch_size {options.batch_size} must be a multiple of the {processes.count} processes that share it.")
        _train(args, options, processes)
    return 0


def options_from_args(args: argparse.Namespace) -> TrainingOptions:
    """Raises InputError for values that are not allowed."""
    limits = PairLimits(args.pairs_per_scene, args.min_overlap, args.max_overlap, args.max_scale_ratio)
    same = {name: getattr(args, name) for name in vars(args) if name in TrainingOptions.__dataclass_fields__}
    same.update(train_scenes=_scenes(args.train_scenes, TRAIN_SCENES, args), valid_scenes=_scenes(args.valid_scenes, VALID_SCENES, args))
    return TrainingOptions(**same, limits=limits)


def _scenes(file: Path | None, published: Sequence[str], args: argparse.Namespace) -> list[str]:
    names = read_scene_list(file) if file else published
    return [name for name in names if not (args.no_phototourism and name in PHOTOTOURISM_SCENES)]


def _train(args: argparse.Namespace, options: TrainingOptions, processes: Processes) -> None:
    files = CheckpointFiles(args.checkpoint_directory, args.checkpoint_prefix)
    if processes.first:
        files.remove_leftovers()
        if args.resume == "never":
            files.clear()
    else:
        logging.getLogger("d2s").setLevel(logging.ERROR)  # one of them tells
    processes.total(0)  # the others wait until that is done
    network = starting_network(args.model_file, options.seed)
    start = _digest(network)
    network.to(processes.device)
    optimizer = make_optimizer(network, options.lr)
    progress = resume(files.last, network, optimizer, options, start)
    if progress.epoch >= options.num_epochs:
        log.info("%s is already finished. Train anew with --resume never.", files.last)
        return
    if progress.total_steps:
        log.info("Going on in epoch %d, after batch %d.", progress.epoch + 1, progress.step)
    visdom = make_visdom(args.visdom, args.checkpoint_prefix, args.visdom_server, args.visdom_port) if processes.first else None
    trackers = _trackers(args, files, progress.total_steps, visdom) if processes.first else []
    watch = Pictures(Path("train_vis"), options.log_interval) if args.plot else None
    trainer = D2NetTrainer(options, network, optimizer, progress, files, processes, start, trackers, watch)
    try:
        trainer.run()
    finally:
        for tracker in trackers:
            tracker.close()
    log.info("Trained: %s", files.of_epoch(progress.epoch))


def _trackers(args: argparse.Namespace, files: CheckpointFiles, total_steps: int, visdom: VisdomTracker | None) -> Sequence[Tracker]:
    lines = JsonLines(files.metrics, total_steps)
    if visdom:
        visdom.begin(MetricsReader(files.metrics).read()[0])
    return [Console(step_text, validation_text), lines, LossLog(args.log_file), *([visdom] if visdom else [])]


def _digest(network: D2Net) -> str:
    """Tells the weights that training began with from others."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
