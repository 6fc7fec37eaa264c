"""What a service offers and the limits that keep it alive."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from d2s.errors import InputError
from d2s.localization.effort import Effort

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MIN_KEY = 8
BUDGET_MS = 1000.0
"""Milliseconds after which nothing more is tried for a hard photo: clients wait, and so do those behind them."""


@dataclass(frozen=True)
class Limits:
    """What one process takes on before it refuses.

    `body_bytes` of a request, `discarded_bytes` that are taken in beyond them so that a refusal arrives, `pixels` of an image, `queue`:
    images that wait while one is computed, `uploads`: requests whose body is being read, `header_seconds` for the headers, `upload_seconds`
    for the whole of a request to arrive and `stall_seconds` for any more of it, `answer_seconds` from then to the answer, `connections` at
    a time, `loaded_scenes` in memory.
    """

    body_bytes: int = 20 * 2**20
    discarded_bytes: int = 2**26
    pixels: int = 50_000_000
    queue: int = 8
    uploads: int = 32
    upload_seconds: float = 30.0
    stall_seconds: float = 10.0
    answer_seconds: float = 30.0
    header_seconds: float = 10.0
    connections: int = 256
    loaded_scenes: int = 4


@dataclass(frozen=True)
class ServiceSettings:
    """Everything that a worker process needs to know: names of scenes with their model folders, limits, keys (none: open to all).

    `effort`: what a hard photo is worth, others wait for it meanwhile.
    `min_confidence`: poses that are right with a lower probability are refused (None: the localizer's own threshold).
    """

    scenes: dict[str, Path]
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = field(default=(), repr=False)
    device: str = "cpu"
    weights: Path | None = None
    preload: bool = False
    board: Path | None = None
    min_confidence: float | None = None
    effort: Effort = Effort("auto", BUDGET_MS)


def parse_scenes(texts: Iterable[str]) -> dict[str, Path]:
    """Scenes of the options `NAME=DIR`. Raises InputError for names that a URL or a metric cannot hold, and for names given twice."""
    scenes: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not folder or not NAME.fullmatch(name):
            raise InputError(
                f"--model {text!r} is not NAME=DIR.", "NAME takes letters, digits, '.', '_' and '-': --model hall=logs/hall/model."
            )
        if name in scenes:
            raise InputError(f"--model {name} is given twice.", "Give every scene a name of its own.")
        scenes[name] = Path(folder)
    return scenes


def read_keys(path: Path | None, variable: str | None) -> tuple[str, ...]:
    """API keys of a file, one a line (# starts a comment), and of an environment variable. Raises InputError for a file without keys."""
    keys = [variable.strip()] if variable and variable.strip() else []
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--api_key_file {path} cannot be read ({type(error).__name__}).", "Name a text file with one key a line."
            ) from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise InputError(f"--api_key_file {path} holds no key.", "Write one key a line, or leave the option out.")
        keys += found
    if any(len(key) < MIN_KEY or not key.isascii() or not key.isprintable() for key in keys):
        raise InputError(f"An API key needs at least {MIN_KEY} printable ASCII characters.", "Make one with: openssl rand -hex 24.")
    return tuple(keys)
