"""Showing a training in Visdom, from a thread of its own: whatever the server does, the training neither waits nor stops.

The thread holds what every window shows, and sends windows whole. A server that went away and comes back therefore gets all of it, also
when it has forgotten everything. Files are the server's business: it saves environments where its `-env_path` says, when it is asked to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from d2s.errors import D2SError, InputError
from d2s.training.validation_view import ValidationView
from d2s.training.visdom_link import ANSWER_SECONDS, VisdomLink
from d2s.training.visdom_windows import Record, Windows

logger = logging.getLogger(__name__)

SEND_SECONDS = 1.0
"""Pause between two rounds of sending."""

SHARE = 0.01
"""Of the processor's time that the thread takes at most: the more a round costs, the longer is the pause after it."""

MAX_WAITING = 20_000
"""Records that may wait for the thread; it takes them every second, or after ANSWER_SECONDS where the server hangs."""


class VisdomTracker:
    """A run's environment in Visdom: curves, and the validation image of which validations write the file `view`.

    Raises InputError where no server answers.
    """

    def __init__(self, environment: str, server: str, port: int, view: Path | None = None) -> None:
        self._sender = Sender(VisdomLink(environment, server, port), view)
        self._waiting: deque[Record] = deque(maxlen=MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="visdom", daemon=True)
        self.cpu_seconds = 0.0

    def begin(self, history: Iterable[Record] = ()) -> None:
        """Start sending; `history` are the records of the run so far. Windows of an earlier run of this name are replaced or closed."""
        self._sender.take(history)
        self._thread.start()

    def log(self, record: Record) -> None:
        """Note a record; the thread does the rest."""
        self._waiting.append(record)

    def close(self) -> None:
        """Send what is left and let the server save the environment, within a few seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(ANSWER_SECONDS + 3)
        logger.debug("Visdom took %.2f s of processor time.", self.cpu_seconds)

    def _run(self) -> None:
        pause, closing = 0.0, False
        while not closing:
            closing = self._closing.wait(pause)
            before = time.thread_time()
            self._sender.take(self._arrived())
            self._sender.round(closing)
            spent = time.thread_time() - before
            self.cpu_seconds += spent
            pause = max(SEND_SECONDS, spent / SHARE)

    def _arrived(self) -> Iterator[Record]:
        while self._waiting:
            yield self._waiting.popleft()


class Sender:
    """Keeps the windows of a run and sends what changes."""

    def __init__(self, link: VisdomLink, view: Path | None) -> None:
        self._link, self._view = link, view
        self._windows = Windows()
        self._began, self._save = False, False

    def take(self, records: Iterable[Record]) -> None:
        """Note records, and read the view after a validation."""
        validated = None
        for record in records:
            self._windows.add(record)
            self._began |= record["kind"] == "step"
            if record["kind"] == "validation":
                validated = record
        if validated is not None:
            self._save = True
            self._show(int(validated["epoch"]))

    def _show(self, epoch: int) -> None:
        if self._view is not None and self._view.is_file():
            try:
                self._windows.show(ValidationView.load(self._view), epoch)
            except D2SError as error:
                logger.warning("%s", error)

    def round(self, last: bool = False) -> bool:
        """Send what has changed; False when the server is gone. The server saves the environment after validations and the `last` round.

        Not before the first step, so that windows always stand in the same order on the page.
        """
        if not (self._began or last):
            return True
        sent = self._link.send(self._windows, self._save or last, now=last)
        self._save &= not sent
        return sent


def make_visdom(mode: str, environment: str, server: str, port: int, view: Path | None = None) -> VisdomTracker | None:
    """The tracker for --visdom auto (None, with a line, when no server answers), on (an error then) or off (None)."""
    if mode == "off":
        return None
    try:
        return VisdomTracker(environment, server, port, view)
    except InputError as error:
        if mode == "on":
            raise
        logger.info("Visdom: not used. %s", error.problem)
        return None
