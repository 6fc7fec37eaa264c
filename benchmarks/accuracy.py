"""Accuracy, size and time of whole runs: preprocess, train and eval of each scene, with the commands that a user would type.

Prints a table and writes the figures that the README states to benchmarks/results/accuracy.json; a row that is measured again replaces
the old one. `--readme` puts the table of that file into the README, measuring nothing. The photos are not part of
the project: --data_dir names the folder that holds 7scenes/, fox/ and gerrard_hall/.

Beside each row stand what it has to beat on the same features and labels (`benchmarks/baselines.py`), and with several seeds the spread.

    python benchmarks/accuracy.py --data_dir DIR [--work DIR] [--only redkitchen-sfm …] [--seeds 0 1 2]
    python benchmarks/accuracy.py --only demo stairs
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
from processing.adapters.base import AdapterOptions
from processing.adapters.lists import DEFAULT_TEST_EVERY
from processing.adapters.table import load_source

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbour is found either way
import baselines
from accuracy_table import accuracy_of, describe_brief, with_table

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Case:
    """One row: `preprocess` and `train` are further options of these commands; of the mapping images only every `keep`-th is kept."""

    dataset: str
    scene: str
    source: str = ""
    features: str = "sift"
    preprocess: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    keep: int = 1


KITCHEN = ("7scenes", "redkitchen", "")
REGRESSION = ("--config_file", "configs/regression.ini", "--model", "2")
PUBLISHED = ("--config_file", "configs/configsV2.ini", "--model", "2", "--max_minutes", "1")
PUBLISHED_1 = ("--config_file", "configs/configsV1.ini", "--model", "1", "--max_minutes", "1")
CASES: dict[str, Case] = {
    "demo": Case("demo", "gallery"),
    "stairs": Case("demo", "stairs"),
    "museum": Case("demo", "museum"),
    "redkitchen-sfm": Case(*KITCHEN, "aliked", ("--gt", "sfm")),
    "redkitchen-original": Case(*KITCHEN, "aliked", ("--gt", "original")),
    "redkitchen-dslam": Case(*KITCHEN, "aliked", ("--gt", "dslam")),
    "redkitchen-sfm-sift": Case(*KITCHEN, "sift", ("--gt", "sfm")),
    "redkitchen-original-sift": Case(*KITCHEN, "sift", ("--gt", "original")),
    "redkitchen-sfm-published": Case(*KITCHEN, "aliked", ("--gt", "sfm"), PUBLISHED),
    "redkitchen-sfm-model1": Case(*KITCHEN, "aliked", ("--gt", "sfm"), PUBLISHED_1),
    "redkitchen-sfm-model2": Case(*KITCHEN, "aliked", ("--gt", "sfm"), REGRESSION),
    "fox": Case("nerfstudio", "fox", "fox", "aliked", ("--test_every", "5")),
    "fox-disk": Case("nerfstudio", "fox", "fox", "disk", ("--test_every", "5")),
    "fox-sift": Case("nerfstudio", "fox", "fox", "sift", ("--test_every", "5")),
    "fox-photos": Case("photos", "fox", "fox/images", "aliked", ("--test_every", "5")),
    "fox-photos-sift": Case("photos", "fox", "fox/images", "sift", ("--test_every", "5")),
    "gerrard": Case("colmap", "gerrard_hall", "gerrard_hall", "aliked"),
    "gerrard-superpoint": Case("colmap", "gerrard_hall", "gerrard_hall", "superpoint"),
    "gerrard-sift": Case("colmap", "gerrard_hall", "gerrard_hall", "sift"),
    "redkitchen-sfm-thin": Case(*KITCHEN, "aliked", ("--gt", "sfm"), keep=20),
    "fox-thin": Case("nerfstudio", "fox", "fox", "aliked", ("--test_every", "5"), keep=4),
    "gerrard-thin": Case("colmap", "gerrard_hall", "gerrard_hall", "aliked", keep=4),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen cases one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="only write the table into the README")
    parser.add_argument("--data_dir", type=Path, help="folder with 7scenes/, fox/ and gerrard_hall/; rendered places need none")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where scenes and runs go (default: benchmark_runs)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,), help="seeds to train with; the figures are those of the first")
    rows_help = f"rows to measure (default: all): {', '.join(CASES)}"
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES), metavar="ROW", help=rows_help)
    args = parser.parse_args(argv)
    if args.readme:
        features = {name: case.features for name, case in CASES.items()}
        README.write_text(with_table(README.read_text(encoding="utf-8"), read_json(RESULTS)["rows"], features), encoding="utf-8")
        return 0
    needy = [name for name in args.only if CASES[name].dataset != "demo"]
    if args.data_dir is None and needy:
        parser.error(f"--data_dir is needed to measure {needy[0]}")
    for name in args.only:
        row = measure(name, CASES[name], (args.data_dir or Path()).resolve(), args.work.resolve(), args.seeds)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        write_json(RESULTS, {"machine": machine(), "rows": {**rows, name: row}})
        print(describe(name, row), flush=True)
    return 0


def measure(name: str, case: Case, data_dir: Path, work: Path, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
    """The figures of one case; its scene and runs go to folders of their own."""
    scenes, runs = work / name / "dataset", work / name / "logs"
    where = ["--dataset", case.dataset, "--scene", case.scene]
    source = [] if case.dataset == "demo" else ["--dataset_dir", str(data_dir / case.source)]
    preprocess = [*where, *source, "--out_dir", str(scenes), "--features", case.features, *case.preprocess]
    if case.keep > 1:
        preprocess += thin_lists(case, data_dir, work / name)
    seconds = {"preprocess": run(name, "preprocess", preprocess, work)}
    each = []
    for number, seed in enumerate(seeds):
        run_name = name if number == 0 else f"{name}-seed{seed}"
        trained = [*where, "--data_dir", str(scenes), "--log_dir", str(runs), "--name", run_name]
        train = run(name, "train", [*trained, "--seed", str(seed), *case.train], work)
        if number == 0:
            seconds = {"train": train, "eval": run(name, "eval", trained, work), **seconds}
            each.append(read_json(runs / run_name / "eval" / "metrics.json"))
        else:
            each.append(baselines.measure_model(scenes / case.dataset / case.scene, work / name / "queries.h5", runs / run_name / "model"))
    metrics = {key: value for key, value in each[0].items() if key not in ("model", "scene_dir")}  # paths of this machine
    folder = scenes / case.dataset / case.scene
    report = read_json(folder / "report.json")
    state = read_json(runs / name / "state.json")
    return {
        "metrics": metrics,
        "seconds": seconds,
        "labels_per_image": report["labels_per_image"]["median"],
        "preprocess_stages": report["seconds"],
        "seeds": {str(seed): brief(one) for seed, one in zip(seeds, each, strict=True)},
        "baselines": {name: brief(one) for name, one in baselines.measure(folder, work / name / "queries.h5").items()},
        "model_epoch": state["model_epoch"],
        "options": {"preprocess": list(case.preprocess), "train": list(case.train)},
    }


def thin_lists(case: Case, data_dir: Path, folder: Path) -> list[str]:
    """Options that name every `keep`-th of the case's mapping images, in the order of their names, and its queries as they are."""
    said = dict(zip(case.preprocess[::2], case.preprocess[1::2], strict=True))
    extra = {"test_every": int(said.get("--test_every", DEFAULT_TEST_EVERY))}
    options = AdapterOptions(data_dir / case.source, scene=case.scene, gt=said.get("--gt", "original"), extra=extra)
    scene = load_source(case.dataset, options).scene
    names = {split: sorted(image.name for image in scene.split(split)) for split in ("train", "test")}
    folder.mkdir(parents=True, exist_ok=True)
    for split, kept in (("train", names["train"][:: case.keep]), ("test", names["test"])):
        (folder / f"list_{split}.txt").write_text("".join(f"{name}\n" for name in kept), encoding="utf-8")
    return [f"--list_{split}={folder / f'list_{split}.txt'}" for split in names]


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


def brief(metrics: dict[str, Any]) -> dict[str, Any]:
    """Those of the metrics that one compares."""
    names = ("units", "n_queries", "n_failed", "median_t", "median_t_cm", "median_t_relative", "median_r_deg", "recall", "recall_relative")
    return {name: metrics[name] for name in (*names, "ms", "map_bytes")}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"threads": torch.get_num_threads(), "cuda": torch.cuda.is_available(), **versions}


def describe(name: str, row: dict[str, Any]) -> str:
    """One line of the table."""
    metrics = row["metrics"]
    error, recall = accuracy_of(metrics)
    others = "".join(f"\n    {other:<22} {describe_brief(one)}" for other, one in row["baselines"].items())
    seeds = "".join(f"\n    seed {seed:<17} {describe_brief(one)}" for seed, one in row["seeds"].items())
    return (
        f"{name:<26} {error}, {recall}, {metrics['n_failed']}/{metrics['n_queries']} failed, {metrics['map_bytes'] / 1e6:.1f} MB, "
        f"train {metrics['train_seconds']:.0f} s, query {metrics['ms']['total']:.0f} ms, {row['seconds']}" + seeds + others
    )


if __name__ == "__main__":
    sys.exit(main())
