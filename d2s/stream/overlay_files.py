"""Where overlays go: a folder of pictures, or a video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.scene.atomic import atomic_path
from d2s.stream.frame import Frame

CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
QUALITY = 90
MOST_REPEATS = 50
"""Frames of the video that one frame of a live stream may stand for."""


class Overlays(Protocol):
    """Takes the pictures of one run."""

    def write(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Keep the picture (H, W, 3) RGB of a frame."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


def make_overlays(path: Path, fps: float, real_time: bool) -> Overlays:
    """A video for a name that ends as one, else a folder. `fps` of the video; `real_time`: frames last as long as their timestamps say."""
    if path.suffix.lower() in CODECS:
        return OverlayVideo(path, fps, real_time)
    return OverlayFolder(path)


class OverlayFolder:
    """One JPEG per frame, named after it. Raises InputError where the name is that of a file."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--overlay {folder} is a file, not a folder.", f"For a video the name must end in {', '.join(CODECS)}.")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._names: set[str] = set()

    def write(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Write `name.jpg`; of images with equal names in different folders, the later ones get a number."""
        stem = frame.name.replace("/", "_") if frame.path is None else frame.path.stem
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        with atomic_path(self.folder / f"{name}.jpg") as temporary:
            temporary.write_bytes(data.tobytes())

    def close(self) -> None:
        """Every picture is there already."""


class OverlayVideo:
    """A video file, which gets its name when it is finished: an MP4 file without its end cannot be played.

    Frames of another size than the first are fitted into it.
    """

    def __init__(self, path: Path, fps: float, real_time: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"--overlay {path} is a folder, but its name ends as a video's.")
        self.path, self.fps, self.real_time = path, fps, real_time
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._writer: Any = None
        self._size = (0, 0)
        self._begin: float | None = None
        self._written = 0

    def write(self, frame: Frame, picture: NDArray[np.uint8]) -> None:
        """Add the picture, as often as its time asks for."""
        if self._writer is None:
            self._open((picture.shape[1], picture.shape[0]))
        fitted = _fit(picture, self._size)
        for _ in range(self._repeats(frame.timestamp)):
            self._writer.write(cv2.cvtColor(fitted, cv2.COLOR_RGB2BGR))
            self._written += 1

    def _open(self, size: tuple[int, int]) -> None:
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        self._size, self._writer = size, cv2.VideoWriter(str(self._part), cv2.CAP_FFMPEG, codec, self.fps, size)
        if not self._writer.isOpened():
            raise InputError(f"--overlay {self.path}: OpenCV cannot write this kind of video.", f"Choose one of: {', '.join(CODECS)}.")

    def _repeats(self, timestamp: float | None) -> int:
        """How many frames of the video bring it to the frame's time; 1 for a source that has no time of its own."""
        if not self.real_time or timestamp is None:
            return 1
        self._begin = timestamp if self._begin is None else self._begin
        due = round((timestamp - self._begin) * self.fps) + 1
        return min(max(due - self._written, 0), MOST_REPEATS)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is not None:
            self._writer.release()
            os.replace(self._part, self.path)
            self._writer = None


def _fit(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture in a frame of `size` (width, height), black where it is too narrow or too flat."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    scale = min(size[0] / width, size[1] / height)
    small = cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas
