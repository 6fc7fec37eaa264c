"""Photos asked with a camera that is not theirs, or with none: are the answers right, or refused?

Parts of query photos, in the middle and beside it, enlarged to the photo's size (crops, digital zooms), are asked with the camera of the
whole photo; the whole photos with their own camera, and with none. Right is within 5 cm (without a scale 5 % of the extent of the mapping
cameras' path) and 5 degrees, or within the 95 % ellipsoid of the stated covariance. Scenes and models are those of other_day.py. Prints a
table and writes benchmarks/results/cameras.json; what is measured again replaces the old figures.

    python benchmarks/cameras.py --data_dir DIR [--work DIR] [--only statue fox …] [--queries 15]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.evaluation.matching_baseline import extract_queries
from d2s.evaluation.score import METRES, scene_extent
from d2s.features.images import read_image
from d2s.geometry import pose
from d2s.geometry.image import crop, resize
from d2s.localization.covariance import pose_difference
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.scene.atomic import read_json, write_json
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage
from processing.augmentation.light import generator_of

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
from accuracy import machine
from changes import to_image
from other_day import evenly, train
from other_day_data import FOX, GALLERY, GERRARD, ROWS, Row, prepare, write_asked, write_photo

RESULTS = Path(__file__).parent / "results" / "cameras.json"
SHARES = (0.95, 0.9, 0.8, 0.65, 0.5)
"""Shares of the width and of the height that are enlarged to the whole."""
BESIDE = tuple((x, y) for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if (x, y) != (0.5, 0.5))
"""Corners and sides: where the part lies, from left to right and from top to bottom."""
WHOLE, UNKNOWN = "whole", "unknown"
WITHIN = 12.59
"""Squared length of an error, in standard deviations, that 95 % of errors in six dimensions do not exceed."""
PLACES: dict[str, Row] = {
    **{name: ROWS[name] for name in ("redkitchen-day", "redkitchen-ends-sfm", "statue", "reichstag", "fox-side", "gerrard-side")},
    "fox": Row(FOX, "fox"),
    "gerrard": Row(GERRARD, "gerrard"),
    "gallery": Row(GALLERY, "gallery"),
}
"""The last three ask photos of the mapping recording."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with redkitchen_other_day/, fox/ and the others")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where scenes and runs go (default: benchmark_runs)")
    parser.add_argument("--queries", type=int, default=15, help="photos of a row, evenly spread (default: 15)")
    rows_help = f"rows to measure (default: all): {', '.join(PLACES)}"
    parser.add_argument("--only", nargs="+", choices=tuple(PLACES), default=tuple(PLACES), metavar="ROW", help=rows_help)
    args = parser.parse_args(argv)
    for name in args.only:
        row = measure(name, PLACES[name], args.data_dir.resolve(), args.work.resolve(), args.queries)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        rows = {**rows, name: row}
        write_json(RESULTS, {"machine": machine(), "rows": {key: rows[key] for key in PLACES if key in rows}})
        print(describe(name, row), flush=True)
    return 0


def measure(name: str, row: Row, data_dir: Path, work: Path, count: int) -> dict[str, Any]:
    """Figures of one row, for every way of asking."""
    folder = prepare(name, row, data_dir, work)
    home, target = work / row.place, work / row.place / "asked" / f"{name}-cropped"
    if not (target / "scene.json").is_file():
        write_parts(folder, target, count)
    scene = Scene.load(target)
    extract_queries(scene, scene.split("test"), target / "queries.h5")
    localizer, mapped = Localizer.load(train(row, home, work)), scene.with_images(scene.split("train", "val"))
    unit = 0.05 if scene.units == METRES else 0.05 * scene_extent(mapped)
    answers: dict[str, list[dict[str, Any]]] = {}
    with FeatureReader(target / "queries.h5") as queries:
        for image in scene.split("test"):
            way, features, camera = image.name.split("/", 1)[0], queries.read(image.name), scene.camera(image)
            answers.setdefault(way, []).append(judged(localizer.localize_features(features, camera), image, unit))
            if way == WHOLE:
                answers.setdefault(UNKNOWN, []).append(judged(localizer.localize_features(features, None), image, unit))
    return {"units": scene.units, "ways": {way: figures(found) for way, found in answers.items()}}


