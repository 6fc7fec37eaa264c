"""From an image file to its pose, stage by stage, beside matching against the mapping images, on the same images in the same process.

Needs the runs of benchmarks/accuracy.py in --work (WORK/ROW/dataset, WORK/ROW/logs/ROW/model). Each query goes through both localizers, one
after the other, before the next query comes, so that a busy moment hits both; reading and features are shared. Writes
benchmarks/results/latency.json and the table of docs/latency.md; a row that is measured again replaces the old one.

    python benchmarks/latency.py --work DIR [--only redkitchen-sfm redkitchen-sfm-sift] [--images 60] [--threads 2] [--matching 0]
    python benchmarks/latency.py --page                           # only write the table into the page

Stages: read (the file, decoded), features, network (scene coordinates and reliabilities), first (PnP from them), second (all landmarks near
their predicted places), trust (doubt, probability, covariance); of matching: matching (retrieval, mutual nearest neighbours) and pnp.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch

from d2s.commands.memory import keep_freed_memory
from d2s.commands.options import boolean
from d2s.errors import MissingFileError
from d2s.evaluation.matching_baseline import MatchingLocalizer
from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import Scene, SceneImage
from d2s.training.data import load_training_set

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbour is found either way
from page import replaced

RESULTS = Path(__file__).parent / "results" / "latency.json"
PAGE = Path(__file__).parents[1] / "docs" / "latency.md"
BEGIN, END = "<!-- benchmarks/latency.py --page -->\n", "<!-- end -->"
ROWS = ("redkitchen-sfm", "redkitchen-sfm-sift")
SHARED, OURS, MATCHING = ("read", "features"), ("network", "first", "second", "trust"), ("matching", "pnp")
NAMES = {
    "network_pnp": "**network to trust**",
    "total": "**image to pose**",
    "matching": "matching localizer: matching",
    "pnp": "matching localizer: PnP",
    "matching_total": "**matching localizer: image to pose**",
    "load_model": "once: load the model",
    "load_features": "once: load the feature network",
    "first_image": "the first image",
}
WARM_UP = 3
Times = dict[str, float]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("benchmark_runs"), help="where accuracy.py put its runs (default: benchmark_runs)"
    )
    parser.add_argument("--only", nargs="+", default=ROWS, help=f"rows of accuracy.py (default: {' '.join(ROWS)})")
    parser.add_argument("--images", type=int, default=60, help="queries per row, evenly over the test images (default: 60)")
    parser.add_argument("--threads", type=int, default=None, help="threads of every library (default: theirs, one per processor)")
    parser.add_argument("--matching", type=boolean, default=True, help="also time the matching localizer (default: 1)")
    parser.add_argument("--keep_memory", type=boolean, default=True, help="keep freed memory, as the d2s commands do (default: 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the rows (default: benchmarks/results/latency.json)")
    parser.add_argument("--page", action="store_true", help="only write the table of the JSON file into docs/latency.md")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time of all threads, for a busy machine")
    args = parser.parse_args(argv)
    if args.page:
        return write_page(args.out)
    global clock
    clock = CLOCKS[args.clock]
    if args.keep_memory:
        keep_freed_memory()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
        cv2.setNumThreads(args.threads)
    for name in args.only:
        row = measure(args.work / name, args.work / name / "logs" / name / "model", args.images, args.matching)
        rows = read_json(args.out)["rows"] if args.out.is_file() else {}
        write_json(args.out, {"rows": {**rows, name: {**row, "clock": args.clock, "machine": machine()}}})
        print(table(name, row), flush=True)
    return write_page(args.out) if args.out == RESULTS else 0


def measure(work: Path, model: Path, count: int, matching: bool) -> dict[str, Any]:
    """One row: `count` test images of the scene in WORK/dataset, localized by a model and by matching."""
    folder = scene_folder(work)
    scene = Scene.load(folder)
    images = evenly([image for image in scene.split("test") if image.cam_from_world is not None], count)
    localizer, cold = load_cold(model, scene, images[0])
    other = MatchingLocalizer(load_training_set(folder, scene)) if matching else None
    parts = Parts(localizer)
    times: list[Times] = []
    found: list[tuple[bool, bool]] = []
    for number, image in enumerate([*images[:WARM_UP], *images]):
        ms, results = query(scene, image, parts, other, ours_first=number % 2 == 0)
        if number >= WARM_UP:
            times.append(ms)
            found.append(results)
    camera = scene.camera(images[0])
    return {
        "features": scene.features["settings"]["name"],
        "num_keypoints": localizer.info.num_keypoints,
        "image_size": [camera.width, camera.height],
        "queries": len(images),
        "localized": sum(ours for ours, _ in found),
        "localized_by_matching": sum(theirs for _, theirs in found) if matching else None,
        "cold_ms": cold,
        "ms": {name: spread([row[name] for row in times]) for name in (*SHARED, *OURS, "network_pnp", "total")},
        "matching_ms": {name: spread([row[name] for row in times]) for name in (*MATCHING, "matching_total")} if matching else None,
    }


def scene_folder(work: Path) -> Path:
    """The preprocessed scene of a run of accuracy.py."""
    found = sorted((work / "dataset").glob("*/*/scene.json"))
    if not found:
        raise MissingFileError(f"{work / 'dataset'} holds no preprocessed scene.", "Run benchmarks/accuracy.py first, or name its --work.")
    return found[0].parent


def evenly(images: list[SceneImage], count: int) -> list[SceneImage]:
    """`count` of the images, evenly over their order."""
    places = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    return [images[place] for place in places]


def load_cold(model: Path, scene: Scene, image: SceneImage) -> tuple[Localizer, Times]:
    """The localizer, and milliseconds until it could answer: loading both networks, and the first image beyond them."""
    ms: Times = {}
    localizer = timed(ms, "load_model", lambda: Localizer.load(model))
    timed(ms, "load_features", localizer.prepare)
    timed(ms, "first_image", lambda: localizer.localize(scene.path(image), scene.camera(image)))
    return localizer, rounded(ms)


class Parts:
    """A localizer whose parts of `solve` say how long they took."""

    def __init__(self, localizer: Localizer) -> None:
        self.localizer, self.ms = localizer, Times()
        estimate, look = localizer.estimator.estimate, localizer._look_again
        localizer.estimator.estimate = self._timed("first", estimate)  # type: ignore[method-assign]
        localizer._look_again = self._timed("second", look)  # type: ignore[method-assign]

    def _timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The function, adding its time where it is the first call: later ones belong to another part."""

        def call(*args: Any, **options: Any) -> Any:
            return work(*args, **options) if name in self.ms else timed(self.ms, name, lambda: work(*args, **options))

        return call

    def __call__(self, features: LocalFeatures, camera: pycolmap.Camera) -> tuple[LocalizationResult, Times]:
        """The pose and the milliseconds of network, first, second and trust."""
        self.ms = ms = Times()
        best, xyz, reliability = timed(ms, "network", lambda: self.localizer.predict(features))
        result = timed(ms, "solve", lambda: self.localizer.solve(best, xyz, reliability, camera))
        ms.setdefault("second", 0.0)
        ms["trust"] = ms.pop("solve") - ms["first"] - ms["second"]
        return result, ms


