"""Frames as RGB-D recorders write them: frame-XXXXXX.{color.png,color.jpg,depth.png,pose.txt}, as in 7-Scenes and 12-Scenes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.geometry import pose
from processing.adapters.assemble import Frame
from processing.adapters.base import DroppedImage
from processing.adapters.folders import find_files

COLOR_SUFFIXES = (".color.png", ".color.jpg", ".color.jpeg")
# How programs, Windows' runtime among them, spell a number that is none: the data sets mark frames without a pose with it.
_NOT_FINITE = re.compile(r"[+-]?(nan(\(.*\))?|inf(inity)?|1\.#\w+)", re.IGNORECASE)


def color_images(folder: Path, prefix: str, expected: str) -> list[str]:
    """Colour images whose names begin with `prefix`; where a frame exists twice, the lossless one. Raises InputError when there is none."""
    names = [name for name in find_files(folder, COLOR_SUFFIXES) if name.startswith(prefix)]
    if not names:
        packed = sorted(path.name for path in folder.glob("*.zip"))
        if packed:
            problem = f"{folder} has no colour images, but {packed[0]} is not unpacked."
            raise InputError(problem, f"Unpack it there: unzip '{folder}/*.zip' -d {folder}")
        raise InputError(f"{folder} has no colour images.", f"It must hold {expected}.")
    chosen: dict[str, str] = {}
    for name in sorted(names, key=lambda name: not name.lower().endswith(".png")):
        chosen.setdefault(frame_stem(name), name)
    return sorted(chosen.values())


def frame_stem(name: str) -> str:
    """`seq-01/frame-000000` of `seq-01/frame-000000.color.png`."""
    return str(PurePosixPath(name).with_suffix("").with_suffix(""))


def frames_with_pose_files(folder: Path, names: Iterable[str], camera_id: int) -> tuple[list[Frame], list[DroppedImage]]:
    """The frames whose pose.txt holds a pose, and the others with the reason."""
    frames, dropped = [], []
    for name in names:
        path = folder / f"{frame_stem(name)}.pose.txt"
        world_from_cam = read_pose(path) if path.is_file() else None
        if world_from_cam is not None:
            frames.append(Frame(name, camera_id, pose.inverse(world_from_cam)))
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
