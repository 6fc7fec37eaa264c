"""Progress of long loops: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)
T = TypeVar("T")

LINE_SECONDS = 5.0


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, with progress shown as they are taken."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False)
        return
    ticker = Ticker()
    for count, item in enumerate(items, start=1):
        yield item
        ticker.tell("%s: %d of %d", what, count, total)


class Ticker:
    """Says how far a work is, but not more often than every LINE_SECONDS: short works go by in silence."""

    def __init__(self) -> None:
        self._start = self._said = time.monotonic()

    def tell(self, message: str, *values: object) -> None:
        """Log the line, with the seconds since the beginning, when it is time for one."""
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            logger.info("  " + message + " (%.0f s)", *values, now - self._start)
