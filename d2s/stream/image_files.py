"""Image files, folders and patterns as frames."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2s.errors import InputError, MissingFileError
from d2s.features.images import IMAGE_SUFFIXES, read_image
from d2s.stream.frame import Frame


def find_images(given: Sequence[str]) -> list[Path]:
    """The files behind names, folders and patterns such as 'photos/*.jpg' or 'photos/**/*.png', each once, in order.

    A folder stands for all images in it and below. A file that is named is taken whatever its suffix is. Raises InputError for a folder or
    a pattern without images, MissingFileError for a file that does not exist.
    """
    found = [path for text in given for path in _expand(text)]
    return list(dict.fromkeys(found))


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        return _or_refuse(_images(path.rglob("*")), f"Folder {text} holds no images ({', '.join(s[1:] for s in IMAGE_SUFFIXES)}).")
    if path.is_file() or not glob.has_magic(text):  # a name may hold a bracket
        if not path.exists():
            raise MissingFileError(f"Image {text} does not exist.")
        return [path]
    return _or_refuse(_images(Path(match) for match in glob.glob(text, recursive=True)), f"Pattern {text!r} matches no image.")


def _images(paths: Iterator[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file())


def _or_refuse(paths: list[Path], problem: str) -> list[Path]:
    if not paths:
        raise InputError(problem, "Name image files, folders of images, or patterns in quotes.")
    return paths


class ImageFiles:
    """Image files one by one. A file that cannot be read is a frame with a problem, unless it is the only one."""

    live = False
    dropped = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __iter__(self) -> Iterator[Frame]:
        """Raises InputError where the only file cannot be read."""
        for path in self.paths:
            try:
                pixels = read_image(path)
            except InputError as error:
                if len(self.paths) == 1:
                    raise
                yield Frame(str(path), None, path=path, problem=str(error))
            else:
                yield Frame(str(path), pixels, path=path)

    def close(self) -> None:
        """Nothing is open."""
