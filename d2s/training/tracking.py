"""Watching a run: console and log file, `metrics.jsonl` (Visdom: visdom_tracker.py). None of them can stop the training."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

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
    when = f"at epoch {record['epoch']}" if record["epoch"] else "without training"
    return f"validation {when}: {_errors_text(record)} ({record['n']} images)"


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
