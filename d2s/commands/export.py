"""Scene or learnt map for other programs (COLMAP, nerfstudio, PLY viewers), and public checkpoints as models of ours."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from d2s.commands.device import add_device, choose_device
from d2s.commands.folders import dataset_name, writable_folder
from d2s.commands.options import flag
from d2s.errors import InputError
from d2s.evaluation.pose_files import read_results
from d2s.export import colmap, nerfstudio, onnx_file, ply
from d2s.export.content import Content, query_content, scene_content, with_colors, with_results
from d2s.export.predicted import landmark_content, map_content
from d2s.regressor.model_files import DESCRIPTION, WEIGHTS, TrainedModel, load_model, save_model
from d2s.regressor.network import D2SNet
from d2s.regressor.published import published_info, read_published, write_published
from d2s.scene.atomic import atomic_path
from d2s.scene.manifest import Scene

logger = logging.getLogger(__name__)

DATASET = "7scenes"
MODEL_FILES = (WEIGHTS, DESCRIPTION)
PUBLIC_SUFFIX = ".pth.tar"
ONNX_FILE = "model.onnx"
FORMATS = {
    "colmap": "a COLMAP model",
    "ply": "points.ply and cameras.ply",
    "nerfstudio": "transforms.json and its point cloud",
    "model": "a model folder for d2s localize, of a public checkpoint",
    "published": "a checkpoint for the public code, of a model 1 or 2",
    "onnx": "model.onnx, the network for ONNX Runtime",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s export`."""
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser.add_argument("--format", required=True, choices=tuple(FORMATS), help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the result")
    flag(parser, "--overwrite", False, "replace an earlier export in --out")
    _add_source_options(parser)
    _add_content_options(parser)
    add_device(parser)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset", type=dataset_name, default=None, help=f"data set of the preprocessed scene (default: the model's, else {DATASET})"
    )
    parser.add_argument("--scene", default=None, help="name of the preprocessed scene (default: the model's)")
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"), help="where d2s preprocess wrote (default: dataset)")
    parser.add_argument("--model", type=Path, default=None, metavar="DIR_OR_FILE", help="model whose map is exported (--what map)")
    parser.add_argument("--checkpoint", type=Path, default=None, metavar="PATH", help=".pth.tar of the public code (--format model)")


def _add_content_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what",
        choices=("scene", "map", "queries"),
        default=None,
        help="scene: all images and the labelled points; map: mapping images and what the model knows; queries: the test images "
        "(default: map where --model is given, else scene)",
    )
    parser.add_argument(
        "--results", type=Path, default=None, metavar="RESULTS.txt", help="put the test images at these poses, as d2s eval wrote them"
    )
    parser.add_argument(
        "--uncer_thres", type=float, default=None, help="map: predictions more reliable than this count (default: the model's)"
    )
    parser.add_argument(
        "--voxel", type=float, default=None, help="map of models 1 and 2: points in cubes of this side are merged, scene unit"
    )
    flag(parser, "--colors", True, "points get the colours of the images")
    flag(parser, "--frusta", True, "ply: also write the cameras")
    flag(parser, "--text", False, "colmap: text files instead of binary ones")


def run(args: argparse.Namespace) -> int:
    """Write the export and say what is in it."""
    _check_options(args)
    out = args.out.absolute()
    writable_folder("--out", out.parent)
    _check_out(out, args.overwrite)
    if args.format == "model":
        _export_model(args, out)
    elif args.format == "published":
        _export_published(args, out)
    elif args.format == "onnx":
        _export_onnx(args, out)
    else:
        _export_content(args, out)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    if args.format == "model" and args.checkpoint is None:
        raise InputError("--format model needs --checkpoint.", "Name the .pth.tar file of the public code.")
    if args.format != "model" and args.checkpoint is not None:
        raise InputError(f"--checkpoint means nothing for --format {args.format}.", "First make a model of it: --format model.")
    needs_model = f"--format {args.format}" if args.format in ("published", "onnx") else "--what map" if args.what == "map" else ""
    if needs_model and args.model is None:
        raise InputError(f"{needs_model} needs --model.", "Name the model/ folder of a run.")
    if args.what in ("scene", "queries") and args.model is not None:
        raise InputError(f"--what {args.what} does not use --model.", "Leave one of them out.")
    if args.voxel is not None and not args.voxel > 0:
        raise InputError(f"--voxel {args.voxel:g} must be greater than 0.")
    if args.uncer_thres is not None and not 0 <= args.uncer_thres <= 1:
        raise InputError(f"--uncer_thres {args.uncer_thres} must be between 0 and 1.")


