"""Folders by the names that users give them; wrong ones are said before the work begins, not after it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from d2s.errors import InputError


def dataset_name(text: str) -> str:
    """The data set's name, for argparse. hloc writes Cambridge Landmarks in lower case, the published code does not; both are read."""
    return "Cambridge" if text == "cambridge" else text


def writable_folder(option: str, path: Path) -> Path:
    """`path` as a folder that exists and can be written to. Raises InputError naming the option."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except FileExistsError:
        raise InputError(f"{option} {path} is a file, but a folder is needed.", "Name another one.") from None
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written to ({error.strerror}).", "Name another folder.") from None
