"""Accuracy, size and time of whole runs: preprocess, train and eval of each scene, with the commands that a user would type.

Prints a table and writes the figures that the README states to benchmarks/results/accuracy.json; a row that is measured again replaces
the old one. `--readme` puts the table of that file into the README, measuring nothing. The photos are not part of
the project: --data_dir names the folder that holds 7scenes/, fox/ and gerrard_hall/.

    python benchmarks/accuracy.py --data_dir DIR [--work DIR] [--only redkitchen-sfm …]
    python benchmarks/accuracy.py --readme
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks/accuracy.py --readme -->\n", "<!-- end -->"


@dataclass(frozen=True)
class Case:
    """One row: `preprocess`, `train` and `eval` are further options of the three commands; `list_every` holds out every N-th image."""

    dataset: str
    scene: str
    source: str = ""
    features: str = "sift"
    preprocess: tuple[str, ...] = ()
    train: tuple[str, ...] = ()


KITCHEN = ("7scenes", "redkitchen", "")
REGRESSION = ("--config_file", "configs/regression.ini", "--model", "2")
CASES: dict[str, Case] = {
    "demo": Case("demo", "gallery"),
    "redkitchen-sfm": Case(*KITCHEN, "aliked", ("--gt", "sfm")),
    "redkitchen-original": Case(*KITCHEN, "aliked", ("--gt", "original")),
    "redkitchen-dslam": Case(*KITCHEN, "aliked", ("--gt", "dslam")),
    "redkitchen-sfm-sift": Case(*KITCHEN, "sift", ("--gt", "sfm")),
    "redkitchen-original-sift": Case(*KITCHEN, "sift", ("--gt", "original")),
    "redkitchen-sfm-model2": Case(*KITCHEN, "aliked", ("--gt", "sfm"), REGRESSION),
    "fox": Case("nerfstudio", "fox", "fox", "aliked", ("--test_every", "5")),
    "fox-sift": Case("nerfstudio", "fox", "fox", "sift", ("--test_every", "5")),
    "fox-photos": Case("photos", "fox", "fox/images", "aliked", ("--test_every", "5")),
    "fox-photos-sift": Case("photos", "fox", "fox/images", "sift", ("--test_every", "5")),
    "gerrard": Case("colmap", "gerrard_hall", "gerrard_hall", "aliked"),
    "gerrard-sift": Case("colmap", "gerrard_hall", "gerrard_hall", "sift"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="only write the table into the README")
    parser.add_argument("--data_dir", type=Path, help="folder with 7scenes/, fox/ and gerrard_hall/")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where scenes and runs go (default: benchmark_runs)")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES), help="rows to measure (default: all)")
    args = parser.parse_args(argv)
    if args.readme:
        README.write_text(with_table(README.read_text(encoding="utf-8"), read_json(RESULTS)["rows"]), encoding="utf-8")
        return 0
    if args.data_dir is None:
        parser.error("--data_dir is needed to measure")
    for name in args.only:
        row = measure(name, CASES[name], args.data_dir.resolve(), args.work.resolve())
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        write_json(RESULTS, {"machine": machine(), "rows": {**rows, name: row}})
        print(describe(name, row), flush=True)
    return 0


def measure(name: str, case: Case, data_dir: Path, work: Path) -> dict[str, Any]:
    """The figures of one case; its scene and run go to folders of their own."""
    scenes, runs = work / name / "dataset", work / name / "logs"
    where = ["--dataset", case.dataset, "--scene", case.scene]
    source = [] if case.dataset == "demo" else ["--dataset_dir", str(data_dir / case.source)]
    trained = [*where, "--data_dir", str(scenes), "--log_dir", str(runs), "--name", name]
    commands = {
        "preprocess": [*where, *source, "--out_dir", str(scenes), "--features", case.features, *case.preprocess],
        "train": [*trained, *case.train],
        "eval": trained,
    }
    seconds = {command: run(name, command, options, work) for command, options in commands.items()}
    metrics = read_json(runs / name / "eval" / "metrics.json")
    report = read_json(scenes / case.dataset / case.scene / "report.json")
    state = read_json(runs / name / "state.json")
    return {
        "metrics": metrics,
        "seconds": seconds,
        "labels_per_image": report["labels_per_image"]["median"],
        "preprocess_stages": report["seconds"],
        "model_epoch": state["model_epoch"],
        "options": {"preprocess": list(case.preprocess), "train": list(case.train)},
    }


def run(name: str, command: str, options: list[str], work: Path) -> float:
    """Wall seconds of one command; its output goes to a log file in the work folder."""
    log = work / name / f"{command}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        call = [sys.executable, "-m", "d2s", command, *options]
        code = subprocess.run(call, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        end = log.read_text(encoding="utf-8")[-800:]
        raise SystemExit(f"{name}: d2s {command} ended with {code}; see {log}:\n{end}")
    return round(time.monotonic() - started, 1)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"threads": torch.get_num_threads(), "cuda": torch.cuda.is_available(), **versions}


def accuracy_of(metrics: dict[str, Any]) -> tuple[str, str]:
    """Median error, and recall within 5 cm, 5 degrees; without a scale both are relative to the extent of the camera path (1 %)."""
    metric = metrics["units"] == "metres"
    recall = metrics["recall"]["5cm5deg"] if metric else metrics["recall_relative"]["1%5deg"]
    if metrics["median_t"] is None:
        return "not localized", f"{100 * recall:.1f} %"
    error = f"{metrics['median_t_cm']:.2f} cm" if metric else f"{100 * metrics['median_t_relative']:.3f} %"
    return f"{error}, {metrics['median_r_deg']:.2f}°", f"{100 * recall:.1f} %"


def describe(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    metrics = row["metrics"]
    error, recall = accuracy_of(metrics)
    return (
        f"{name:<26} {error}, {recall}, {metrics['n_failed']}/{metrics['n_queries']} failed, {metrics['map_bytes'] / 1e6:.1f} MB, "
        f"train {metrics['train_seconds']:.0f} s, query {metrics['ms']['total']:.0f} ms, {row['seconds']}"
    )


def with_table(text: str, rows: dict[str, Any]) -> str:
    """The README with the table of the given rows between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table(rows) + END + rest.split(END, 1)[1]


def table(rows: dict[str, Any]) -> str:
    """The README's table, in the order of CASES."""
    head = "| scene | features | median error | within 5 cm, 5° | map | preprocess | train | query |\n|---|---|---|---|---|---|---|---|\n"
    return head + "".join(_table_row(name, rows[name]) for name in CASES if name in rows)


def _table_row(name: str, row: dict[str, Any]) -> str:
    metrics, case = row["metrics"], CASES[name]
    error, recall = accuracy_of(metrics)
    cells = [
        name,
        case.features,
        error,
        recall,
        f"{metrics['map_bytes'] / 1e6:.1f} MB",
        # The stages' own seconds: where an earlier run made the scene, the command had nothing to do.
        f"{sum(row['preprocess_stages'].values()):.0f} s",
        f"{metrics['train_seconds']:.0f} s",
        f"{metrics['ms']['total']:.0f} ms",
    ]
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    sys.exit(main())