def _check_out(out: Path, overwrite: bool) -> None:
    """An existing folder is replaced only when it holds an earlier export and nothing else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file, but a folder is needed.", "Name another one.")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not names:
        return
    if not overwrite:
        raise InputError(f"--out {out} is not empty.", "Name another folder, or replace an earlier export with --overwrite.")
    ours = {*colmap.FILES, *ply.FILES, *nerfstudio.FILES, *MODEL_FILES, ONNX_FILE}
    others = [name for name in names if name not in ours and not name.endswith(PUBLIC_SUFFIX)]
    if others:
        raise InputError(f"--out {out} holds {others[0]}, which is no export.", "--overwrite replaces the whole folder: name another one.")


def _export_model(args: argparse.Namespace, out: Path) -> None:
    """A public checkpoint with what the scene says about it, in single precision: its coordinates are plain metres."""
    scene, folder = _scene(args, None)
    published = read_published(args.checkpoint)
    save_model(out, published.network, published_info(published, args.checkpoint, scene, folder), exact=True)
    logger.info("Model of epoch %d of the public code for %s/%s: %s", published.epoch, scene.dataset, scene.name, out)


def _export_published(args: argparse.Namespace, out: Path) -> None:
    model = load_model(args.model)
    if not isinstance(model.network, D2SNet):
        raise InputError(f"{args.model} is a model 3; the public code has models 1 and 2 only.", "Train with --model 1 or 2.")
    name = f"{model.info.dataset}_{model.info.scene}_{'d2s' if model.network.config.model == 2 else 'mlp'}{PUBLIC_SUFFIX}"
    with atomic_path(out) as temporary:
        temporary.mkdir()
        write_published(temporary / name, model.network)
    logger.info("Checkpoint for the public code: %s", out / name)


def _export_onnx(args: argparse.Namespace, out: Path) -> None:
    model = load_model(args.model)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        size = onnx_file.write(temporary / ONNX_FILE, model)
    logger.info("Network of %s/%s for ONNX Runtime, %.1f MB: %s", model.info.dataset, model.info.scene, size / 1e6, out / ONNX_FILE)
    if model.info.pose_field is not None:
        logger.warning("Its poses are in the frame of the map; the field that brings them into that of the given poses is not in the file.")


def _export_content(args: argparse.Namespace, out: Path) -> None:
    content = _content(args)
    writers: dict[str, Callable[[Path], None]] = {
        "colmap": lambda folder: colmap.write(folder, content, args.text),
        "ply": lambda folder: ply.write(folder, content, args.frusta),
        "nerfstudio": lambda folder: nerfstudio.write(folder, content, out),
    }
    with atomic_path(out) as temporary:
        temporary.mkdir()
        writers[args.format](temporary)
    logger.info("%d cameras and %d points: %s", len(content.views), len(content.points), out)


def _content(args: argparse.Namespace) -> Content:
    """What --what names, with the poses of --results and with colours."""
    model = None if args.model is None else load_model(args.model, device=str(choose_device(args.cudaid)))
    if model and args.scene is None and not _folder(args, model).is_dir():
        logger.warning("%s is not there: the landmarks are exported without images and colours.", _folder(args, model))
        return landmark_content(model)
    scene, folder = _scene(args, model)
    if model:
        content = map_content(model, scene, folder, args.uncer_thres, args.voxel)
    else:
        content = query_content(scene) if args.what == "queries" else scene_content(scene, folder)
    if args.results is not None:
        content = with_results(content, scene, read_results(args.results), args.results)
    return with_colors(content) if args.colors else content


def _folder(args: argparse.Namespace, model: TrainedModel | None) -> Path:
    dataset = args.dataset or (model.info.dataset if model else DATASET)
    return Path(args.data_dir / dataset / (args.scene or (model.info.scene if model else "")))


def _scene(args: argparse.Namespace, model: TrainedModel | None) -> tuple[Scene, Path]:
    """The scene and its folder. Raises InputError when no scene is named, or when the model is of another one."""
    if args.scene is None and model is None:
        raise InputError("--scene is needed.", "Name the preprocessed scene: --dataset DATASET --scene SCENE.")
    folder = _folder(args, model)
    scene = Scene.load(folder)
    if model and (scene.dataset, scene.name) != (model.info.dataset, model.info.scene):
        raise InputError(
            f"{args.model} is a model of {model.info.dataset}/{model.info.scene}, but {folder} is {scene.dataset}/{scene.name}.",
            "Name the scene that the model was trained on, or leave out --dataset and --scene.",
        )
    return scene, folder
