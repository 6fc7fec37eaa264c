"""Show a run in Visdom: its curves and its last validation image, of a training that is over or still going on."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

from d2s.commands.options import flag
from d2s.errors import InputError, MissingFileError
from d2s.training.metrics_reader import MetricsReader
from d2s.training.run_dir import RunDir
from d2s.training.visdom_link import VisdomLink
from d2s.training.visdom_tracker import SEND_SECONDS, Sender
from d2s.training.visdom_windows import Record

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s watch`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run (LOG_DIR/NAME), or a metrics.jsonl file")
    parser.add_argument("--server", default="http://localhost", help="address of the Visdom server (default: http://localhost)")
    parser.add_argument("--port", type=int, default=8097, help="port of the Visdom server (default: 8097)")
    parser.add_argument("--env", default=None, help="Visdom environment (default: the run's name)")
    flag(parser, "--follow", False, "go on until the training is finished, or until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Fill the environment, and follow the run."""
    run_dir, metrics = _files(args.run)
    reader = MetricsReader(metrics)
    records = reader.read()[0]
    if not records and _is_finished(run_dir, 1):
        raise InputError(f"{metrics} has no records.", "Nothing was trained, and there were no validation images: nothing is to be seen.")
    if not records and not args.follow:
        raise InputError(f"{metrics} has no records yet.", "Wait for the first step of the training, or use --follow.")
    link = VisdomLink(args.env or _name(run_dir, metrics), args.server, args.port)
    sender = Sender(link, run_dir.view)
    sender.take(records)
    sent = sender.round(last=not args.follow)
    if sent:
        logger.info("%d records of %s are at %s", len(records), args.run, link.page)
    if args.follow:
        sent = _follow(link, sender, reader, run_dir, records[-1:])
    if not sent:
        raise InputError(f"The Visdom server at {args.server}:{args.port} went away.", "Run the same command again.")
    return 0


def _follow(link: VisdomLink, sender: Sender, reader: MetricsReader, run_dir: RunDir, last: list[Record]) -> bool:
    """Send what comes until the stage of the newest record is finished; False when the server is gone then."""
    while True:
        records, anew = reader.read()
        if anew:  # resumed after a kill, or started anew: what came after its checkpoint does not count any more
            sender = Sender(link, run_dir.view)
        last = records[-1:] or last
        sender.take(records)
        finished = not records and _is_finished(run_dir, last[0].get("stage") if last else 1)
        sent = sender.round(last=finished)
        if finished:
            return sent
        time.sleep(SEND_SECONDS)


def _is_finished(run_dir: RunDir, stage: int | None) -> bool:
    return stage in run_dir.state().get("finished_stages", [])


def _files(path: Path) -> tuple[RunDir, Path]:
    """The run and its metrics. Raises MissingFileError."""
    run_dir, metrics = (RunDir(path), path / "metrics.jsonl") if path.is_dir() else (RunDir(path.parent), path)
    if not metrics.is_file():
        raise MissingFileError(f"{metrics} does not exist.", "Name the folder of a run: LOG_DIR/NAME of d2s train.")
    return run_dir, metrics


def _name(run_dir: RunDir, metrics: Path) -> str:
    """The run's name; for a file that is not called metrics.jsonl, its own."""
    return run_dir.path.resolve().name if metrics == run_dir.metrics else metrics.name.removesuffix(".jsonl").removesuffix(".metrics")