def query(
    scene: Scene, image: SceneImage, ours: Parts, matching: MatchingLocalizer | None, ours_first: bool
) -> tuple[Times, tuple[bool, bool]]:
    """Milliseconds of every stage of one image, and whether it was localized by both."""
    ms: Times = {}
    camera = scene.camera(image)
    pixels = timed(ms, "read", lambda: read_image(scene.path(image)))
    features = timed(ms, "features", lambda: ours.localizer.extractor.extract([pixels])[0])
    theirs = against(matching, features, camera, ms) if matching and not ours_first else False
    result, parts = ours(features, camera)
    theirs = against(matching, features, camera, ms) if matching and ours_first else theirs
    shared, network_pnp = ms["read"] + ms["features"], sum(parts.values())
    ms.update(parts, network_pnp=network_pnp, total=shared + network_pnp)
    if matching:
        ms["matching_total"] = shared + ms["matching"] + ms["pnp"]
    return ms, (result.success, theirs)


def against(matching: MatchingLocalizer, features: LocalFeatures, camera: pycolmap.Camera, ms: Times) -> bool:
    """Whether the matching localizer finds a pose; its times go into `ms`."""
    rows, xyz = timed(ms, "matching", lambda: matching.correspond(features))
    return bool(timed(ms, "pnp", lambda: matching.estimator.estimate(features.keypoints[rows], xyz, camera)).success)


