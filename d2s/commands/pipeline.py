"""Preprocess, train and evaluate in one command; without --dataset: the demo scene. Each stage gets those of the options that it has."""

from __future__ import annotations

import argparse
import importlib
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2s.cli import COMMANDS, run_module
from d2s.commands.options import Parser, add_logging
from d2s.errors import InputError

logger = logging.getLogger(__name__)

STAGES = ("preprocess", "train", "eval")

OWNER = {"--checkpoint": "train"}
"""Options that mean something else in another stage -> the one stage that gets them."""

ALIASES = {"--out_dir": "--data_dir", "--data_dir": "--out_dir"}
"""What one stage writes the others read, under another name: the folder of the scenes."""

DEMO = {"--dataset": ["demo"], "--scene": ["gallery"], "--name": ["demo"]}
"""What is mapped when the user names nothing."""

Given = list[tuple[str, list[str]]]
"""Options as the user gave them: name, values."""


class _Collect(argparse.Action):
    """Notes an option and its values as text; the stage that the option belongs to checks and converts them."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        texts = [] if values is None else [values] if isinstance(values, str) else list(values)
        given = vars(namespace).setdefault("given", [])
        given.append((self.option_strings[-1] if option_string is None else option_string, texts))


def stage_parser(stage: str) -> Parser:
    """The parser of one stage, as its own command builds it."""
    parser = Parser(prog=f"d2s {stage}")
    importlib.import_module(COMMANDS[stage][0]).add_arguments(parser)
    add_logging(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of all stages, each once."""
    seen = {"-h", "--help", "--log_level"}
    for stage in STAGES:
        group = parser.add_argument_group(f"options of d2s {stage}")
        for action in _actions(stage_parser(stage)):
            new = [name for name in action.option_strings if name not in seen]
            if new:
                seen.update(new)
                shown: dict[str, Any] = {"default": action.default, "metavar": _metavar(action), "help": action.help}
                group.add_argument(*new, action=_Collect, nargs=action.nargs, dest=action.dest, **shown)


def run(args: argparse.Namespace) -> int:
    """Check every stage's options, then run the stages; the first that fails ends it with its exit code."""
    given = with_scene(with_demo(getattr(args, "given", [])))
    _require_one_folder(given)
    commands = [(stage, [*stage_arguments(stage, given), "--log_level", args.log_level]) for stage in STAGES]
    for stage, arguments in commands:
        stage_parser(stage).parse_args(arguments)
    started = time.monotonic()
    for number, (stage, arguments) in enumerate(commands, start=1):
        print(f"\n== {number}/{len(commands)}: d2s {stage} {shlex.join(arguments)}", flush=True)
        code = run_module(stage, arguments)
        if code:
            return code
    print(f"\nAll stages done in {time.monotonic() - started:.0f} s.", flush=True)
    return 0


def with_demo(given: Given) -> Given:
    """Add the demo scene where no data set is named. Raises InputError when the rest names one all the same."""
    names = {name for name, _ in given}
    if "--dataset" in names:
        return given
    alone = sorted(names & {"--scene", "--dataset_dir"})
    if alone:
        raise InputError(f"{' and '.join(alone)} without --dataset.", "Name the data set's format, too.")
    return [*((name, values) for name, values in DEMO.items() if name not in names), *given]


def with_scene(given: Given) -> Given:
    """Name the scene after the folder of the data, as d2s preprocess does by itself: the later stages must be told."""
    options = dict(given)
    if "--scene" in options or not options.get("--dataset_dir"):
        return given
    return [*given, ("--scene", [Path(options["--dataset_dir"][-1]).resolve().name])]


def stage_arguments(stage: str, given: Given) -> list[str]:
    """The command line of one stage: those of the given options that it has."""
    has = {name for action in _actions(stage_parser(stage)) for name in action.option_strings}
    arguments: list[str] = []
    for name, values in given:
        own = name if name in has else ALIASES.get(name, name)
        if own in has and OWNER.get(own, stage) == stage:
            arguments += _as_text(own, values)
    return arguments


def _require_one_folder(given: Given) -> None:
    folders = {name: values for name, values in given if name in ALIASES}
    if len(folders) > 1 and folders["--out_dir"] != folders["--data_dir"]:
        raise InputError("--out_dir and --data_dir name the same folder here, but differ.", "Give one of them.")


def _as_text(name: str, values: Sequence[str]) -> list[str]:
    """`--name=value` for one value, so that a value may begin with a dash."""
    return [f"{name}={values[0]}"] if len(values) == 1 and name.startswith("--") else [name, *values]


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings and not isinstance(action, argparse._HelpAction)]


def _metavar(action: argparse.Action) -> str | tuple[str, ...] | None:
    if action.metavar is None and action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.metavar
