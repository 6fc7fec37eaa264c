"""The documentation against the project: links lead somewhere, commands have the options that are written, pages say what exists."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from d2s.cli import COMMANDS
from d2s.commands import pipeline
from d2s.commands.options import Parser, add_logging

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
EXPECTED = (
    "README",
    "benchmark",
    "d2net",
    "datasets",
    "design_decisions",
    "design_decisions_data",
    "experiments",
    "extra_images",
    "features",
    "file_formats",
    "first_map",
    "hloc",
    "latency",
    "localizing",
    "loose_parts",
    "method",
    "onnx",
    "own_data",
    "own_photos",
    "public_datasets",
    "published_defects",
    "refined_poses",
    "run_formats",
    "self_update",
    "service",
    "trust",
    "watching",
)

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:d2s|python|sh) [^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.MULTILINE)

SCRIPTS = {"train.py": "train", "eval.py": "eval", "processing/preprocessing.py": "preprocess", "preprocessing.py": "preprocess"}
"""Scripts that are a command under another name."""

MADE = ("d2s/configs/",)
"""Paths that exist only where something was built."""

OTHER_PROGRAMS = {"--nproc_per_node", "--output-format"}
"""Options of programs that are not ours."""

PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")


def blocks(text: str) -> Iterator[str]:
    yield from (match[1] for match in FENCE.finditer(text))


def commands(text: str) -> Iterator[list[str]]:
    """Words of every command line in the fenced blocks that calls this project: `d2s …`, `python FILE …`, `sh run_train_eval.sh …`."""
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?(d2s|python3?|sh) ", line):
                yield shlex.split(line.strip().removeprefix("$ "), comments=True)


def as_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Command and its arguments; None for a program that is not one of our commands."""
    program, *rest = words
    if program == "d2s":
        return rest[0], rest[1:]
    if program == "sh" and rest[0] == "run_train_eval.sh":
        return "pipeline", rest[1:]
    if program.startswith("python") and rest[:2] == ["-m", "d2s"]:
        return rest[2], rest[3:]
    if program.startswith("python") and rest[0] in SCRIPTS:
        return SCRIPTS[rest[0]], rest[1:]
    return None


def parser_of(command: str) -> Parser:
    parser = Parser(prog=f"d2s {command}")
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    add_logging(parser)
    return parser


def with_values(parser: argparse.ArgumentParser, arguments: list[str]) -> list[str]:
    """The arguments with a value that fits in the place of every PLACEHOLDER of a typed option or one with choices."""
    actions = {name: action for action in parser._actions for name in action.option_strings}
    filled = list(arguments)
    for index, word in enumerate(arguments[1:], start=1):
        action = actions.get(arguments[index - 1])
        if action is not None and PLACEHOLDER.fullmatch(word):
            if action.choices:
                filled[index] = str(next(iter(action.choices)))
            elif action.type in (int, float):
                filled[index] = "1"
    return filled


def check(command: str, arguments: list[str]) -> None:
    """Exits (SystemExit) where the command does not have what is written."""
    assert command in COMMANDS, f"d2s has no command {command}"
    if arguments == ["--help"]:
        return
    parser = parser_of(command)
    args = parser.parse_args(with_values(parser, arguments))
    if command == "pipeline":  # its own parser takes any value: the stages check them
        given = pipeline.with_scene(pipeline.with_demo(getattr(args, "given", [])))
        for stage in pipeline.STAGES:
            own = parser_of(stage)
            own.parse_args(with_values(own, pipeline.stage_arguments(stage, given)))


