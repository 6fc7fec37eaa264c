"""Our maps beside matching with LightGlue: what hloc does at its best, and what it costs.

On every N-th query of scenes that `benchmarks/accuracy.py` has left in --work: our model, mutual nearest neighbours and LightGlue with the
ten mapping images that look most like the query. Times are those of network or matching plus PnP, features excluded. The rows go to
benchmarks/results/lightglue.json and into the table of docs/benchmark.md.

    python benchmarks/lightglue.py --work DIR [--only fox gerrard] [--queries 20]
    python benchmarks/lightglue.py --page            # only writes the table
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from page import replaced
from tqdm import tqdm

from d2s.evaluation.matching_baseline import MatchingLocalizer, extract_queries
from d2s.evaluation.score import scene_extent, score_images, summarize
from d2s.features.base import LocalFeatures
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.matching.table import make_matcher
from d2s.scene.atomic import read_json, write_json
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene
from d2s.training.data import load_training_set

RESULTS = Path(__file__).parent / "results" / "lightglue.json"
PAGE = Path(__file__).parents[1] / "docs" / "benchmark.md"
BEGIN, END = "<!-- benchmarks/lightglue.py -->\n", "<!-- end of lightglue.py -->"
ROWS = ("redkitchen-sfm", "redkitchen-original", "gerrard", "fox")
METHODS = ("d2s", "matching", "matching, LightGlue")
Localize = Callable[[LocalFeatures, pycolmap.Camera], LocalizationResult]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="work folder of benchmarks/accuracy.py")
    parser.add_argument("--page", action="store_true", help="only write the table into docs/benchmark.md")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="rows to measure (default: all)")
    parser.add_argument("--queries", type=int, default=20, help="about so many queries a row, evenly spread (default: 20)")
    args = parser.parse_args(argv)
    if args.work is None and not args.page:
        parser.error("--work is needed to measure")
    for name in () if args.page else args.only:
        row = measure(args.work / name, name, args.queries)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        write_json(RESULTS, {"threads": torch.get_num_threads(), "rows": {**rows, name: row}})
        print(table({name: row}), flush=True)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_json(RESULTS)["rows"]), encoding="utf-8")
    return 0


def with_table(text: str, rows: Mapping[str, Any]) -> str:
    """The page with the table of the rows between its two marks."""
    return replaced(text, BEGIN, END, table(rows))


def table(rows: Mapping[str, Any]) -> str:
    """Median errors of every method, and its milliseconds a query."""
    lines = [("scene", "queries", *METHODS), ("---",) * (2 + len(METHODS))]
    lines += [(name, str(row["d2s"]["n_queries"]), *(_cell(row[method]) for method in METHODS)) for name, row in rows.items()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(one: Mapping[str, Any]) -> str:
    error = f"{one['median_t_cm']:.2f} cm" if one["units"] == "metres" else f"{100 * one['median_t_relative']:.3f} %"
    return f"{error}, {one['median_r_deg']:.2f}°; {one['ms']['total']:,.0f} ms"


def measure(work: Path, name: str, count: int) -> dict[str, Any]:
    """Metrics of the three methods on about `count` test images of one row."""
    folder = next(path.parent for path in sorted(work.glob("dataset/*/*/scene.json")))
    scene = Scene.load(folder)
    data = load_training_set(folder, scene)
    images = [image for image in scene.split("test") if image.cam_from_world is not None]
    images = [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]
    extract_queries(scene, scene.split("test"), work / "queries.h5")
    methods: dict[str, Localize] = {
        "d2s": Localizer.load(work / "logs" / name / "model", min_confidence=0).localize_features,
        "matching": MatchingLocalizer(data).localize_features,
        "matching, LightGlue": MatchingLocalizer(data, matcher=make_matcher("lightglue", scene.features["name"])).localize_features,
    }
    rows = {}
    with FeatureReader(work / "queries.h5") as queries:
        for method, localize in methods.items():
            found = {i.name: localize(queries.read(i.name), scene.camera(i)) for i in tqdm(images, desc=method, leave=False, disable=None)}
            poses = {name: result.cam_from_world for name, result in found.items() if result.cam_from_world is not None}
            records = {name: {"ms": result.ms, "inliers": result.num_inliers} for name, result in found.items()}
            rows[method] = summarize(score_images(images, poses, records), scene.units, scene_extent(scene))
    return rows


if __name__ == "__main__":
    sys.exit(main())
