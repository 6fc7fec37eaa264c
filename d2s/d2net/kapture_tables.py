"""Text files of kapture trees: comma separated rows, and names that must stay inside the tree."""

from __future__ import annotations

import posixpath
from pathlib import Path

from d2s.errors import FormatError, InputError, MissingFileError

VERSION = "1.1"
VERSION_LINE = f"# kapture format: {VERSION}"


def read_table(path: Path, columns: int) -> list[list[str]]:
    """Rows of a text file of kapture: comma separated, `#` and blank lines left out. Raises FormatError naming the line."""
    rows = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = [value.strip() for value in line.split(",")]
        if len(row) != columns:
            raise FormatError(f"{path}, line {number}: {columns} values separated by commas are needed, not {len(row)}.")
        rows.append(row)
    return rows


def lines_of(path: Path) -> list[str]:
    """Lines of a text file of kapture. Raises MissingFileError or FormatError."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist.", "Give the root folder of a kapture tree.") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not a text file in UTF-8.") from None


def require_inside(name: str, what: str) -> None:
    """Raises InputError for a name that would lead out of its folder."""
    if not name or name.startswith("/") or ".." in posixpath.normpath(name).split("/") or name in (".", "./"):
        raise InputError(f"{what} must be relative and stay inside its folder, not {name!r}.")
