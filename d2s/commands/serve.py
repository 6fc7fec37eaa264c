"""Localization over HTTP: POST a photo, get its pose. A page to try it with is at /, the description at /openapi.json."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
from pathlib import Path

from d2s.commands.device import add_device, choose_device
from d2s.commands.memory import keep_freed_memory
from d2s.commands.options import add_effort, add_min_confidence, flag
from d2s.errors import InputError
from d2s.localization.effort import Effort
from d2s.service.catalogue import describe
from d2s.service.server import require_packages, serve
from d2s.service.settings import BUDGET_MS, Limits, ServiceSettings, parse_scenes, read_keys

logger = logging.getLogger(__name__)
KEY_VARIABLE = "D2S_API_KEY"
DEFAULT = Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s serve`."""
    parser.add_argument(
        "--model", action="append", required=True, metavar="NAME=DIR", help="a scene: its name in URLs and its model/ folder; repeatable"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of them (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="port to listen at; 0: any free one (default: 8765)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; each computes one image at a time and holds its own models (default: 1)"
    )
    parser.add_argument(
        "--max_body_mb",
        type=float,
        default=DEFAULT.body_bytes / 2**20,
        help="largest request in MiB; larger ones get 413 (default: %(default)g)",
    )
    parser.add_argument(
        "--max_megapixels",
        type=float,
        default=DEFAULT.pixels / 1e6,
        help="largest image in megapixels; larger ones get 413 (default: %(default)g)",
    )
    parser.add_argument("--queue", type=int, default=DEFAULT.queue, help="images that may wait; more get 503 (default: %(default)s)")
    parser.add_argument(
        "--time_limit", type=float, default=DEFAULT.answer_seconds, help="seconds per image, waiting included (default: %(default)g)"
    )
    parser.add_argument(
        "--upload_limit", type=float, default=DEFAULT.upload_seconds, help="seconds for a request to arrive (default: %(default)g)"
    )
    parser.add_argument("--max_loaded", type=int, default=DEFAULT.loaded_scenes, help="scenes in memory at a time (default: %(default)s)")
    flag(parser, "--preload", False, "load scenes at the start rather than with their first image")
    parser.add_argument(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help=f"keys, one a line, that requests must carry (also: environment variable {KEY_VARIABLE})",
    )
    add_min_confidence(parser)
    add_effort(parser, BUDGET_MS)
    parser.add_argument("--weights", type=Path, default=None, help="file of the feature network, where it is not found by itself")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl+C."""
    require_packages()
    limits = limits_of(args)
    keys = read_keys(args.api_key_file, os.environ.get(KEY_VARIABLE))
    scenes = parse_scenes(args.model)
    for name, path in scenes.items():
        describe(name, path)  # a wrong folder ends the command rather than a worker process
    if not keys and not _is_loopback(args.host):
        logger.warning("Anyone who reaches %s can use this service: there is no API key (--api_key_file).", args.host)
    settings = ServiceSettings(
        scenes,
        limits,
        keys,
        str(choose_device(args.cudaid)),
        args.weights,
        args.preload,
        min_confidence=args.min_confidence,
        effort=Effort(args.effort, args.budget_ms),
    )
    serve(settings, args.host, args.port, args.workers, keep_freed_memory)
    return 0


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits of the options. Raises InputError for those that would refuse everything."""
    for name in ("workers", "max_body_mb", "max_megapixels", "queue", "time_limit", "upload_limit", "max_loaded"):
        value = getattr(args, name)
        if not 0 < value < 1e6:
            raise InputError(f"--{name} {value} must be positive and below a million.")
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port} must be between 0 and 65535.")
    return Limits(
        body_bytes=int(args.max_body_mb * 2**20),
        pixels=int(args.max_megapixels * 1e6),
        queue=args.queue,
        answer_seconds=args.time_limit,
        upload_seconds=args.upload_limit,
        loaded_scenes=args.max_loaded,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
