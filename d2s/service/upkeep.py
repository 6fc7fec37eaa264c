"""Gives back, between two images, what a large one left in the C library's heaps."""

from __future__ import annotations

import ctypes
import sys
import time

from d2s.service.metrics import resident_bytes

KEPT = 2.0**28
"""Freed memory that stays for the next image. An image of the usual size leaves less, so that it is never paid for page by page."""

SECONDS = 30.0
"""Least time between two times that memory is given back: the image after it pays with up to a third of its own time."""


class Upkeep:
    """Called when no image is in work, keeps the process within `KEPT` of the least that it was seen with."""

    def __init__(self) -> None:
        self._least, self._due = 0.0, 0.0

    def __call__(self) -> None:
        """Give back what is too much, where that was not done a moment ago."""
        resident, now = resident_bytes(), time.monotonic()
        self._least = min(self._least, resident)
        if resident > self._least + KEPT and now >= self._due:
            give_back()
            self._least, self._due = resident_bytes(), now + SECONDS


def give_back() -> bool:
    """Return all free pages of this process to the system; False where the C library has no way to."""
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return False
    return True
