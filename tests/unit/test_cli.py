"""The command line from outside: help, unknown commands and options, the entry points beside `d2s`."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import d2s
from d2s import cli

ROOT = Path(__file__).resolve().parents[2]


def exit_code(*argv: str) -> int:
    """What the process would exit with, whether argparse left or the command returned."""
    try:
        return cli.main(argv)
    except SystemExit as left:
        return int(left.code or 0)


def test_help_lists_every_command_and_loads_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; from d2s.cli import main; code = main(['--help']); sys.exit(code or 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out.strip() == d2s.__version__


@pytest.mark.parametrize("argv", [(), ("no_such_command",)])
def test_no_or_unknown_command_is_wrong_use(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*argv) == 2
    text = "".join(capsys.readouterr())
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_for_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--help") == 0
    assert "--log_level" in capsys.readouterr().out
    parser = importlib.import_module("d2s.commands.options").Parser()
    importlib.import_module(cli.COMMANDS[command][0]).add_arguments(parser)
    assert not [action.option_strings for action in parser._actions if not action.help]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_unknown_options_are_one_line_and_exit_code_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(command, "--no_such_option") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"d2s {command}: ") and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(
    ("script", "folder"),
    [("train.py", None), ("eval.py", None), ("processing/preprocessing.py", "processing"), ("processing/preprocessing.py", None)],
)
def test_scripts_run_from_any_folder(script: str, folder: str | None, tmp_path: Path) -> None:
    where = ROOT / folder if folder else tmp_path
    result = subprocess.run([sys.executable, ROOT / script, "--scene"], cwd=where, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stderr
    assert "--scene: expected one argument" in result.stderr and result.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_ends_the_command_quietly() -> None:
    program = """
import logging, sys
from d2s.commands.options import run_command
def talk(args):
    for number in range(100_000):
        logging.getLogger("d2s").info("line %d", number)
    return 0
sys.exit(run_command("d2s talk", lambda parser: None, talk, []))
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=300) == 141
