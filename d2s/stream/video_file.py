"""The frames of a video file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.stream.capture import next_frame, open_capture
from d2s.stream.frame import Frame

DEFAULT_FPS = 25.0


class VideoFile:
    """Every `every`-th frame of a video file, none dropped; turned upright where the file says how."""

    live = False
    dropped = 0

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.every = path, every
        if not path.exists():
            raise MissingFileError(f"Video {path} does not exist.")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a video file.", "For a folder of images: --image.")
        capture = open_capture(str(path))
        if capture is None:
            raise FormatError(
                f"Video {path} cannot be opened: it is damaged or not a video.", "Convert it to MP4 with H.264, or name another."
            )
        self._capture = capture
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 0.1 < fps < 1000 else DEFAULT_FPS

    def __iter__(self) -> Iterator[Frame]:
        """Names are the file's name and the frame's number: 'walk.mp4/000120'. Raises FormatError for a video without frames."""
        index = 0
        while self._capture.grab() if index % self.every else True:
            if index % self.every == 0:
                pixels = next_frame(self._capture)
                if pixels is None:
                    break
                yield Frame(f"{self.path.name}/{index:06d}", pixels, index, self._timestamp(index))
            index += 1
        if index == 0:
            raise FormatError(f"Video {self.path} holds no frame that can be decoded.", "Convert it to MP4 with H.264.")

    def _timestamp(self, index: int) -> float:
        """Seconds from the beginning: what the file says, or from the frame rate where it says nothing."""
        said = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3
        return round(said if said > 0 else index / self.fps, 6)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()
