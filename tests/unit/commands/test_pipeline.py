"""`d2s pipeline`: each stage gets exactly its own options, and nothing starts before all are checked."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable

import pytest

from d2s import cli
from d2s.commands import pipeline
from d2s.commands.options import flag


def preprocess_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=("demo", "7scenes"), required=True)
    parser.add_argument("--scene", default="")
    parser.add_argument("--dataset_dir")
    parser.add_argument("--out_dir", default="dataset")
    parser.add_argument("--gt", choices=("original", "sfm"), default="original", help="which poses (default: %(default)s)")
    flag(parser, "--overwrite", False, "start anew")


def train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="7scenes")
    parser.add_argument("--scene", required=True)
    parser.add_argument("--data_dir", default="dataset")
    parser.add_argument("--name")
    parser.add_argument("--cudaid", type=int)
    parser.add_argument("--checkpoint", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--max_minutes", type=float)


def eval_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="7scenes")
    parser.add_argument("--scene", required=True)
    parser.add_argument("--data_dir", default="dataset")
    parser.add_argument("--name")
    parser.add_argument("--cudaid", type=int)
    parser.add_argument("--checkpoint", help="a file")
    parser.add_argument("--single", action="store_true")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "preprocess": preprocess_arguments,
    "train": train_arguments,
    "eval": eval_arguments,
}


class Stages:
    """Stand-ins for the stages: what each was given, and the exit code that it returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, argparse.Namespace]] = []
        self.codes = dict.fromkeys(ARGUMENTS, 0)
        for name, add_arguments in ARGUMENTS.items():
            module = types.ModuleType(f"stand_in_{name}")
            module.add_arguments = add_arguments  # type: ignore[attr-defined]
            module.run = self._runner(name)  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            monkeypatch.setitem(cli.COMMANDS, name, (module.__name__, ""))

    def _runner(self, name: str) -> Callable[[argparse.Namespace], int]:
        def run(args: argparse.Namespace) -> int:
            self.ran.append((name, args))
            return self.codes[name]

        return run

    def names(self) -> list[str]:
        return [name for name, _ in self.ran]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    return Stages(monkeypatch)


def pipeline_main(*argv: str) -> int:
    """The exit code, whether argparse left or the command returned."""
    try:
        return cli.main(["pipeline", *argv])
    except SystemExit as left:
        return int(left.code or 0)


def test_without_options_the_demo_runs_through_all_stages(stages: Stages) -> None:
    assert pipeline_main() == 0
    assert stages.names() == ["preprocess", "train", "eval"]
    assert {(args.dataset, args.scene) for _, args in stages.ran} == {("demo", "gallery")}
    assert [args.name for name, args in stages.ran if name != "preprocess"] == ["demo", "demo"]
    assert stages.ran[1][1].set == [], "the demo is what users get with their own scenes"


def test_the_demo_takes_other_options_as_well(stages: Stages) -> None:
    assert pipeline_main("--max_minutes", "9", "--name", "mine") == 0
    assert (stages.ran[1][1].max_minutes, stages.ran[1][1].name, stages.ran[1][1].scene) == (9, "mine", "gallery")


def test_every_stage_gets_exactly_its_own_options(stages: Stages) -> None:
    given = "--dataset 7scenes --scene redkitchen --dataset_dir /photos --gt sfm --overwrite --single --set a.b=1 --set c.d=-2"
    assert pipeline_main(*given.split(), "--name=-odd", "--cudaid", "-1") == 0
    preprocess, train, evaluation = (args for _, args in stages.ran)
    assert (preprocess.dataset_dir, preprocess.gt, preprocess.overwrite, preprocess.scene) == ("/photos", "sfm", True, "redkitchen")
    assert (train.set, train.name, train.cudaid) == (["a.b=1", "c.d=-2"], "-odd", -1)
    assert (evaluation.single, evaluation.name, evaluation.cudaid) == (True, "-odd", -1)
    assert not hasattr(preprocess, "cudaid") and not hasattr(train, "single") and not hasattr(evaluation, "gt")


def test_booleans_keep_their_value(stages: Stages) -> None:
    assert pipeline_main("--overwrite", "false") == 0
    assert stages.ran[0][1].overwrite is False


@pytest.mark.parametrize("option", ["--data_dir", "--out_dir"])
def test_the_folder_of_the_scenes_is_one(stages: Stages, option: str) -> None:
    assert pipeline_main(option, "/scenes") == 0
    preprocess, train, evaluation = (args for _, args in stages.ran)
    assert (preprocess.out_dir, train.data_dir, evaluation.data_dir) == ("/scenes",) * 3


def test_two_folders_of_the_scenes_are_refused(stages: Stages, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline_main("--data_dir", "a", "--out_dir", "b") == 2
    assert "differ" in capsys.readouterr().err
    assert not stages.ran


def test_a_checkpoint_is_the_one_to_train_from(stages: Stages) -> None:
    assert pipeline_main("--checkpoint", "3") == 0
    assert stages.ran[1][1].checkpoint == 3
    assert stages.ran[2][1].checkpoint is None


def test_log_level_reaches_every_stage(stages: Stages) -> None:
    assert pipeline_main("--log_level", "warning") == 0
    assert [args.log_level for _, args in stages.ran] == ["warning"] * 3


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--no_such_option", "1"], "--no_such_option"),
        (["--gt", "guessed"], "--gt"),  # preprocess's choices
        (["--cudaid", "first"], "--cudaid"),  # train's type
        (["--dataset", "7scenes"], "--scene"),  # required by train
        (["--scene", "redkitchen"], "--dataset"),
        (["--dataset_dir", "/photos"], "--dataset"),
        (["stray"], "stray"),
    ],
)
def test_wrong_use_is_one_line_before_anything_starts(
    stages: Stages, capsys: pytest.CaptureFixture[str], argv: list[str], named: str
) -> None:
    assert pipeline_main(*argv) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert not stages.ran


@pytest.mark.parametrize(("failing", "ran"), [("preprocess", 1), ("train", 2), ("eval", 3)])
def test_the_first_failure_ends_it_with_its_exit_code(stages: Stages, failing: str, ran: int) -> None:
    stages.codes[failing] = 7
    assert pipeline_main() == 7
    assert len(stages.ran) == ran


def test_help_lists_the_options_of_all_stages_once(stages: Stages, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline_main("--help") == 0
    text = capsys.readouterr().out
    assert "which poses (default: original)" in text
    assert text.count("\n  --scene ") == 1
    assert all(option in text for option in ("--gt", "--set", "--single", "--overwrite"))


def test_options_that_stages_share_mean_the_same_in_each() -> None:
    """A new option of a real stage that clashes with another stage's must be named in `pipeline.OWNER`."""
    seen: dict[str, tuple[object, ...]] = {}
    for stage in pipeline.STAGES:
        for action in pipeline._actions(pipeline.stage_parser(stage)):
            for name in set(action.option_strings) - set(pipeline.OWNER):
                form = (action.nargs, action.type, type(action))
                assert seen.setdefault(name, form) == form, f"{name} of d2s {stage}"


def test_the_scene_is_named_after_the_folder_of_the_data():
    given = [("--dataset", ["photos"]), ("--dataset_dir", ["some/where/kitchen/"])]
    assert dict(pipeline.with_scene(given))["--scene"] == ["kitchen"]
    named = [*given, ("--scene", ["mine"])]
    assert pipeline.with_scene(named) == named
    assert pipeline.with_scene([("--dataset", ["7scenes"])]) == [("--dataset", ["7scenes"])]
