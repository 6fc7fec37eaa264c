"""One large file over HTTP: resumed where it stopped, checked against what the server announces, published by rename."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from d2s import __version__
from d2s.errors import DownloadError, FormatError, InputError
from d2s.scene.atomic import read_json, write_json
from processing.progress import Ticker

logger = logging.getLogger(__name__)

TIMEOUT_S = 60
RETRIES = 6
LONGEST_WAIT_S = 60
CHUNK = 1 << 20
SPARE_BYTES = 100 * CHUNK
"""Disk space that a download leaves free."""
TRANSIENT_STATUS = (408, 416, 425, 429, 500, 502, 503, 504)
_TRANSIENT = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class Offer:
    """What a server says of a file, which must stay the same for a download to be continued."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    def same_file(self, other: Offer) -> bool:
        """Whether two answers are about the same bytes, by the strongest sign that both give."""
        if self.size is not None and other.size is not None and self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag == other.etag
        if self.last_modified and other.last_modified:
            return self.last_modified == other.last_modified
        return self.size is not None and self.size == other.size

    @property
    def if_range(self) -> str | None:
        """What makes the server send everything, should the file have changed. Weak ETags are not allowed there (RFC 9110, 13.1.5)."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified


def fetch(url: str, path: Path, retries: int = RETRIES, wait: Callable[[float], None] = time.sleep) -> None:
    """Download `url` to `path`; what an earlier run, even a killed one, has received is kept (`path`.part and `path`.part.json).

    Broken connections and busy servers are tried again, up to `retries` times in a row without a byte of progress, each time after a
    longer wait. Raises DownloadError, or InputError when the disk is too small.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"{url} is not an http address.")
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(_part(path))
        try:
            _receive(url, path)
            break
        except _TRANSIENT as error:
            _raise_final(url, error)
            failures = 0 if _size(_part(path)) > before else failures + 1
            if failures > retries:
                raise DownloadError(f"{url} cannot be downloaded: {_reason(error)}.", "Run the same command again to go on.") from None
            seconds = min(2.0**failures, LONGEST_WAIT_S)
            logger.info("%s: %s; trying again in %.0f s", path.name, _reason(error), seconds)
            wait(seconds)
    _part(path).rename(path)
    _note(path).unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _raise_final(url: str, error: Exception) -> None:
    """Raise DownloadError for an answer that another try will not change."""
    if isinstance(error, urllib.error.HTTPError) and error.code not in TRANSIENT_STATUS:
        remedy = "The publisher may have moved it: docs/datasets.md says where the data set lives."
        raise DownloadError(f"{url} answers {error.code} {error.reason}.", remedy) from None


def _receive(url: str, path: Path) -> None:
    """One request: the rest of a file that was begun, or all of it. Raises one of _TRANSIENT when it has not all arrived."""
    part, known = _part(path), _known(url, path)
    have = _size(part) if known is not None else 0
    if known is not None and known.size == have and have:
        return  # killed between the last byte and the rename
    try:
        with urllib.request.urlopen(_request(url, known, have), timeout=TIMEOUT_S) as response:
            offer = _offer(url, response)
            if response.status == 206:
                _require_same(known, offer, response, have)
            else:
                have = _begin(path, offer)
            _require_space(path, offer.size, have)
            _append(response, part, have, offer.size)
    except (urllib.error.HTTPError, _ChangedError) as error:
        if isinstance(error, _ChangedError) or error.code == 416:
            part.unlink(missing_ok=True)  # what is there cannot be continued
        raise


class _ChangedError(ConnectionError):
    """The server continues another file than the one that was begun."""


def _known(url: str, path: Path) -> Offer | None:
    """What the server said of the part that lies there, if it is of the same address."""
    if not _note(path).is_file():
        return None
    try:
        known = Offer(**read_json(_note(path)))
    except (FormatError, TypeError):
        return None
    return known if known.url == url else None


def _request(url: str, known: Offer | None, have: int) -> urllib.request.Request:
    # A compressed answer would have other bytes and another length than the file.
    headers = {"User-Agent": f"d2s/{__version__}", "Accept-Encoding": "identity"}
    if known is not None and have:
        headers["Range"] = f"bytes={have}-"
        if known.if_range:
            headers["If-Range"] = known.if_range
    return urllib.request.Request(url, headers=headers)


def _offer(url: str, response: HTTPResponse) -> Offer:
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    length = whole[1] if whole else response.headers.get("Content-Length") if response.status == 200 else None
    return Offer(url, response.headers.get("ETag"), response.headers.get("Last-Modified"), None if length is None else int(length))


def _require_same(known: Offer | None, offer: Offer, response: HTTPResponse, have: int) -> None:
    """Some servers ignore If-Range, some the range's start: what they send must continue what lies there."""
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if known is None or not known.same_file(offer) or start is None or int(start[1]) != have:
        raise _ChangedError("the file on the server is not the one that was begun")


def _begin(path: Path, offer: Offer) -> int:
    """Start the file from its first byte; gives 0."""
    if _size(_part(path)):
        logger.info("%s: the server sends it from the beginning", path.name)
    _part(path).unlink(missing_ok=True)
    write_json(_note(path), asdict(offer))
    return 0


def _require_space(path: Path, size: int | None, have: int) -> None:
    require_space(path.parent, 0 if size is None else size - have, path.name)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise InputError when the disk of a folder has less than `needed` bytes and a little more."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise InputError(
            f"{what} needs {gigabytes(needed)} in {folder}, which has {gigabytes(free)} left.", "Make room, or name another --dataset_dir."
        )


def gigabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _append(response: HTTPResponse, part: Path, have: int, size: int | None) -> None:
    """Write what comes, saying how far it is. Raises ConnectionError when fewer or more bytes come than were announced."""
    with part.open("ab") as file, _progress(part.name.removesuffix(".part"), have, size) as tell:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            tell(len(chunk))
    if size is not None and have > size:
        raise _ChangedError(f"{have} bytes arrived where {size} were announced")
    if size is not None and have < size:
        raise ConnectionError(f"the connection ended after {have} of {size} bytes")


@contextmanager
def _progress(name: str, have: int, size: int | None) -> Iterator[Callable[[int], object]]:
    """A function to be told of the bytes that came: a bar on a terminal, a plain line every few seconds elsewhere."""
    if sys.stderr.isatty():
        with tqdm(total=size, initial=have, desc=name, unit="B", unit_scale=True, leave=False) as bar:
            yield bar.update
        return
    ticker, start, came = Ticker(), time.monotonic(), [0]
    whole = "unknown size" if size is None else gigabytes(size)

    def tell(count: int) -> None:
        came[0] += count
        speed = came[0] / max(time.monotonic() - start, 1e-3)
        ticker.tell("%s: %s of %s, %.1f MB/s", name, gigabytes(have + came[0]), whole, speed / 1e6)

    yield tell
