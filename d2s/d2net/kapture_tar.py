"""Tar archives of a kapture tree: uncompressed, only ever appended to, the last member of a name counts.

An archive that something was appended to when the power went is whole up to the last member; what follows is cut off before more is
appended.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from d2s.errors import FormatError

BLOCK = tarfile.BLOCKSIZE
REMEDY = "Delete the archive to extract its features again, or repair it."


class AppendableTar:
    """The members of an archive by name, and a way to add more. Nothing is written before `append` or `repair`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._members, self._end = _scan(path)

    def names(self) -> set[str]:
        """Names of all members."""
        return set(self._members)

    def size(self, name: str) -> int | None:
        """Bytes of a member, None when there is none of that name."""
        return self._members[name][1] if name in self._members else None

    def read(self, name: str) -> bytes:
        """The content of a member. Raises KeyError when there is none."""
        offset, size = self._members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def repair(self) -> None:
        """Cut off what a killed process left, and see that `close` writes the end marks it did not come to."""
        if not self._has_end_marks():
            self._open()

    def _has_end_marks(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(self._end)
            rest = file.read(tarfile.RECORDSIZE)
        return len(rest) >= 2 * BLOCK and not any(rest)

    def _open(self) -> BinaryIO:
        """The file, cut off where the next member goes."""
        if self._file is None:
            os.truncate(self.path, self._end)
            self._file = self.path.open("r+b", buffering=0)
        return self._file

    def append(self, name: str, data: bytes) -> None:
        """Add a member; it is in the file when this returns."""
        file = self._open()
        info = tarfile.TarInfo(name)
        info.size = len(data)
        header = info.tobuf()
        file.seek(self._end)
        _write_all(file, header + data + bytes(-len(data) % BLOCK))
        self._members[name] = (self._end + len(header), len(data))
        self._end += len(header) + len(data) + -len(data) % BLOCK

    def close(self) -> None:
        """Write the end marks, if anything was appended."""
        if self._file is not None:
            self._file.seek(self._end)
            _write_all(self._file, bytes(2 * BLOCK + -(self._end + 2 * BLOCK) % tarfile.RECORDSIZE))
            self._file.close()
            self._file = None

    def __enter__(self) -> AppendableTar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered file may take less than it is given."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _scan(path: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Offset and size of the content of every whole member, and where the last one ends. Raises FormatError for a damaged archive."""
    length, end = path.stat().st_size, 0
    members: dict[str, tuple[int, int]] = {}
    if length < BLOCK:  # a new archive, or one whose first header was cut
        return members, end
    try:
        with tarfile.TarFile(path) as archive:
            while (info := archive.next()) is not None:
                stop = info.offset_data + info.size + -info.size % BLOCK
                if stop > length:
                    return members, end
                if info.isreg():
                    members[posixpath.normpath(info.name)] = (info.offset_data, info.size)
                end = stop
    except tarfile.TarError as error:
        raise FormatError(f"Archive {path} is damaged after {end} of {length} bytes: {error}.", REMEDY) from None
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(tarfile.RECORDSIZE)
    if len(rest) >= BLOCK and any(rest):
        raise FormatError(f"Archive {path} is damaged after {end} of {length} bytes.", REMEDY)
    return members, end
