"""How good poses are: errors of each image, and `metrics.json` and `per_image.csv` of all.

Errors are measured from the files on disk (`results.txt`, and `predictions.jsonl` where there is one) against the scene's poses. An image
without a pose in `results.txt` has an infinite error and stays in every median and every denominator. Images whose true pose is unknown
are not scored.

Units. In a scene in metres, distances are given in centimetres. In a scene of arbitrary scale a centimetre means nothing: `median_t_cm`
and the recalls at centimetre thresholds are null there, and `median_t` (in the scene's unit), `median_t_relative` and `recall_relative`
say how good the poses are: relative to `scene_extent`, the diagonal of the box around all camera centres. 1 % of it stands where 5 cm do.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.localization.result import STAGES
from d2s.scene.atomic import write_text
from d2s.scene.manifest import Scene, SceneImage

Array = NDArray[np.float64]
METRES = "metres"

# Name of a recall -> distance in cm, angle in degrees.
RECALLS: dict[str, tuple[float, float]] = {
    "1cm1deg": (1, 1),
    "2cm2deg": (2, 2),
    "3cm3deg": (3, 3),
    "5cm5deg": (5, 5),
    "10cm10deg": (10, 10),
    "25cm2deg": (25, 2),
    "50cm5deg": (50, 5),
    "500cm10deg": (500, 10),
}
CM_PER_PERCENT = 5.0  # where there is no scale, 1 % of the scene's extent is asked for what 5 cm ask for in a room


@dataclass(frozen=True)
class Score:
    """One query: what was estimated and how far off it is. `t` in the scene's unit and `r_deg` are infinite without a pose.

    `found_t` and `found_r_deg` are those of the pose that was found, even where it was refused for its low `confidence`; `sigma_t` and
    `sigma_r_deg` say how far off it was expected to be.
    """

    image: SceneImage
    cam_from_world: Array | None
    t: float
    r_deg: float
    reason: str = ""
    inliers: int | None = None
    kept: int | None = None
    extracted: int | None = None
    ms: Mapping[str, float] = field(default_factory=dict)
    confidence: float | None = None
    found_t: float = math.inf
    found_r_deg: float = math.inf
    sigma_t: float | None = None
    sigma_r_deg: float | None = None

    @property
    def success(self) -> bool:
        """Whether there is a pose; it may still be a bad one."""
        return self.cam_from_world is not None


def score_images(
    images: Sequence[SceneImage], poses: Mapping[str, Array], predictions: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Score]:
    """Scores of the images that have a true pose, in their order. Raises InputError when no image has one."""
    scored = [image for image in images if image.cam_from_world is not None]
    if not scored:
        raise InputError("None of the images to evaluate has a known pose, so there is nothing to compare with.")
    return [_score(image, poses.get(image.name), (predictions or {}).get(image.name, {})) for image in scored]


def _score(image: SceneImage, cam_from_world: Array | None, prediction: Mapping[str, Any]) -> Score:
    t, r_deg = _errors(image, cam_from_world)
    reason = "" if cam_from_world is not None else prediction.get("reason") or "no pose in results.txt"
    known = {name: prediction.get(name) for name in ("inliers", "kept", "extracted", "confidence", "sigma_t", "sigma_r_deg")}
    refused = prediction.get("refused_pose")
    found_t, found_r_deg = (t, r_deg) if refused is None else _errors(image, pose.from_qvec_tvec(refused["qvec"], refused["tvec"]))
    return Score(image, cam_from_world, t, r_deg, reason, ms=prediction.get("ms", {}), found_t=found_t, found_r_deg=found_r_deg, **known)


def _errors(image: SceneImage, cam_from_world: Array | None) -> tuple[float, float]:
    """Distance and degrees from the image's true pose, which is known."""
    return (math.inf, math.inf) if cam_from_world is None else pose.pose_error(cam_from_world, image.cam_from_world)  # type: ignore[arg-type]


def scene_extent(scene: Scene) -> float:
    """Diagonal of the box around all known camera centres, in the scene's unit."""
    poses = [image.cam_from_world for image in scene.images if image.cam_from_world is not None]
    return float(np.linalg.norm(np.ptp(pose.center(np.stack(poses)), axis=0))) if poses else 0.0


def summarize(scores: Sequence[Score], units: str, extent: float) -> dict[str, Any]:
    """The part of `metrics.json` that follows from the scores. Values that are infinite or have no meaning are null (None)."""
    t, r_deg = np.array([s.t for s in scores]), np.array([s.r_deg for s in scores])
    metric = units == METRES
    relative = t / extent if extent > 0 else np.full_like(t, np.inf)
    return {
        "n_queries": len(scores),
        "n_failed": sum(not s.success for s in scores),
        "median_t_cm": _finite(100 * np.median(t)) if metric else None,
        "median_r_deg": _finite(np.median(r_deg)),
        "recall": {name: _recall(t, r_deg, cm / 100, deg) if metric else None for name, (cm, deg) in RECALLS.items()},
        "ms": {stage: median_ms(scores, stage) for stage in STAGES},
        "units": units,
        "scene_extent": extent,
        "median_t": _finite(np.median(t)),
        "median_t_relative": _finite(np.median(relative)),
        "recall_relative": {
            relative_name(cm, deg): _recall(relative, r_deg, cm / CM_PER_PERCENT / 100, deg) for cm, deg in RECALLS.values()
        },
        "mean_inliers": _mean([s.inliers for s in scores]),
        "mean_kept": _mean([s.kept for s in scores]),
        "mean_extracted": _mean([s.extracted for s in scores]),
    }


def relative_name(cm: float, deg: float) -> str:
    """Name of the recall that stands for `cm` centimetres where there is no scale, for example 1%5deg."""
    return f"{cm / CM_PER_PERCENT:g}%{deg:g}deg"


def _recall(t: Array, r_deg: Array, max_t: float, max_r_deg: float) -> float:
    return float(((t <= max_t) & (r_deg <= max_r_deg)).mean())


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def median_ms(scores: Sequence[Score], stage: str, quantile: float = 0.5) -> float | None:
    """Median (or another quantile) of the milliseconds of a stage, over the images that went through it."""
    times = [s.ms[stage] for s in scores if stage in s.ms]
    return float(np.quantile(times, quantile)) if times else None


def per_image_csv(scores: Sequence[Score], units: str, extent: float) -> str:
    """Text of `per_image.csv`. `t_cm` is empty where the scene has no scale; `t` is in the scene's unit; infinite errors read inf."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "success", "reason", "t_cm", "r_deg", "inliers", "kept", "extracted", *(f"ms_{s}" for s in STAGES), "t", "t_relative"]
    )
    for s in scores:
        t_cm = f"{100 * s.t:.4f}" if units == METRES else ""
        relative = f"{s.t / extent:.6f}" if extent > 0 else ""
        counts = ["" if value is None else value for value in (s.inliers, s.kept, s.extracted)]
        times = [s.ms.get(stage, "") for stage in STAGES]
        writer.writerow([s.image.name, int(s.success), s.reason, t_cm, f"{s.r_deg:.4f}", *counts, *times, f"{s.t:.6f}", relative])
    return text.getvalue()


def write_per_image(path: Path, scores: Sequence[Score], units: str, extent: float) -> None:
    """Write `per_image.csv`."""
    write_text(path, per_image_csv(scores, units, extent))
