"""Fetch a public data set, or some of its scenes: resumed after an interruption, checked, unpacked by rename."""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # a script finds its own folder only; d2s and processing lie one level up
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from d2s.commands.folders import writable_folder
from d2s.commands.options import flag, run_command
from d2s.errors import DownloadError, FormatError, InputError, unknown_choice
from d2s.scene.atomic import read_json, write_json, write_text
from processing.download_archive import unpack
from processing.download_http import fetch
from processing.download_sources import SOURCES, Item, Source

logger = logging.getLogger(__name__)

ARCHIVES = ".downloads"
"""Folder in DATASET_DIR for archives on their way, and for the checksums of all that was ever downloaded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s download`."""
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help=f"one of: {', '.join(SOURCES)}")
    parser.add_argument("scene", nargs="*", metavar="SCENE", help="scenes of it (default: all)")
    parser.add_argument("--dataset_dir", type=Path, default=Path("datasets"), help="where data sets are kept (default: datasets)")
    flag(parser, "--keep_archives", False, f"keep the archives, in DATASET_DIR/{ARCHIVES}")
    parser.add_argument("--list", action="store_true", help="say what there is, download nothing")  # no value: DATASET may follow


def run(args: argparse.Namespace) -> int:
    """Download what is not there yet; say what has to be fetched by hand."""
    if args.list:
        for line in overview(SOURCES if args.dataset is None else {args.dataset: _source(args.dataset)}):
            logger.info("%s", line)
        return 0
    if args.dataset is None:
        raise InputError("No data set is named.", f"Name one of: {', '.join(SOURCES)}; --list says more.")
    source = _source(args.dataset)
    items = chosen_items(args.dataset, source, args.scene)
    writable_folder("--dataset_dir", args.dataset_dir)
    logger.info("%s. Licence: %s (%s)", source.title, source.licence, source.page)
    for item in items:
        install(item, args.dataset_dir, args.keep_archives)
    for line in _by_hand(source, args.dataset_dir):
        logger.info("%s", line)
    return 0


def _source(dataset: str) -> Source:
    if dataset not in SOURCES:
        raise unknown_choice("data set", dataset, SOURCES)
    return SOURCES[dataset]


def chosen_items(dataset: str, source: Source, scenes: Sequence[str]) -> list[Item]:
    """What to download for the scenes, each thing once. Raises InputError for an unknown scene, and where nothing can be downloaded."""
    if not source.scenes:
        places = "; ".join(f"{entry.what}: {entry.page} to DATASET_DIR/{entry.target}" for entry in source.by_hand)
        raise InputError(f"{dataset} has no link that a program may follow.", f"Download by hand: {places}.")
    for scene in scenes:
        if scene not in source.scenes:
            raise unknown_choice(f"scene of {dataset}", scene, source.scenes)
    return list(dict.fromkeys(item for scene in scenes or source.scenes for item in source.scenes[scene]))


def overview(sources: dict[str, Source]) -> list[str]:
    """Lines that say what there is."""
    lines = []
    for name, source in sources.items():
        lines += [f"{name}: {source.title}, {source.page}", f"  licence: {source.licence}"]
        lines.append(f"  scenes: {', '.join(source.scenes) or 'by hand only'}")
        lines += [f"  by hand: {entry.what}: {entry.page} to DATASET_DIR/{entry.target}" for entry in source.by_hand]
    return lines


def _by_hand(source: Source, dataset_dir: Path) -> list[str]:
    return [f"Not downloaded, take it by hand if you need it: {e.what}: {e.page}, to {dataset_dir / e.target}" for e in source.by_hand]


def install(item: Item, dataset_dir: Path, keep_archives: bool) -> None:
    """Download one thing and put it where it belongs, unless it is there. What is there is complete: it was published by rename."""
    target = dataset_dir / item.target
    if target.exists():
        logger.info("%s is there already", target)
        return
    downloads = [_download(url, dataset_dir, item) for url in item.urls]
    if item.is_archive:
        _unpack(downloads[0], target)
    else:
        write_text(target, "".join(f"{path.read_text(encoding='utf-8').rstrip()}\n" for path in downloads))
    logger.info("%s is complete", target)
    if not keep_archives:
        for path in downloads:
            path.unlink()


def _download(url: str, dataset_dir: Path, item: Item) -> Path:
    """The file of an address, downloaded and compared with its checksum."""
    path = dataset_dir / ARCHIVES / f"{item.target.replace('/', '_')}__{Path(url).name}"
    if not path.is_file():
        logger.info("Downloading %s", url)
        fetch(url, path)
    verify(path, url, item.sha256)
    return path


def verify(path: Path, url: str, published: str | None) -> None:
    """Compare a file with the published checksum, else with that of the first download, which is written beside it (`path`.sha256.json).

    Raises DownloadError when it is another file.
    """
    record = path.with_name(path.name + ".sha256.json")
    known = published or (read_json(record).get("sha256") if record.is_file() else None)
    found = _sha256(path)
    if known is not None and found != known:
        raise DownloadError(
            f"{path} is not the file that was {'published' if published else 'downloaded before'}: sha256 {found}, not {known}.",
            f"Remove it to download it again{'' if published else f', and {record} if the publisher has changed it'}.",
        )
    if known is None:
        logger.info("No checksum of %s is published; the first download's is noted in %s", path.name, record)
        write_json(record, {"url": url, "size": path.stat().st_size, "sha256": found})


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(archive: Path, target: Path) -> None:
    """Unpack; an archive that is damaged goes, with its checksum, so that the next run downloads it anew."""
    try:
        unpack(archive, target)
    except FormatError as error:
        archive.unlink()
        archive.with_name(archive.name + ".sha256.json").unlink(missing_ok=True)
        raise DownloadError(f"{error.problem} It was removed.", "Run the same command again to download it anew.") from None


if __name__ == "__main__":
    sys.exit(run_command("download.py", add_arguments, run, description=__doc__))
