"""7-Scenes (Shotton et al., CVPR 2013) and the pseudo ground truths of Brachmann et al. (ICCV 2021)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError, unknown_choice
from d2s.geometry import pose
from d2s.geometry.camera import make_camera
from processing.adapters.assemble import Frame, assemble
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import find_files, scene_folder
from processing.adapters.lists import ImageList, find_entries, normal_name, own_lists

logger = logging.getLogger(__name__)

GROUND_TRUTHS = ("original", "sfm", "dslam")
WIDTH, HEIGHT = 640, 480
COLOR_FOCAL = 525.0  # of the colour camera; the often quoted 585 belongs to the depth camera
COLOR_SUFFIXES = (".color.png", ".color.jpg", ".color.jpeg")
EXPECTED = "folders seq-XX with frame-XXXXXX.color.png (or .jpg) and frame-XXXXXX.pose.txt"
# How programs, Windows' runtime among them, spell a number that is none: the data sets mark frames without a pose with it.
_NOT_FINITE = re.compile(r"[+-]?(nan(\(.*\))?|inf(inity)?|1\.#\w+)", re.IGNORECASE)


def load(options: AdapterOptions) -> SceneSource:
    """A scene in the layout of 7-Scenes. Units are metres. Raises InputError and its kind for whatever is wrong with the data."""
    if options.gt not in GROUND_TRUTHS:
        raise unknown_choice("ground truth (--gt)", options.gt, GROUND_TRUTHS)
    folder = scene_folder(options, "7scenes", _looks_right, EXPECTED)
    names = _color_images(folder)
    gt_file = _gt_file(folder, options)
    if gt_file is None:
        cameras = {1: _camera(COLOR_FOCAL, 1)}
        frames, dropped = _original_frames(folder, names)
        source = f"pose.txt of 7-Scenes (depth camera), focal {COLOR_FOCAL:g}"
    else:
        cameras, frames, dropped = _pseudo_frames(gt_file, names)
        source = f"{gt_file.name} (pseudo ground truth), one camera per focal length"
    if not frames:
        raise InputError(f"No image in {folder} has a usable pose; the first: {dropped[0].name}: {dropped[0].reason}.")
    return assemble(
        "7scenes",
        options.scene or folder.resolve().name,
        folder,
        cameras,
        frames,
        options,
        dropped=dropped,
        own_lists=_own_lists(folder, names),
        provenance={"format": "7scenes", "gt": options.gt, "poses": source, "units": "metres, as published"},
    )


def _looks_right(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.glob("seq-*"))


def _camera(focal: float, camera_id: int) -> pycolmap.Camera:
    return make_camera("SIMPLE_PINHOLE", WIDTH, HEIGHT, [focal, WIDTH / 2, HEIGHT / 2], camera_id)


def _color_images(folder: Path) -> list[str]:
    """Colour images under seq-*; where a frame exists twice, the lossless one."""
    names = [name for name in find_files(folder, COLOR_SUFFIXES) if name.startswith("seq-")]
    if not names:
        raise InputError(f"{folder} has no colour images.", f"It must hold {EXPECTED}; unpack seq-XX.zip if it is still there.")
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: not name.lower().endswith(".png")):
        chosen.setdefault(_frame_stem(name), name)
    return sorted(chosen.values())


def _frame_stem(name: str) -> str:
    """`seq-01/frame-000000` of `seq-01/frame-000000.color.png`."""
    return str(PurePosixPath(name).with_suffix("").with_suffix(""))


def _original_frames(folder: Path, names: Iterable[str]) -> tuple[list[Frame], list[DroppedImage]]:
    frames, dropped = [], []
    for name in names:
        path = folder / f"{_frame_stem(name)}.pose.txt"
        world_from_cam = read_pose(path) if path.is_file() else None
        if world_from_cam is not None:
            frames.append(Frame(name, 1, pose.inverse(world_from_cam)))
        else:
            reason = "the data set marks its pose as invalid" if path.is_file() else f"it has no pose file {path.name}"
            dropped.append(DroppedImage(name, reason))
    return frames, dropped


def read_pose(path: Path) -> NDArray[np.float64] | None:
    """The (3, 4) matrix in a text file of 4x4 numbers, or None where NaN or infinity marks a frame without a pose.

    Raises FormatError naming the file when it is anything else than a rotation and a translation.
    """
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        matrix = np.array([[_number(field) for field in row] for row in rows], dtype=np.float64)
    except ValueError as error:  # also ragged rows and bytes that are not ASCII
        raise FormatError(f"{path} is not a pose: {error}.", "It must hold a 4x4 matrix, camera to world.") from None
    if matrix.shape != (4, 4):
        raise FormatError(f"{path} is not a pose: it has shape {matrix.shape}.", "It must hold a 4x4 matrix, camera to world.")
    if not np.isfinite(matrix).all():
        return None
    try:
        return pose.from_matrix(matrix)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _number(field: str) -> float:
    return float("nan") if _NOT_FINITE.fullmatch(field) else float(field)


def _gt_file(folder: Path, options: AdapterOptions) -> Path | None:
    """The pseudo ground truth to read; None for the original poses."""
    if options.gt == "original" and options.gt_file is None:
        return None
    path = Path(options.gt_file) if options.gt_file is not None else folder / f"pgt_{options.gt}.txt"
    if not path.is_file():
        raise MissingFileError(
            f"Pose file {path} does not exist.", "Put pgt_sfm.txt / pgt_dslam.txt into the scene's folder, or name the file with --gt_file."
        )
    return path


def _pseudo_frames(path: Path, names: list[str]) -> tuple[dict[int, pycolmap.Camera], list[Frame], list[DroppedImage]]:
    """Frames of a file of lines `name qw qx qy qz tx ty tz focal` (cam_from_world); one camera per focal length."""
    poses = _read_pseudo_gt(path)
    entries = list(poses.values())
    entry_of = {name: entries[index] for name, index in find_entries(ImageList(str(path), tuple(poses)), names).items()}
    focals = sorted({focal for _, focal in entry_of.values()})
    camera_ids = {focal: index for index, focal in enumerate(focals, start=1)}
    frames = [Frame(name, camera_ids[entry_of[name][1]], entry_of[name][0]) for name in names if name in entry_of]
    dropped = [DroppedImage(name, f"it has no pose in {path.name}") for name in names if name not in entry_of]
    return {index: _camera(focal, index) for focal, index in camera_ids.items()}, frames, dropped


def _read_pseudo_gt(path: Path) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Poses by image name: (cam_from_world, focal)."""
    poses = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
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


def _own_lists(folder: Path, names: list[str]) -> dict[str, ImageList]:
    """The data set's own split: list_SPLIT.txt where there is one, else TrainSplit.txt and TestSplit.txt."""
    lists = own_lists(folder)
    for split, sequences in (("train", "TrainSplit.txt"), ("test", "TestSplit.txt")):
        if split not in lists and (folder / sequences).is_file():
            lists[split] = _sequence_list(folder / sequences, names)
    return lists


def _sequence_list(path: Path, names: list[str]) -> ImageList:
    """The images of the sequences that a file of lines `sequenceN` names."""
    wanted = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(?:sequence|seq-?)\s*(\d+)", line.strip(), re.IGNORECASE)
        if match is None:
            raise FormatError(f"{path}:{number} is {line.strip()!r}.", "Each line must be sequenceN, for example sequence1.")
        prefix = f"seq-{int(match.group(1)):02d}/"
        images = [name for name in names if name.startswith(prefix)]
        if not images:
            raise MissingFileError(f"{path}:{number} names {line.strip()}, but {path.parent / prefix} has no image.", "Unpack it.")
        wanted += images
    return ImageList(str(path), tuple(wanted))