def write_parts(folder: Path, target: Path, count: int) -> None:
    """The scene in `folder`, asked parts of its queries and whole ones, all of them with the camera of the whole."""
    scene, queries = Scene.load(folder), []
    for image in evenly([image for image in scene.split("test") if image.cam_from_world is not None], count):
        pixels, camera = read_image(scene.path(image)), scene.camera(image)
        for way, part in ways(pixels, image.name).items():
            named = replace(image, name=f"{way}/{image.name}")
            write_photo(target / "photos" / named.name, part)
            queries.append((named, camera))
    write_asked(folder, target, queries, target / "photos")


def ways(pixels: NDArray[np.uint8], photo: str) -> dict[str, NDArray[np.uint8]]:
    """The photo, and its parts by their names; `photo` names it, and alone decides which corner or side is taken."""
    found = {WHOLE: pixels}
    for share in SHARES:
        beside = BESIDE[generator_of("crops", share, photo).integers(len(BESIDE))]
        for where, (x, y) in {"middle": (0.5, 0.5), "beside": beside}.items():
            found[f"{100 * share:.0f}-{where}"] = enlarged(pixels, share, x, y)
    return found


def enlarged(pixels: NDArray[np.uint8], share: float, x: float, y: float) -> NDArray[np.uint8]:
    """A part of the photo (H, W, 3) at the photo's size; `x` and `y`, 0 to 1: from the left and the upper end to the others."""
    size = (pixels.shape[1], pixels.shape[0])
    inner = (round(share * size[0]), round(share * size[1]))
    warp = crop(size, round(x * (size[0] - inner[0])), round(y * (size[1] - inner[1])), inner).then(resize(inner, size))
    return to_image(warp.apply_image(pixels))


def judged(result: LocalizationResult, image: SceneImage, unit: float) -> dict[str, Any]:
    """One answer: whether it is right, its error in units of what is right, and in standard deviations."""
    assert image.cam_from_world is not None
    answer = {"refused": not result.success, "camera_from": result.camera_from, "ms": result.ms["pnp"], "reason": result.reason}
    if result.cam_from_world is None:
        return {**answer, "right": False, "t": np.inf, "sigmas": np.nan}
    t, r_deg = pose.pose_error(result.cam_from_world, image.cam_from_world)
    covariance = None if result.trust is None else result.trust.covariance
    error = pose_difference(result.cam_from_world, image.cam_from_world)
    squared = np.inf if covariance is None else float(error @ np.linalg.solve(covariance, error))
    sigmas = np.nan if covariance is None else t / np.sqrt(np.trace(covariance[3:, 3:]))
    return {**answer, "right": (t <= unit and r_deg <= 5) or squared <= WITHIN, "t": t / unit, "sigmas": sigmas}


def figures(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many are right, wrong (and not refused), refused and mended; the median error in cm or percent, of those that have a pose that in
    stated standard deviations, and of all the milliseconds behind the features.
    """
    refused = [answer["refused"] for answer in answers]
    placed = [answer for answer in answers if not answer["refused"]]
    median = float(np.median([5 * answer["t"] for answer in answers]))
    return {
        "photos": len(answers),
        "right": sum(answer["right"] for answer in placed),
        "wrong": sum(not answer["right"] for answer in placed),
        "refused": sum(refused),
        "mended": sum(answer["camera_from"] == "mended" for answer in placed),
        "median_t": median if np.isfinite(median) else None,
        "sigmas": float(np.nanmedian([answer["sigmas"] for answer in placed])) if placed else None,
        "ms": float(np.median([answer["ms"] for answer in answers])),
    }


def describe(name: str, row: dict[str, Any]) -> str:
    """A line for each way of asking."""
    unit = "cm" if row["units"] == METRES else "%"
    return "\n".join(
        f"{name:<20} {way:<10} {one['right']:>3} right, {one['wrong']} wrong, {one['refused']} refused of {one['photos']}, {one['mended']} "
        f"mended, median {'–' if one['median_t'] is None else format(one['median_t'], '.2f')} {unit}, {one['ms']:.0f} ms"
        for way, one in row["ways"].items()
    )


if __name__ == "__main__":
    sys.exit(main())