def written_commands() -> list[object]:
    found = [(page, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    return [pytest.param(words, id=f"{page.name}: {' '.join(words)[:90]}") for page, words in found if as_command(words)]


@pytest.mark.parametrize("words", written_commands())
def test_written_commands_have_these_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = as_command(words)
    assert command is not None
    try:
        check(*command)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def test_the_unit_of_systemd_starts_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.*)$", page, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert Path(program).is_absolute() and Path(program).name == "d2s" and arguments[0] == "serve"
    check(arguments[0], arguments[1:])


class Parsed(Exception):
    """A script has understood its arguments."""


def parse_script(path: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where it has parsed its arguments. Exits (SystemExit) where it does not take them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[call-overload]
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "path", [str((ROOT / path).parent), *sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / path), run_name="__main__")


def written_scripts() -> list[object]:
    found = [(page, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    scripts = [(page, words) for page, words in found if as_command(words) is None and words[0] == "python" and words[1].endswith(".py")]
    return [pytest.param(words[1], words[2:], id=f"{page.name}: {' '.join(words)[:90]}") for page, words in scripts]


@pytest.mark.parametrize(("path", "arguments"), written_scripts())
def test_written_scripts_take_these_arguments(path: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_script(path, arguments, monkeypatch)


def test_the_check_of_scripts_sees_wrong_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_script("processing/preprocess_custom_data.py", ["--list_test", "queries.txt", "--nonsense"], monkeypatch)
    assert "--nonsense" in capsys.readouterr().err


def all_parsers(command: str) -> list[argparse.ArgumentParser]:
    """The parser of a command and those of its actions."""
    parser = parser_of(command)
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(one for action in actions for one in action.choices.values())]


def options_of(command: str) -> dict[str, argparse.Action]:
    return {name: action for parser in all_parsers(command) for action in parser._actions for name in action.option_strings}


def inline_commands(text: str) -> list[str]:
    """Commands in running text and in tables, often without what does not matter there."""
    return [" ".join(span.split()) for span in INLINE.findall(FENCE.sub("", text))]


def wrong_in(words: list[str]) -> list[str]:
    """Options and values of an abbreviated command that do not exist."""
    command = as_command(words)
    if command is None:
        return []
    name, arguments = command
    if name in ("--help", "--version"):
        return []
    if name not in COMMANDS:
        return [name]
    if name == "pipeline":
        known = {option: action for stage in pipeline.STAGES for option, action in options_of(stage).items()}
    else:
        known = options_of(name)
    wrong = [word for word in arguments if word.startswith("--") and word not in {*known, "--help"}]
    pairs = [(known[word], value) for word, value in zip(arguments, arguments[1:], strict=False) if word in known]
    fixed = [(action, value) for action, value in pairs if action.choices and not PLACEHOLDER.fullmatch(value)]
    return wrong + [value for action, value in fixed if action.type in (None, str) and value not in (action.choices or ())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_running_text_have_these_options(page: Path) -> None:
    for span in inline_commands(page.read_text(encoding="utf-8")):
        words = shlex.split(re.sub(r"…|\.\.\.(?=\s|$)", "", span))
        assert not wrong_in(words), span


def test_the_check_of_running_text_sees_what_does_not_exist() -> None:
    (span,) = inline_commands("so `d2s eval --nonsense --pnp\nnothing --epoch` and `d2s.errors`")
    assert wrong_in(shlex.split(span)) == ["--nonsense", "nothing"]
    assert wrong_in(["d2s", "nonsense"]) == ["nonsense"] and not wrong_in(["d2s", "eval", "--pnp", "BACKEND"])


def all_options() -> set[str]:
    ours = {option for command in COMMANDS for option in options_of(command)}
    folders = [ROOT / name for name in ("benchmarks", "processing", "scripts")]
    scripts = [path for folder in folders for path in folder.iterdir() if path.suffix in (".py", ".sh")]
    return ours | OTHER_PROGRAMS | {option for path in scripts for option in OPTION.findall(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_that_are_named_exist(page: Path) -> None:
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    named = {option for span in spans for option in OPTION.findall(span) if not option.endswith("_")}
    assert not named - all_options()


def scripts_named() -> list[object]:
    found = [(page, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    paths = [(page, next((word for word in words[1:] if re.search(r"\.(py|sh)$", word)), None)) for page, words in found]
    return [pytest.param(path, id=f"{page.name}: {path}") for page, path in paths if path]


@pytest.mark.parametrize("path", scripts_named())
def test_written_scripts_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def anchors(text: str) -> set[str]:
    """The names under which GitHub makes the headings of a page reachable."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = "".join(letter for letter in words if letter.isalnum() or letter in " -_").replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file is missing, or whose heading is."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "third_party" / "README.md"], ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    assert not broken_links(page)


def test_the_check_sees_broken_links(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A page\n## For `other` programs: 5 cm, 5\n## A page\n```\n# no heading\n```\n", encoding="utf-8")
    good = (
        "[a](other.md) [b](other.md#a-page) [c](other.md#a-page-1) [d](other.md#for-other-programs-5-cm-5) [e](#here) [f](https://x.org/y)"
    )
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n{good}\n[g](gone.md) [h](other.md#no-heading) [i](#there)\n", encoding="utf-8")
    assert broken_links(page) == ["gone.md", "other.md#no-heading", "#there"]


@pytest.mark.parametrize("name", EXPECTED)
def test_pages_exist_and_are_short(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.split()) < 1800, "five minutes are enough for a page"


def test_files_named_in_code_style_exist() -> None:
    """`d2s/…`, `processing/…` and so on between backticks are files or folders of this project."""
    named = re.compile(r"`((?:d2s|processing|configs|scripts|tests|benchmarks|docs|third_party)/[\w./-]+)`")
    pages = [page for page in PAGES if page.name != "README.md"]
    written = {(page.name, name) for page in pages for name in named.findall(page.read_text(encoding="utf-8"))}
    assert not {(page, name) for page, name in written if not (ROOT / name).exists() and name not in MADE}


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nd2s train --scene x --nonsense 1\n```",
        "```\npython train.py --scene x --model 9\n```",
        "```\nd2s nonsense --model a=b\n```",
        "```\nsh run_train_eval.sh --nonsense\n```",
        "```\nsh run_train_eval.sh --dataset 7scenes --scene x --model 9\n```",
        "```sh\nd2s eval \\\n  --scene x --pnp nothing\n```",
    ],
    ids=["unknown option", "unknown model", "unknown command", "unknown option of a stage", "wrong value of a stage", "wrong choice"],
)
def test_the_check_sees_wrong_commands(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = commands(text)
    command = as_command(words)
    assert command is not None
    with pytest.raises((SystemExit, AssertionError)):
        check(*command)


def test_the_check_takes_placeholders_and_comments() -> None:
    (words,) = commands("```sh\nd2s eval --scene SCENE --epoch EPOCH --pnp BACKEND --uncer_thres T   # says how well\n```")
    check(*(as_command(words) or ("", [])))
