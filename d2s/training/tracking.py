"""Watching a run: console and log file, `metrics.jsonl`, Visdom. None of them can stop the training."""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, cast

from tqdm import tqdm

from d2s.errors import InputError
from d2s.scene.atomic import write_text

logger = logging.getLogger(__name__)

LINE_SECONDS = 15.0
"""Seconds between progress lines where there is no terminal."""


Text = Callable[[dict[str, Any]], str]
"""What the console says of a record."""


class Tracker(Protocol):
    """Something that is told how a run goes. Every record has "kind" ("step" or "validation"), "step", "epoch" and numbers."""

    def log(self, record: dict[str, Any]) -> None:
        """One record."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class Console:
    """A progress bar on a terminal, plain lines elsewhere; losses, learning rate and time left."""

    def __init__(self, step_text: Text | None = None, validation_text: Text | None = None) -> None:
        self._step_text, self._validation_text = step_text or _step_text, validation_text or _validation_text
        self._bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}{postfix}") if sys.stderr.isatty() else None
        self._next = 0.0

    def log(self, record: dict[str, Any]) -> None:
        """Show a record: validations always, steps at most every LINE_SECONDS without a terminal."""
        if record["kind"] == "validation":
            self._write(self._validation_text(record))
        elif self._bar is not None:
            self._bar.n = round(100 * record["progress"], 1)
            self._bar.set_postfix_str(self._step_text(record))
        elif time.monotonic() >= self._next or record["progress"] >= 1:
            self._next = time.monotonic() + LINE_SECONDS
            logger.info("%3.0f %% | %s", 100 * record["progress"], self._step_text(record))

    def _write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        logger.info("%s", text)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()


def _step_text(record: dict[str, Any]) -> str:
    parts = [
        f"epoch {record['epoch']}",
        f"loss {record['loss']:.4f}",
        f"map {record['map']:.4f}",
        f"reliability {record['reliability']:.4f}",
    ]
    if "reprojection" in record:
        parts.append(f"reprojection {record['reprojection']:.2f}")
    parts.append(f"lr {record['lr']:.1e}")
    parts.append(f"{format_seconds(record['seconds_left'])} left")
    return ", ".join(parts)


def _validation_text(record: dict[str, Any]) -> str:
    return f"validation at epoch {record['epoch']}: {_errors_text(record)} ({record['n']} images)"


def _errors_text(record: dict[str, Any]) -> str:
    if record.get("n_failed") == record["n"]:
        return "none localized"
    recall = f"{100 * record['recall']:.0f} % within {record['recall_name']}"
    if record["median_t"] is None:
        return f"{record['n_failed']} not localized, {recall}"
    return f"median {record['median_t']:.4f} {record.get('unit', '')}, {record['median_r_deg']:.2f} deg, {recall}"


def format_seconds(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class JsonLines:
    """`metrics.jsonl`. A resumed run drops the records after its checkpoint, so that the file reads like one uninterrupted run."""

    def __init__(self, path: Path, resume_after: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if _total_steps(line) <= resume_after] if resume_after else []
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: dict[str, Any]) -> None:
        """Append one line."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of the file: a killed run may leave half a line."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].splitlines()


def _total_steps(line: str) -> float:
    """When a line was written; infinity for one that is damaged, which is dropped: a record of the past must not stop the training."""
    try:
        return float(json.loads(line)["total_steps"])
    except (ValueError, TypeError, KeyError):
        return math.inf


# Window -> legend -> key of the record; the windows' names are those of the published code.
VISDOM_WINDOWS = {
    "loss_win": {"train_loss": "loss"},
    "3dmap_loss": {"3dmap_loss": "map"},
    "reprj_loss": {"reprj_loss": "reprojection"},
    "uncer_loss": {"uncer_loss": "reliability"},
    "lr_win": {"lr": "lr"},
    "val_error": {"median_t": "median_t", "median_r_deg": "median_r_deg"},
    "val_recall": {"recall": "recall"},
    "val_loss": {"validation_loss": "validation_loss"},
}

VISDOM_SECONDS = 5.0
"""A server that takes longer than this to answer counts as gone."""


class VisdomTracker:
    """Curves in a Visdom environment named after the run. When the server goes away, training goes on without it."""

    def __init__(self, environment: str, server: str, port: int) -> None:
        try:
            import visdom
        except ImportError:
            raise InputError("Visdom is not installed.", "pip install visdom, or train with --visdom off.") from None
        _require_server(server, port)
        # raise_exceptions: visdom's own default is to swallow errors into its log; we want to know, and stop talking to a dead server.
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns of a new session, and of the socket that we do not want
        client = cast(Any, visdom.Visdom)  # its type stubs lack the session
        self._viz = client(server=server, port=port, env=environment, raise_exceptions=True, use_incoming_socket=False)
        session = self._viz.session
        session.request = partial(session.request, timeout=VISDOM_SECONDS)  # its own default is to wait for ever
        self._alive = True

    def log(self, record: dict[str, Any]) -> None:
        """Append a point to every window that the record has a value for."""
        with self._forgiving():
            for window, traces in VISDOM_WINDOWS.items():
                for trace, key in traces.items():
                    if self._alive and record.get(key) is not None:
                        self._append(window, trace, record["total_steps"], record[key])

    def clear(self) -> None:
        """Remove the curves of an earlier run of this name."""
        with self._forgiving():
            self._viz.close(win=None)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Visdom raises ConnectionError when its server is gone, and prints that, too."""
        try:
            with redirect_stdout(io.StringIO()):
                yield
        except OSError as error:
            self._alive = False
            logger.warning("Visdom is gone (%s); training goes on, metrics.jsonl has every value.", type(error).__name__)

    def _append(self, window: str, trace: str, step: int, value: float) -> None:
        options = {"title": window, "xlabel": "step", "showlegend": True}
        self._viz.line(X=[step], Y=[value], win=window, name=trace, update="append", opts=options)

    def close(self) -> None:
        """Nothing to close: every point is sent at once."""


def _require_server(server: str, port: int) -> None:
    """Raise InputError when no Visdom answers there (asked before visdom's client is made: it would retry and log for long)."""
    import urllib.request

    try:
        # Not the start page: it is an error page where Visdom's scripts could not be downloaded, and other servers have one, too.
        with urllib.request.urlopen(f"{server}:{port}/env_state", data=b"{}", timeout=VISDOM_SECONDS) as answer:
            if isinstance(json.load(answer), list):
                return
        reason = "something else does"
    except (OSError, HTTPException, ValueError) as error:
        reason = str(error)
    raise InputError(f"No Visdom server answers at {server}:{port} ({reason}).", "Start one: python -m visdom.server.")


def make_visdom(mode: str, environment: str, server: str, port: int) -> VisdomTracker | None:
    """The tracker for --visdom auto (None, with a line, when no server answers), on (an error then) or off (None)."""
    if mode == "off":
        return None
    try:
        return VisdomTracker(environment, server, port)
    except InputError as error:
        if mode == "on":
            raise
        logger.info("Visdom: not used. %s", error.problem)
        return None
