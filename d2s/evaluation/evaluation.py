"""From the files in one output folder to `metrics.json`, `per_image.csv` and `report.html`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from d2s import __version__
from d2s.errors import InputError
from d2s.evaluation.comparison import FOLDER as MATCHING
from d2s.evaluation.comparison import SIZE, load_comparison
from d2s.evaluation.coverage import load_visibility
from d2s.evaluation.gallery import choose
from d2s.evaluation.grades import grading
from d2s.evaluation.pose_files import PREDICTIONS, RESULTS, read_predictions, read_results
from d2s.evaluation.reliability import summarize_trust
from d2s.evaluation.report import Report
from d2s.evaluation.report_data import DATA, ReportData, collect
from d2s.evaluation.score import Score, scene_extent, score_images, summarize, write_per_image
from d2s.localization.result import LocalizationResult
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import Scene, SceneImage

METRICS, PER_IMAGE, REPORT = "metrics.json", "per_image.csv", "report.html"
ABOUT = (
    "map_bytes",
    "map_parts",
    "train_seconds",
    "features",
    "num_keypoints",
    "pnp",
    "max_error",
    "reliability_threshold",
    "min_confidence",
    "seed",
    "model",
    "scene_dir",
    "device",
)
"""Entries of `metrics.json` that do not follow from the poses."""
PACKAGES = ("torch", "numpy", "pycolmap", "poselib", "opencv-python-headless", "opencv-python", "kornia")


def evaluate_folder(
    folder: Path,
    scene: Scene,
    images: Sequence[SceneImage],
    about: Mapping[str, Any],
    results: Mapping[str, LocalizationResult] | None = None,
    landmarks: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Score `folder/results.txt` on the given images, write the files of an evaluation there and return the metrics.

    `about` goes into the metrics as it is: split, features, map_bytes, and so on; "scene_dir" tells where the labels lie that the map of
    coverage is made from. `results`, when they are at hand, give the report its pictures, and `landmarks` (M, 3) of the model its points;
    both are kept, for the next report.
    """
    scores = read_scores(folder, images)
    extent = scene_extent(scene)
    summary = summarize(scores, scene.units, extent)
    trust = summarize_trust(scores, scene.units, extent, about.get("min_confidence"))
    metrics = {"dataset": scene.dataset, "scene": scene.name, **summary, **about, "trust": trust, "versions": versions()}
    write_per_image(folder / PER_IMAGE, scores, scene.units, extent)
    if results is not None:
        pictures = choose(scores, grading(scene.units, extent))
        collect(scene, results, pictures.names(), landmarks).save(folder / DATA)
    write_report(folder, scene, scores, metrics)
    write_json(folder / METRICS, metrics)
    return metrics


def write_report(folder: Path, scene: Scene, scores: Sequence[Score], metrics: Mapping[str, Any]) -> None:
    """Draw the page from what `folder` holds beside the scores."""
    visibility = load_visibility(Path(metrics["scene_dir"]), scene) if metrics.get("scene_dir") else None
    matching = load_comparison(folder / MATCHING, [score.image for score in scores])
    Report(scene, scores, metrics, ReportData.load(folder / DATA), visibility, matching).write(folder / REPORT)


def metrics_before(folder: Path) -> dict[str, Any]:
    """What an earlier evaluation in the same folder said about itself; None for what it did not say (poses of another program)."""
    before = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    return {"split": before.get("split", "test"), **{name: before.get(name) for name in ABOUT}}


def clear_scores(folder: Path) -> None:
    """Remove the scores of earlier poses, so that a kill cannot leave them beside new ones; `metrics.json` comes last and goes first."""
    for name in (METRICS, PER_IMAGE, REPORT, DATA, f"{MATCHING}/{SIZE}"):
        (folder / name).unlink(missing_ok=True)


def read_scores(folder: Path, images: Sequence[SceneImage]) -> list[Score]:
    """Scores of what `folder` holds. Raises InputError when its poses are of other images."""
    poses = read_results(folder / RESULTS)
    if poses and not any(image.name in poses for image in images):
        raise InputError(
            f"{folder / RESULTS} holds none of the {len(images)} images to score, but for example {next(iter(poses))!r}.",
            f"Names must be those of the scene, for example {images[0].name!r}." if images else "",
        )
    return score_images(images, poses, read_predictions(folder / PREDICTIONS))


def versions() -> dict[str, str]:
    """Versions of this program and of what its numbers depend on."""
    found = {"d2s": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
