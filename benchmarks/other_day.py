"""Photos of another day: queries that are not of the recording that made the map, ours beside what it has to beat.

Other recordings, other cameras, other light, the other side, ends of the path, and real photos after simulated changes. Each row is
preprocessed and trained with the commands that a user would type; what --work holds already is reused (remove ROW/logs to train anew).
Prints a table and writes benchmarks/results/other_day.json; what is measured again replaces the old figures. `--readme` puts the table of
that file into the README, measuring nothing. --data_dir names the folder that holds the photos, which are not part of the project.

    python benchmarks/other_day.py --data_dir DIR [--work DIR] [--only statue fox-night …] [--seeds 0 1 2] [--methods ours matching …]
    python benchmarks/other_day.py --readme
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from d2s.errors import WeightsError
from d2s.evaluation.matching_baseline import MatchingLocalizer, extract_queries, matching_bytes
from d2s.evaluation.predict import failed
from d2s.evaluation.score import METRES, Score, scene_extent, score_images
from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.features.upright import quarter_turns
from d2s.localization.effort import Question, try_harder
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.matching.table import make_matcher
from d2s.regressor.model_files import model_bytes
from d2s.scene.atomic import read_json, write_json
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import TrainingSet, load_training_set

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
import baselines
from accuracy import README, machine, run
from other_day_data import ROWS, Row, prepare
from other_day_table import METRIC, RELATIVE, describe, with_table

RESULTS = Path(__file__).parent / "results" / "other_day.json"
LANDMARKS = 21_000


@dataclass(frozen=True)
class Asked:
    """What a method may look at: a scene that asks, in its folder, the map's features and labels, a trained model of it, and the file of
    the queries' features.
    """

    folder: Path
    scene: Scene
    data: TrainingSet
    model: Path
    features: Path


@dataclass(frozen=True)
class Query:
    """One photo. `camera` is a guess where it is not `known`."""

    path: Path
    features: LocalFeatures
    camera: pycolmap.Camera
    known: bool


Locate = Callable[[Query, int], LocalizationResult]
"""The answer to a query; the number is the seed of RANSAC."""


@dataclass(frozen=True)
class Method:
    """`make` gives what localizes queries, and the bytes of its map. `slow`: on few queries, with the first seed alone."""

    make: Callable[[Asked], tuple[Locate, int]]
    slow: bool = False


def ours(asked: Asked, level: str = "auto") -> tuple[Locate, int]:
    """The model as `d2s localize` uses it, but for features that are known already; a photo of an unknown camera comes without one."""
    localizer = Localizer.load(asked.model, effort=level)

    def locate(query: Query, seed: int) -> LocalizationResult:
        start = time.perf_counter()
        localizer.estimator.seed = seed
        camera = query.camera if query.known else localizer.cameras.choose(query.features.image_size, query.path)
        first = localizer.localize_features(query.features, camera)
        question = Question(read_image(query.path), quarter_turns(query.path), camera, query.features)
        result = try_harder(localizer, first, question, start)
        return replace(result, ms={**result.ms, "total": first.ms["total"] + result.ms.get("effort", 0.0)})

    return locate, model_bytes(asked.model)


def matching(asked: Asked) -> tuple[Locate, int]:
    """Mutual nearest neighbours with the ten mapping images that look most like the query."""
    return of_features(MatchingLocalizer(asked.data)), matching_bytes(asked.data)


def lightglue(asked: Asked) -> tuple[Locate, int]:
    """LightGlue with the same ten. Raises WeightsError where its weights are not found."""
    matcher = make_matcher("lightglue", asked.scene.features["name"])
    return of_features(MatchingLocalizer(asked.data, matcher=matcher)), matching_bytes(asked.data)


def landmarks(asked: Asked) -> tuple[Locate, int]:
    """21,000 mean descriptors at once: mutual nearest neighbours, PnP, nothing else."""
    correspond = baselines.landmarks(asked.data, LANDMARKS)

    def locate(query: Query, seed: int) -> LocalizationResult:
        found, ms = baselines.localize(query.features, query.camera, correspond, seed)
        return replace(failed(found.reason), success=found.success, cam_from_world=found.cam_from_world, ms={"total": ms})

    return locate, min(LANDMARKS, asked.data.num_points) * (2 * asked.data.descriptor_dim + 12)


def of_features(localizer: Localizer | MatchingLocalizer) -> Locate:
    """What localizes from features and a camera, a guessed one where it is not known."""

    def locate(query: Query, seed: int) -> LocalizationResult:
        localizer.estimator.seed = seed
        return localizer.localize_features(query.features, query.camera)

    return locate


METHODS: dict[str, Method] = {
    "ours": Method(ours),
    "ours, fast": Method(partial(ours, level="fast")),
    "matching": Method(matching),
    "matching, LightGlue": Method(lightglue, slow=True),
    "landmarks at once": Method(landmarks),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="only write the table into the README")
    parser.add_argument("--data_dir", type=Path, help="folder with redkitchen_other_day/, statue_of_liberty/, fox/ and the others")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where scenes and runs go (default: benchmark_runs)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), help="seeds of RANSAC, nothing else is random (default: 0 1 2)")
    parser.add_argument("--queries", type=int, default=10, help="queries of a row for slow methods, evenly spread (default: 10)")
    rows_help = f"rows to measure (default: all): {', '.join(ROWS)}"
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW", help=rows_help)
    methods_help = f"methods to measure (default: all; none: only preprocess): {', '.join(METHODS)}"
    parser.add_argument("--methods", nargs="*", choices=tuple(METHODS), default=tuple(METHODS), metavar="METHOD", help=methods_help)
    args = parser.parse_args(argv)
    if args.readme:
        README.write_text(with_table(README.read_text(encoding="utf-8"), read_json(RESULTS)["rows"]), encoding="utf-8")
        return 0
    needy = [name for name in args.only if ROWS[name].case.dataset != "demo"]
    if args.data_dir is None and needy:
        parser.error(f"--data_dir is needed to measure {needy[0]}")
    for name in args.only:
        row = measure(name, ROWS[name], (args.data_dir or Path()).resolve(), args.work.resolve(), args.seeds, args.methods, args.queries)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        row["methods"] = {**rows.get(name, {}).get("methods", {}), **row["methods"]}
        rows = {**rows, name: row}
        write_json(RESULTS, {"machine": machine(), "rows": {key: rows[key] for key in ROWS if key in rows}})
        print(describe(name, row), flush=True)
    return 0


def measure(name: str, row: Row, data_dir: Path, work: Path, seeds: Sequence[int], methods: Sequence[str], few: int) -> dict[str, Any]:
    """Figures of every method on one row for every seed."""
    asked, images, about = read_row(name, row, data_dir, work)
    found: dict[str, list[dict[str, Any]]] = {}
    for key in methods:
        method = METHODS[key]
        chosen, some = (evenly(images, few), seeds[:1]) if method.slow else (images, seeds)
        try:
            found[key] = ask(method, asked, chosen, row.camera, some)
        except WeightsError as error:
            print(f"{name}: {key} is left out: {error}", flush=True)
    return {**about, "methods": found}


def read_row(name: str, row: Row, data_dir: Path, work: Path) -> tuple[Asked, list[SceneImage], dict[str, Any]]:
    """What methods may look at, with the model that default options train, the queries whose pose is known, and what the row is about."""
    folder, home = prepare(name, row, data_dir, work), work / row.place
    scene = Scene.load(folder)
    features, mapped = home / f"queries-{name}.h5", scene.with_images(scene.split("train", "val"))
    extract_queries(scene, scene.split("test"), features)
    images = [image for image in scene.split("test") if image.cam_from_world is not None]
    about = {"units": scene.units, "extent": scene_extent(mapped), "mapped": len(mapped.images), "queries": len(images)}
    return Asked(folder, scene, load_training_set(folder, scene), train(row, home, work), features), images, about


def train(row: Row, home: Path, work: Path, options: Sequence[str] = ()) -> Path:
    """The model folder of a run, with further options of `d2s train`, which is trained unless it is there."""
    run_name = "-".join(["seed0", *(option.replace("=", "") for option in options[1::2])])
    where = ["--dataset", row.case.dataset, "--scene", row.case.scene, "--data_dir", str(home / "dataset")]
    run(row.place, "train", [*where, "--log_dir", str(home / "logs"), "--name", run_name, *row.case.train, *options], work)
    return home / "logs" / run_name / "model"


def evenly(images: Sequence[SceneImage], count: int) -> list[SceneImage]:
    """At most `count` of the images, spread over all."""
    return [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def ask(method: Method, asked: Asked, images: Sequence[SceneImage], known: bool, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Figures of one method on some of the queries, for every seed."""
    locate, size = method.make(asked)
    scene, mapped = asked.scene, asked.scene.with_images(asked.scene.split("train", "val"))
    with FeatureReader(asked.features) as queries:
        photos = {image.name: Query(scene.path(image), queries.read(image.name), scene.camera(image), known) for image in images}
    each = []
    for seed in seeds:
        results = {name: locate(photo, seed) for name, photo in photos.items()}
        poses = {name: result.cam_from_world for name, result in results.items() if result.cam_from_world is not None}
        scores = score_images(images, poses, {name: result.to_json(name) for name, result in results.items()})
        each.append({**figures(scores, scene.units, scene_extent(mapped)), "map_bytes": size})
    return each


def figures(scores: Sequence[Score], units: str, extent: float) -> dict[str, Any]:
    """What the table shows. Distances are in cm, without a scale in percent of the extent of the mapping cameras' path.

    A refusal is right where the pose that was found is not within 5 cm (5 %) and 5 degrees; where none was found, nothing was refused.
    """
    unit = 0.01 if units == METRES else extent / 100
    t, r_deg = np.array([score.t for score in scores]) / unit, np.array([score.r_deg for score in scores])
    refused = [score for score in scores if not score.success and math.isfinite(score.found_t)]
    wrongly = sum(score.found_t / unit <= 5 and score.found_r_deg <= 5 for score in refused)
    times = [score.ms["total"] - score.ms.get("features", 0.0) for score in scores if "total" in score.ms]
    return {
        "queries": len(scores),
        "failed": sum(not score.success for score in scores),
        "recall": {key: float(np.mean((t <= far) & (r_deg <= turned))) for key, far, turned in (METRIC if units == METRES else RELATIVE)},
        "median_t": _finite(np.median(t)),
        "median_r_deg": _finite(np.median(r_deg)),
        "ms": float(np.median(times)) if times else None,
        "refused": {"right": len(refused) - wrongly, "wrong": wrongly},
    }


def _finite(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
