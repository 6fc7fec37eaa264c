"""One thread that computes, behind a queue of bounded length."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from d2s.service.refusal import overloaded

T = TypeVar("T")
FIRST_GUESS = 0.5  # seconds per image, until one was measured
MEMORY = 0.8  # weight of the past in the running mean of seconds per image


class Worker:
    """Runs work one after another in a thread of its own; refuses what would wait behind more than `queue` others.

    `upkeep`: done in that thread after each piece of work, before the next.
    """

    def __init__(self, queue: int, upkeep: Callable[[], None] = lambda: None) -> None:
        self.queue, self._upkeep = queue, upkeep
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="d2s-compute")
        self._lock = threading.Lock()
        self._pending = 0
        self._busy_since: float | None = None
        self._seconds = FIRST_GUESS

    @property
    def waiting(self) -> int:
        """Work that has not begun."""
        return max(0, self._pending - (self._busy_since is not None))

    @property
    def busy_seconds(self) -> float:
        """How long the present work has been running; 0 when there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def retry_after(self) -> float:
        """Seconds until what is pending now will be done."""
        return min(60.0, self._seconds * max(1, self._pending))

    def require_room(self) -> None:
        """Raises Refused (503) when the queue is full."""
        if self._pending > self.queue:
            raise overloaded(f"{self.queue} images are waiting already", self.retry_after)

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """The future result of `work`; cancelling it takes waiting work out of the queue. Raises Refused (503) when the queue is full."""
        with self._lock:
            self.require_room()
            self._pending += 1
        try:
            future = self._executor.submit(self._run, work)
        except RuntimeError:  # closed
            self._done()
            raise overloaded("it is shutting down", 5.0) from None
        future.add_done_callback(self._done)
        self.tidy()
        return future

    def tidy(self) -> None:
        """Do the upkeep when what is pending now is done."""
        with contextlib.suppress(RuntimeError):  # closed
            self._executor.submit(self._upkeep)

    def close(self) -> None:
        """Drop what waits. Work that has begun is not waited for: every request that needs it has been answered by now."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], T]) -> T:
        self._busy_since = start = time.monotonic()
        try:
            return work()
        finally:
            self._busy_since = None
            self._seconds = MEMORY * self._seconds + (1 - MEMORY) * (time.monotonic() - start)

    def _done(self, _: object = None) -> None:
        with self._lock:
            self._pending -= 1