def timed(ms: Times, name: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; its milliseconds go into `ms`."""
    start = clock()
    result = work()
    ms[name] = 1e3 * (clock() - start)
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    return rounded({"median": float(np.median(values)), "p90": float(np.percentile(values, 90))})


def rounded(ms: Times) -> Times:
    """To hundredths."""
    return {name: round(value, 2) for name, value in ms.items()}


def machine() -> dict[str, Any]:
    """What a row was measured on."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    threads = {"torch_threads": torch.get_num_threads(), "opencv_threads": cv2.getNumThreads()}
    return {"processor": names[0] if names else platform.processor(), **threads, "torch": torch.__version__, "opencv": cv2.__version__}


def table(name: str, row: dict[str, Any]) -> str:
    """The row for people."""
    width, height = row["image_size"]
    lines = [f"{name}: {row['features']}, {row['num_keypoints']} keypoints, {width}x{height}, {row['queries']} queries"]
    for group in ("ms", "matching_ms"):
        lines += [f"  {stage:<16}{ms['median']:8.1f} ms{ms['p90']:10.1f} ms (p90)" for stage, ms in (row[group] or {}).items()]
    cold = ", ".join(f"{stage} {value:.0f} ms" for stage, value in row["cold_ms"].items())
    return "\n".join([*lines, f"  localized: {row['localized']} (matching {row['localized_by_matching']}); cold: {cold}"])


def write_page(results: Path) -> int:
    """Put the table of all rows into the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_json(results)["rows"]), encoding="utf-8")
    return 0


def with_table(page: str, rows: dict[str, Any]) -> str:
    """The page with the table of these rows between its two marks."""
    return replaced(page, BEGIN, END, markdown(rows))


def markdown(rows: dict[str, Any]) -> str:
    """Medians in milliseconds, 90th percentiles in brackets."""
    lines = ["| | " + " | ".join(rows) + " |\n", "|---" * (len(rows) + 1) + "|\n"]
    facts = {
        "image, features, keypoints": lambda row: "{}x{}, {}, {}".format(*row["image_size"], row["features"], row["num_keypoints"]),
        "measured": lambda row: f"{row['clock']} time, {row['machine']['torch_threads']} threads, {row['queries']} queries",
    }
    lines += [_line(title, (of(row) for row in rows.values())) for title, of in facts.items()]
    for group, stages in (("ms", (*SHARED, *OURS, "network_pnp", "total")), ("matching_ms", (*MATCHING, "matching_total"))):
        for stage in stages:
            lines.append(_line(NAMES.get(stage, stage), (_cell(row[group], stage) for row in rows.values())))
    for stage in ("load_model", "load_features", "first_image"):
        lines.append(_line(NAMES[stage], (f"{row['cold_ms'][stage]:.0f}" for row in rows.values())))
    return "".join(lines)


def _cell(stages: dict[str, Any] | None, stage: str) -> str:
    return "" if stages is None else f"{stages[stage]['median']:.1f} ({stages[stage]['p90']:.1f})"


def _line(title: str, cells: Iterable[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main())
