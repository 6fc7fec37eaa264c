"""Other ground truths of 7-Scenes and 12-Scenes: the pose files of Brachmann et al. (ICCV 2021), or a COLMAP model beside the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, MissingFileError, unknown_choice
from d2s.geometry import pose
from processing.adapters.assemble import Frame
from processing.adapters.base import AdapterOptions, DroppedImage
from processing.adapters.lists import ImageList, find_entries, normal_name
from processing.adapters.sfm_layout import find_model

GROUND_TRUTHS = ("original", "sfm", "dslam")


def find_ground_truth(options: AdapterOptions, folder: Path, models: Sequence[Path]) -> Path | None:
    """What `--gt` and `--gt_file` mean: None for the original poses, else a pose file, a folder of pose files, or a folder with a model.

    `--gt_file` wins; then `pgt_GT.txt` in the scene's folder; then, for `--gt sfm`, the first of `models` that holds a model. Raises
    InputError for an unknown choice and MissingFileError when there is none of these.
    """
    if options.gt not in GROUND_TRUTHS:
        raise unknown_choice("ground truth (--gt)", options.gt, GROUND_TRUTHS)
    if options.gt_file is not None:
        return _given(Path(options.gt_file), options)
    if options.gt == "original":
        return None
    path = folder / f"pgt_{options.gt}.txt"
    model = find_model(models) if options.gt == "sfm" else None
    if path.is_file() or model is not None:
        return path if path.is_file() else model
    nor = f", and there is no COLMAP model in {models[0]}" if options.gt == "sfm" else ""
    raise MissingFileError(
        f"Pose file {path} does not exist{nor}.", f"Put pgt_{options.gt}.txt into the scene's folder, or name the poses with --gt_file."
    )


def _given(path: Path, options: AdapterOptions) -> Path:
    if path.is_file() or find_model([path]) is not None or pose_files(path, options.scene):
        return path
    if path.is_dir():
        raise MissingFileError(
            f"--gt_file {path} holds neither a COLMAP model nor pose files {_scene_key(options.scene)}_train.txt / _test.txt."
        )
    raise MissingFileError(f"Pose file {path} does not exist.", "Name a pose file, a folder of them or of a COLMAP model with --gt_file.")


def pose_files(path: Path, scene: str) -> list[Path]:
    """The file itself, or SCENE_train.txt and SCENE_test.txt of a folder, as Brachmann et al. publish them."""
    if path.is_file():
        return [path]
    both = [path / f"{_scene_key(scene)}_{split}.txt" for split in ("train", "test")]
    return [file for file in both if file.is_file()]


def _scene_key(scene: str) -> str:
    return scene.replace("/", "_") or "SCENE"


def frames_of_pose_files(
    paths: Sequence[Path], names: list[str], make_camera: Callable[[float, int], pycolmap.Camera]
) -> tuple[dict[int, pycolmap.Camera], list[Frame], list[DroppedImage]]:
    """Frames of files of lines `name qw qx qy qz tx ty tz focal` (cam_from_world); one camera per focal length."""
    poses = {name: entry for path in paths for name, entry in _read(path).items()}
    source = " and ".join(path.name for path in paths)
    entries = list(poses.values())
    entry_of = {name: entries[index] for name, index in find_entries(ImageList(source, tuple(poses)), names).items()}
    focals = sorted({focal for _, focal in entry_of.values()})
    camera_ids = {focal: index for index, focal in enumerate(focals, start=1)}
    frames = [Frame(name, camera_ids[entry_of[name][1]], entry_of[name][0]) for name in names if name in entry_of]
    dropped = [DroppedImage(name, f"it has no pose in {source}") for name in names if name not in entry_of]
    return {index: make_camera(focal, index) for focal, index in camera_ids.items()}, frames, dropped


def _read(path: Path) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Poses by image name: (cam_from_world, focal)."""
    poses = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *fields = line.split()
        try:
            values = [float(field) for field in fields]
            if len(values) != 8 or not np.isfinite(values).all() or values[7] <= 0:
                raise FormatError("wrong number of fields, or a value out of range.")
            poses[normal_name(name)] = (pose.from_qvec_tvec(values[:4], values[4:7]), values[7])
        except (ValueError, FormatError) as error:
            raise FormatError(f"{path}:{number} is not a pose: {error}", "Each line must be: name qw qx qy qz tx ty tz focal.") from None
    return poses


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not a text file.", "Each line must be: name qw qx qy qz tx ty tz focal.") from None
