"""Publishing files by rename: a reader sees the old file, or the whole new one, never a part."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2s.errors import FormatError, MissingFileError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there (a file or a folder) becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        _flush(temporary)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # a folder cannot be replaced by rename while it has content
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes could not rename in a folder of ours: everything that is named as a temporary file or folder."""
    for path in folder.glob(".*.tmp"):
        _remove(path)


def remove_leftovers_of(path: Path) -> None:
    """Remove what killed writers of `path` could not rename, and nothing else: other people's files may lie beside it."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for leftover in path.parent.glob(".*.tmp"):
        if ours.fullmatch(leftover.name):
            _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Contents reach the disk before the rename does, so that a power cut cannot publish an empty file."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace `path` by `text`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace `path` by `value` as readable JSON. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file, or one clear error."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}.") from None
