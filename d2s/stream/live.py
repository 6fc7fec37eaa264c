"""A camera or a network stream: frames come whether somebody looks or not.

A thread reads them into a short queue. When localizing is slower than the stream, the oldest frame of a full queue is dropped and counted,
so that what is localized is never older than the queue is long: with the default length of 1 it is always the newest frame.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import cv2

from d2s.errors import D2SError, InputError
from d2s.stream.capture import next_frame, open_capture, without_secrets
from d2s.stream.frame import Frame

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds before the first attempt to connect again; doubled after each one that fails, up to the longest."""
POLL = 0.2


class StreamError(D2SError):
    """A camera or stream that worked gives no frames any more."""


def parse_target(text: str) -> int | str:
    """A camera index, or an address with a protocol such as rtsp:// or http://. Raises InputError for anything else."""
    if text.isdecimal():
        return int(text)
    if "://" in text:
        return text
    remedy = (
        "For a video file: --video." if Path(text).exists() else "Write a camera index such as 0, or an address such as rtsp://host/path."
    )
    raise InputError(f"--stream {text!r} is neither a camera index nor an address.", remedy)


class LiveStream:
    """Frames of a camera index or address, every `every`-th one of those that arrive.

    `queue`: how many frames may wait. `patience`: seconds for which a network stream that broke off is connected to again; a camera that
    stops is an error at once. `reconnections` counts.
    """

    live = True

    def __init__(self, target: int | str, every: int = 1, queue: int = 1, patience: float = 30.0) -> None:
        self.target, self.every, self.patience = target, every, patience
        self.shown = f"camera {target}" if isinstance(target, int) else f"stream {without_secrets(target)}"
        self.dropped = self.reconnections = 0
        self._queue: deque[Frame] = deque(maxlen=queue)
        self._changed, self._stop = threading.Condition(), threading.Event()
        self._error: D2SError | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        """Frames, until the stream ends or `close`. Raises InputError where it never began, StreamError where it broke off for good."""
        self._thread.start()
        while True:
            with self._changed:
                while not self._queue and not self._ended:
                    self._changed.wait(POLL)
                if not self._queue:
                    break
                frame = self._queue.popleft()
            yield frame
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading; a thread that hangs in a connection is left to its time limit."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            self._read()
        except D2SError as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read(self) -> None:
        """Frames of one connection after the other."""
        capture, index = open_capture(self.target), 0
        if capture is None:
            raise InputError(f"Cannot open {self.shown}.", self._remedy())
        while capture is not None:
            length = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            index = self._read_connection(capture, index)
            capture.release()
            if self._stop.is_set() or 0 < length <= index:  # a file at an address has an end
                return
            capture = self._connect_again(index)

    def _read_connection(self, capture: cv2.VideoCapture, index: int) -> int:
        """Queue what one connection gives; returns the number of the next frame."""
        while not self._stop.is_set():
            pixels = next_frame(capture)
            if pixels is None:
                break
            if index % self.every == 0:
                self._put(Frame(f"stream/{index:06d}", pixels, index, round(time.time(), 6)))
            index += 1
        return index

    def _put(self, frame: Frame) -> None:
        with self._changed:
            self.dropped += len(self._queue) == self._queue.maxlen
            self._queue.append(frame)
            self._changed.notify_all()

    def _connect_again(self, index: int) -> cv2.VideoCapture | None:
        """A new connection, tried for with longer and longer pauses; None when stopped. Raises when there is no hope."""
        if index == 0:
            raise InputError(f"{self._sentence()} can be opened but gives no frames.", self._remedy())
        if isinstance(self.target, int):
            raise StreamError(f"{self._sentence()} stopped giving frames after {index}.", "Is it unplugged, or taken by another program?")
        logger.warning("%s broke off after %d frames; connecting again.", self._sentence(), index)
        given_up, wait = time.monotonic() + self.patience, FIRST_WAIT
        while time.monotonic() + wait < given_up and not self._stop.wait(wait):
            capture = open_capture(self.target)
            if capture is not None:
                self.reconnections += 1
                return capture
            wait = min(2 * wait, LONGEST_WAIT)
        if self._stop.is_set():
            return None
        raise StreamError(f"{self._sentence()} ended after {index} frames and did not come back within {self.patience:g} s.")

    def _sentence(self) -> str:
        return self.shown[0].upper() + self.shown[1:]

    def _remedy(self) -> str:
        if isinstance(self.target, int):
            return "Is it plugged in, and free? Another index may be the right one: ls /dev/video* lists them."
        return "Check the address, and whether another player shows it."
