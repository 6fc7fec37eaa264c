"""How fast and how good preprocessing is: seconds per stage, labels per image, reprojection errors, matches per second.

    python benchmarks/preprocessing.py --out results.json -- --dataset 7scenes --dataset_dir DIR --scene redkitchen --features aliked

What follows `--` are options of `d2s preprocess`. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pycolmap  # noqa: E402
import torch  # noqa: E402

from d2s.commands.options import Parser, run_command  # noqa: E402
from d2s.matching import nearest  # noqa: E402
from d2s.scene.atomic import read_json, write_json  # noqa: E402
from processing import preprocessing  # noqa: E402


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("preprocessing.json"), help="JSON file to write (default: preprocessing.json)")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of d2s preprocess, after --")
    args = parser.parse_args()
    options = [option for option in args.options if option != "--"] or ["--dataset", "demo"]
    result = {"machine": machine(), "matching": matching_speed(), "options": options}
    code, report = run_preprocess(options)
    if code:
        return code
    kept = ("seconds", "labels_per_image", "reprojection_error", "track_length", "sfm")
    result |= {**{name: report[name] for name in kept}, "images": report["images"]["count"]}
    write_json(args.out, result)
    print_table(result)
    return 0


def run_preprocess(options: list[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and report of one run from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [*options, "--out_dir", folder]
        code = run_command("preprocess", preprocessing.add_arguments, preprocessing.run, argv)
        reports = list(Path(folder).rglob("report.json"))
        return code, read_json(reports[0]) if reports else {}


def matching_speed(count: int = 2048, dimension: int = 128, repeats: int = 20) -> dict[str, float]:
    """Pairs a second of one thread, in float32 and as this machine does it, and how many of the float32 matches stay."""
    rng = np.random.default_rng(0)
    a = unit(rng.normal(size=(count, dimension)))
    b = unit(a + 0.06 * rng.normal(size=a.shape))[rng.permutation(count)]
    own = nearest._has_fast_bfloat16()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found, speed = {}, {}
    for name, fast in (("float32", False), ("bfloat16", True)):
        nearest._has_fast_bfloat16 = lambda fast=fast: fast  # type: ignore[assignment]
        found[name] = {tuple(row) for row in nearest.mutual_nearest_neighbors(a, b, 0.95)}
        start = time.perf_counter()
        for _ in range(repeats):
            nearest.mutual_nearest_neighbors(a, b, 0.95)
        speed[name] = repeats / (time.perf_counter() - start)
    nearest._has_fast_bfloat16 = lambda: own  # type: ignore[assignment]
    torch.set_num_threads(threads)
    common = len(found["float32"] & found["bfloat16"]) / max(1, len(found["float32"] | found["bfloat16"]))
    return {"pairs_per_second_float32": speed["float32"], "pairs_per_second_bfloat16": speed["bfloat16"], "equal_matches": common}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def machine() -> dict[str, Any]:
    versions = {"torch": torch.__version__, "pycolmap": pycolmap.__version__}
    return {"cpus": os.cpu_count(), "processor": platform.processor(), **versions}


def print_table(result: dict[str, Any]) -> None:
    rows = [(f"seconds, {name}", f"{value:.1f}") for name, value in result["seconds"].items()]
    rows += [(f"matching, {name}", f"{value:.3g}") for name, value in result["matching"].items()]
    rows += [("labels per image, median", f"{result['labels_per_image']['median']:.0f}")]
    rows += [("reprojection error, median px", f"{result['reprojection_error']['median']:.2f}")]
    rows += [("track length, median", f"{result['track_length']['median']:.0f}"), ("3D points", f"{result['sfm']['points']}")]
    print("\n".join(f"| {name:<40} | {value:>10} |" for name, value in rows))


if __name__ == "__main__":
    sys.exit(main())
