"""From the files in one output folder to `metrics.json`, `per_image.csv` and `report.html`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2s import __version__
from d2s.errors import InputError
from d2s.evaluation.pose_files import PREDICTIONS, RESULTS, read_predictions, read_results
from d2s.evaluation.reliability import summarize_trust
from d2s.evaluation.report import Report
from d2s.evaluation.score import Score, scene_extent, score_images, summarize, write_per_image
from d2s.localization.result import LocalizationResult
from d2s.scene.atomic import write_json
from d2s.scene.manifest import Scene, SceneImage

METRICS, PER_IMAGE, REPORT = "metrics.json", "per_image.csv", "report.html"
PACKAGES = ("torch", "numpy", "pycolmap", "poselib", "opencv-python-headless", "opencv-python", "kornia")


def evaluate_folder(
    folder: Path,
    scene: Scene,
    images: Sequence[SceneImage],
    about: Mapping[str, Any],
    results: Mapping[str, LocalizationResult] | None = None,
) -> dict[str, Any]:
    """Score `folder/results.txt` on the given images, write the three files there and return the metrics.

    `about` goes into the metrics as it is: split, features, map_bytes, and so on. `results`, when they are at hand, give the report its
    pictures.
    """
    scores = read_scores(folder, images)
    extent = scene_extent(scene)
    summary = summarize(scores, scene.units, extent)
    trust = summarize_trust(scores, scene.units, extent, about.get("min_confidence"))
    metrics = {"dataset": scene.dataset, "scene": scene.name, **summary, **about, "trust": trust, "versions": versions()}
    write_per_image(folder / PER_IMAGE, scores, scene.units, extent)
    Report(scene, scores, metrics, results or {}).write(folder / REPORT)
    write_json(folder / METRICS, metrics)
    return metrics


def clear_scores(folder: Path) -> None:
    """Remove the scores of earlier poses, so that a kill cannot leave them beside new ones; `metrics.json` comes last and goes first."""
    for name in (METRICS, PER_IMAGE, REPORT):
        (folder / name).unlink(missing_ok=True)


def read_scores(folder: Path, images: Sequence[SceneImage]) -> list[Score]:
    """Scores of what `folder` holds. Raises InputError when its poses are of other images."""
    poses = read_results(folder / RESULTS)
    if poses and not any(image.name in poses for image in images):
        raise InputError(f"{folder / RESULTS} holds none of the {len(images)} images to score, but for example {next(iter(poses))!r}.")
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
