"""Does a map get better from photos whose poses nobody measured?

A map of the red kitchen is made from the first half of its sequence. Unlabelled frames of the second half then update it, with labels
transferred from the map (`transfer`), and with points added that only they see (`extended`). Every variant is trained from scratch for the
same number of steps and evaluated on the same held-out frames of both halves, which are in no map and in no list of unlabelled frames.

Prints a table and writes benchmarks/results/self_update.json; a row that is measured again replaces the old one. The photos are not part
of the project: --data_dir names the folder that holds 7scenes/.

    python benchmarks/self_update.py --data_dir DIR [--work DIR] [--only model3-before …] [--set section.key=value …]
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "self_update.json"
MIDDLE = 550
"""Frame number between the two halves; the photos at hand lack 500 to 599."""
HALVES = {"first half": range(MIDDLE), "second half": range(MIDDLE, 1000)}
RECALLS = {"5cm5deg": (5.0, 5.0), "2cm2deg": (2.0, 2.0), "1cm1deg": (1.0, 1.0)}


@dataclass(frozen=True)
class Case:
    """One row: which photos without labels are used ("" for none), and the recipe."""

    update: str
    train: tuple[str, ...]


REGRESSION = ("--config_file", "configs/regression.ini", "--model", "2")
UPDATES = {"before": "", "transfer": "transfer", "extended": "extended"}
CASES = {
    f"{model}-{name}": Case(update, options)
    for model, options in (("model3", ()), ("model2", REGRESSION))
    for name, update in UPDATES.items()
}
UNLABEL = {"transfer": (), "extended": ("--unlabel_extend_map",)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with 7scenes/")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs/self_update"), help="where scenes and runs go")
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES), help="rows to measure (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", help="further settings of every training")
    args = parser.parse_args(argv)
    work = args.work.resolve()
    lists = write_lists(args.data_dir / "7scenes" / "redkitchen", work / "lists")
    for name in args.only:
        row = measure(name, CASES[name], args.data_dir.resolve(), work, lists, args.set)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        write_json(RESULTS, {"rows": {**rows, name: row}})
        print(describe(name, row), flush=True)
    return 0


def frame(name: str) -> int:
    """The number in `seq-01/frame-000123.color.jpg`."""
    return int(Path(name).name.removeprefix("frame-")[:6])


def write_lists(scene: Path, folder: Path) -> dict[str, Path]:
    """Split the training list: the first half is mapped, the second half is without labels. The test list holds frames of both."""
    names = (scene / "list_train.txt").read_text(encoding="utf-8").split()
    halves = {"train": [n for n in names if frame(n) < MIDDLE], "unlabel": [n for n in names if frame(n) >= MIDDLE]}
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in halves.items():
        (folder / f"{part}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return {"train": folder / "train.txt", "unlabel": folder / "unlabel.txt", "test": scene / "list_test.txt"}


def measure(name: str, case: Case, data_dir: Path, work: Path, lists: dict[str, Path], settings: Sequence[str]) -> dict[str, Any]:
    """The figures of one row; the scene is mapped once, and copied before it is updated."""
    where = ["--dataset", "7scenes", "--scene", "redkitchen"]
    source = [*where, "--dataset_dir", str(data_dir), "--gt", "sfm", "--features", "aliked"]
    source += ["--list_train", str(lists["train"]), "--list_test", str(lists["test"])]
    scenes = work / (case.update or "before") / "dataset"
    base = work / "before" / "dataset"
    run("preprocess", [*source, "--out_dir", str(base)], work / name)
    if case.update:
        if not scenes.exists():
            shutil.copytree(base, scenes)
        update = ["--process_unlabel_data", "--list_unlabel", str(lists["unlabel"]), *UNLABEL[case.update]]
        run("preprocess", [*source, "--out_dir", str(scenes), *update], work / name)
    trained = [*where, "--data_dir", str(scenes), "--log_dir", str(work / "logs"), "--name", name]
    steps = [option for setting in ("training.max_minutes=0", *settings) for option in ("--set", setting)]
    run("train", [*trained, *case.train, *steps, *(["--unlabel"] if case.update else [])], work / name)
    run("eval", trained, work / name)
    folder = scenes / "7scenes" / "redkitchen"
    return {
        "update": case.update or None,
        "options": [*case.train, *steps],
        "halves": scores(work / "logs" / name / "eval" / "per_image.csv"),
        "map_bytes": read_json(work / "logs" / name / "eval" / "metrics.json")["map_bytes"],
        "unlabelled": unlabelled(folder / "unlabel" / "report.json") if case.update else None,
    }


def run(command: str, options: Sequence[str], folder: Path) -> None:
    """One command; its output goes to a log file."""
    log = folder / f"{command}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        call = [sys.executable, "-m", "d2s", command, *options]
        code = subprocess.run(call, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        raise SystemExit(f"d2s {command} ended with {code}; see {log}:\n{log.read_text(encoding='utf-8')[-800:]}")


def scores(path: Path) -> dict[str, dict[str, Any]]:
    """Median errors and recalls of the held-out frames of each half; a frame that was not localized counts as an infinite error."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {half: _scores([row for row in rows if frame(row["name"]) in frames]) for half, frames in HALVES.items()}


def _scores(rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    t, r = (np.array([float(row[key]) if row["success"] == "1" else np.inf for row in rows]) for key in ("t_cm", "r_deg"))
    median_t, median_r = (float(value) if np.isfinite(value) else None for value in (np.median(t), np.median(r)))
    recall = {name: float(((t <= cm) & (r <= deg)).mean()) for name, (cm, deg) in RECALLS.items()}
    failed = int(np.isinf(t).sum())
    return {"frames": len(rows), "failed": failed, "median_t_cm": median_t, "median_r_deg": median_r, "recall": recall}


def unlabelled(path: Path) -> dict[str, Any]:
    """What became of the unlabelled frames."""
    report = read_json(path)
    return {key: report[key] for key in ("photos", "labelled", "labels_per_image", "extension")}


def describe(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    cells = []
    for half, found in row["halves"].items():
        median = "not localized" if found["median_t_cm"] is None else f"{found['median_t_cm']:.2f} cm, {found['median_r_deg']:.2f} deg"
        recall = ", ".join(f"{100 * value:.0f} % {threshold}" for threshold, value in found["recall"].items())
        cells.append(f"{half}: {median}, {recall}")
    return f"{name:<18} {'; '.join(cells)}"


if __name__ == "__main__":
    sys.exit(main())
