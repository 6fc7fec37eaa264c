"""How preprocessing grows with the number of images: the first n mapping images of a scene, for several n, with CPU seconds of the whole
command and wall seconds of each stage.

    python benchmarks/growth.py --sizes 150 300 600 -- --dataset 7scenes --dataset_dir DIR --scene redkitchen --gt sfm --features sift

What follows `--` are options of `d2s preprocess`. Prints a table and writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from d2s.scene.atomic import read_json, write_json
from processing.adapters.base import AdapterOptions
from processing.adapters.table import load_source

RESULTS = Path(__file__).parent / "results" / "growth.json"


def main() -> int:
    """Preprocess the scene at every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 300, 600], help="numbers of mapping images")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of d2s preprocess, after --")
    args = parser.parse_args()
    options = [option for option in args.options if option != "--"]
    names = mapping_names(options)
    rows = {str(size): measure(names[:size], options) for size in args.sizes}
    write_json(RESULTS, {"options": public(options), "rows": rows})
    for size, row in rows.items():
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["stage_seconds"].items())
        print(f"{size:>6} images: {row['cpu_seconds']:.0f} CPU s, {1e3 * row['cpu_seconds'] / int(size):.0f} ms per image; wall: {stages}")
    return 0


def mapping_names(options: list[str]) -> list[str]:
    """The mapping images of the scene, in order."""
    value = {key: options[options.index(key) + 1] for key in options if key.startswith("--")}
    where = AdapterOptions(dataset_dir=Path(value["--dataset_dir"]), scene=value.get("--scene", ""), gt=value.get("--gt", "original"))
    return [image.name for image in load_source(value["--dataset"], where).scene.split("train")]


def measure(names: list[str], options: list[str]) -> dict[str, Any]:
    """CPU and wall seconds of preprocessing these images alone, in a folder that goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "list_train.txt"
        images.write_text("\n".join(names) + "\n", encoding="utf-8")
        before = cpu_seconds()
        command = [sys.executable, "-m", "d2s", "preprocess", *options, "--list_train", str(images), "--out_dir", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = read_json(next(Path(folder).glob("*/*/report.json")))
        return {"cpu_seconds": round(cpu_seconds() - before, 1), "stage_seconds": {k: round(v, 2) for k, v in report["seconds"].items()}}


def cpu_seconds() -> float:
    """Of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def public(options: list[str]) -> list[str]:
    """The options without the folder, which is this machine's."""
    return [option for before, option in zip(["", *options], options, strict=False) if "--dataset_dir" not in (before, option)]


if __name__ == "__main__":
    sys.exit(main())
