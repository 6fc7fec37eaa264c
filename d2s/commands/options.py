"""What all commands share: strict parsing, real booleans, one-line errors, logging."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from d2s.commands.memory import keep_freed_memory
from d2s.errors import D2SError, InputError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def boolean(text: str) -> bool:
    """`1/0/true/false/yes/no/on/off` in any case, meaning what they say."""
    value = text.strip().lower()
    if value in TRUE + FALSE:
        return value in TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is not a boolean; write one of {'/'.join(TRUE + FALSE)}")


def flag(parser: argparse._ActionsContainer, name: str, default: bool, help: str) -> None:
    """A boolean option: `--name`, `--name 1`, `--name false` all work."""
    parser.add_argument(name, type=boolean, nargs="?", const=True, default=default, metavar="BOOL", help=f"{help} (default: {default})")


def add_min_confidence(parser: argparse._ActionsContainer) -> None:
    """--min_confidence: None, the default, is what keeps photos of other places out."""
    parser.add_argument(
        "--min_confidence",
        type=_share,
        default=None,
        metavar="P",
        help="refuse poses that are right with a lower probability, 0 to 1; 0: none (default: what keeps photos of other places out)",
    )


def add_max_wrong(parser: argparse._ActionsContainer) -> None:
    """--max_wrong: None, the default, promises nothing."""
    parser.add_argument(
        "--max_wrong",
        type=_share,
        default=None,
        metavar="SHARE",
        help="refuse so many poses that at most this share of photos gets a wrong one, e.g. 0.05 (see confidence). It holds for "
        "photos like those it was calibrated on, whatever their mixture: of the mapping recording, of another day or side, with "
        "simulated changes (night, blur, rain, JPEG, people, longer lens), of other places; see docs/max_wrong.md",
    )


def add_effort(parser: argparse._ActionsContainer, budget_ms: float | None = None) -> None:
    """--effort and --budget_ms, whose default may be a number of milliseconds."""
    from d2s.localization.effort import DEFAULT_EFFORT, LEVELS  # loads torch, which most commands do not need to say what they can

    parser.add_argument(
        "--effort",
        choices=LEVELS,
        default=DEFAULT_EFFORT.level,
        help="what a hard photo is worth: fast: the first answer is the last; auto: more keypoints, single views of the map, the photo "
        "turned, until an answer is sure (default); most: all of them, always",
    )
    parser.add_argument(
        "--budget_ms",
        type=float,
        default=budget_ms,
        metavar="MS",
        help=f"milliseconds since a photo came after which nothing more is tried (default: {budget_ms or 'no limit'})",
    )


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


class _Output(logging.StreamHandler):  # type: ignore[type-arg]  # no subscript before Python 3.11
    """Log lines on stdout. When the reader has gone (`d2s eval | head`), the command ends as other tools do, without a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Logging would print the broken pipe and go on."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            return super().handleError(record)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter's last flush must not fail again
        raise SystemExit(141)  # what a shell says of a tool that SIGPIPE ended


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations and reports wrong use in one line, exit code 2."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print the problem in one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_logging(parser: argparse.ArgumentParser) -> None:
    """The options that every command has."""
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log_level", choices=levels, default="info", help="how much to print; debug adds tracebacks (default: info)")


def run_command(
    prog: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> int:
    """Parse, run, and turn every expected error into one line on stderr and its exit code."""
    parser = Parser(prog=prog, description=description)
    add_arguments(parser)
    add_logging(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(level=args.log_level.upper(), format="%(message)s", handlers=[_Output(sys.stdout)], force=True)
    for noisy in ("matplotlib", "PIL", "h5py", "numba", "websocket", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        return run(args)
    except D2SError as error:
        return _report(prog, error, error.exit_code, args.log_level)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a folder without write access: the user's world, not a defect of ours
        return _report(prog, InputError(f"{type(error).__name__}: {error}"), 2, args.log_level)


def _report(prog: str, error: D2SError, exit_code: int, log_level: str) -> int:
    if log_level == "debug":
        logging.getLogger("d2s").exception("%s", error)
    print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
    return exit_code
