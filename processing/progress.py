"""Progress of long loops: a bar on a terminal, a plain line for every tenth elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)
T = TypeVar("T")


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items, with progress shown as they are taken."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False)
        return
    start, step = time.monotonic(), max(1, -(-total // 10))
    for count, item in enumerate(items, start=1):
        yield item
        if total >= 10 and (count % step == 0 or count == total):
            logger.info("  %s: %d of %d (%.0f s)", what, count, total, time.monotonic() - start)
