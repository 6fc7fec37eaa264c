"""Unpacking a data set's zip archive: checked, with the archives inside it, published by rename."""

from __future__ import annotations

import logging
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from d2s.errors import FormatError
from processing.download_http import require_space
from processing.progress import track

logger = logging.getLogger(__name__)

MAX_NESTING = 3
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for broken, encrypted and unknown content; reading a member to its end checks its CRC."""


def unpack(archive: Path, target: Path) -> None:
    """Make the folder `target` of an archive's content, and of the archives in it, each beside where it lay.

    Where the archive holds a single folder, that folder becomes `target`. Nothing appears under that name before everything is there.
    Raises FormatError for a damaged archive or one whose names lead elsewhere, InputError when the disk is too small.
    """
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed run
    staging.mkdir(parents=True)
    try:
        _extract(archive, staging)
        _extract_nested(staging)
        _content(staging).rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract_nested(folder: Path) -> None:
    for _ in range(MAX_NESTING):
        inner = sorted(folder.rglob("*.zip"))
        for archive in inner:
            _extract(archive, archive.parent)
            archive.unlink()
        if not inner:
            return


def _extract(archive: Path, folder: Path) -> None:
    with _open(archive) as opened:
        members = [member for member in opened.infolist() if not member.filename.startswith("__MACOSX/")]
        for member in members:
            _require_inside(member, archive)
        require_space(folder, sum(member.file_size for member in members), f"Unpacking {archive.name}")
        for member in track(members, len(members), f"Unpacking {archive.name}"):
            opened.extract(member, folder)


@contextmanager
def _open(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except _DAMAGE as error:
        raise FormatError(f"{archive} is damaged ({error}).", "Remove it and download again.") from None


def _require_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    """Raise FormatError for a name that leads out of the folder, and for links, which could."""
    name = PurePosixPath(member.filename.replace("\\", "/"))
    drive = PureWindowsPath(member.filename).drive
    if name.is_absolute() or drive or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise FormatError(f"{archive} holds {member.filename!r}, which leads out of its folder.", "Do not use this archive.")


def _content(staging: Path) -> Path:
    """The single folder that the archive holds, or all that it holds."""
    inside = list(staging.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else staging
