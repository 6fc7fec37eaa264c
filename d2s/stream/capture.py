"""OpenCV's video captures, opened quietly and with time limits."""

from __future__ import annotations

import os
import re

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.features.images import quiet_opencv

OPEN_MS, READ_MS = 5000, 5000
"""How long connecting and waiting for one frame may take before the connection counts as lost."""


def open_capture(target: str | int) -> cv2.VideoCapture | None:
    """A capture of a file, address or camera index that gives frames on demand; None where it cannot be opened."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg would write pages to stderr, which holds our one line
    with quiet_opencv():
        if isinstance(target, int):
            capture = cv2.VideoCapture(target)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
            capture = cv2.VideoCapture(target, cv2.CAP_FFMPEG, limits)
    if capture.isOpened():
        return capture
    capture.release()
    return None


def next_frame(capture: cv2.VideoCapture) -> NDArray[np.uint8] | None:
    """The next frame (H, W, 3) RGB uint8; None at the end, and for a picture that cannot be decoded."""
    ok, bgr = capture.read()
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8) if ok and bgr is not None else None


def without_secrets(address: str) -> str:
    """An address as it may be printed: user name and password are hidden."""
    return re.sub(r"//[^/@]*@", "//***@", address)
