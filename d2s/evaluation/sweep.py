"""Which checkpoint and which reliability threshold localize best: all pairs, ranked on the validation images, never on the test images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from d2s.errors import InputError
from d2s.evaluation.score import CM_PER_PERCENT, METRES, Score, scene_extent, score_images
from d2s.features.base import LocalFeatures
from d2s.localization.localizer import Localizer
from d2s.scene.manifest import Scene, SceneImage

logger = logging.getLogger(__name__)

THRESHOLDS = (0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80)

# --idx_eval -> distance in cm and angle in degrees of the recall that ranks (as in the published evaluation).
RANKINGS: dict[int, tuple[float, float]] = {0: (5, 5), 1: (15, 360), 2: (22, 360), 3: (35, 360), 4: (38, 10), 5: (50, 10)}


@dataclass(frozen=True)
class SweepEntry:
    """One checkpoint with one reliability threshold on the validation images: medians (scene unit, degrees) and the recall that ranks."""

    epoch: int
    threshold: float
    median_t: float
    median_r_deg: float
    recall: float

    def rank(self) -> tuple[float, float, int, float]:
        """Sorts the best entry first: highest recall, then lowest median error, then latest epoch, then lowest threshold."""
        return -self.recall, self.median_t, -self.epoch, self.threshold


def ranking_tolerance(idx_eval: int, scene: Scene) -> tuple[float, float]:
    """Distance (scene unit) and angle (degrees) of --idx_eval; without a metric scale, 5 cm stand for 1 % of the scene's extent."""
    cm, deg = RANKINGS[idx_eval]
    return (cm / 100 if scene.units == METRES else cm / CM_PER_PERCENT / 100 * scene_extent(scene)), deg


def sweep_checkpoint(
    epoch: int, localizer: Localizer, scene: Scene, queries: Sequence[tuple[SceneImage, LocalFeatures]], tolerance: tuple[float, float]
) -> list[SweepEntry]:
    """One entry per threshold, the model's own among them; the network runs once per image."""
    predicted = [(image, *localizer.predict(features)) for image, features in queries]
    entries = []
    for threshold in sorted({localizer.threshold, *THRESHOLDS}):
        poses = {}
        for image, features, xyz, reliability in predicted:
            result = localizer.solve(features, xyz, reliability, scene.camera(image), threshold)
            if result.cam_from_world is not None:
                poses[image.name] = result.cam_from_world
        entries.append(_entry(epoch, threshold, score_images([image for image, _ in queries], poses), tolerance))
    return entries


def _entry(epoch: int, threshold: float, scores: Sequence[Score], tolerance: tuple[float, float]) -> SweepEntry:
    t, r_deg = np.array([s.t for s in scores]), np.array([s.r_deg for s in scores])
    recall = float(((t <= tolerance[0]) & (r_deg <= tolerance[1])).mean())
    return SweepEntry(epoch, threshold, float(np.median(t)), float(np.median(r_deg)), recall)


def best_entry(entries: Iterable[SweepEntry]) -> SweepEntry:
    """The entry that ranks first."""
    ranked = sorted(entries, key=SweepEntry.rank)
    if not ranked:
        raise InputError("No checkpoint lies in the given range of epochs.")
    return ranked[0]


def sweep_table(entries: Iterable[SweepEntry]) -> str:
    """Text of `best.txt`, best first: epoch, med_t (scene unit), med_R (degrees), ratio (the recall that ranks), uncer_thres."""
    ranked = sorted(entries, key=SweepEntry.rank)
    lines = [f"{e.epoch} {e.median_t:.6f} {e.median_r_deg:.4f} {e.recall:.4f} {e.threshold:g}" for e in ranked]
    return "\n".join(["# epoch med_t med_R ratio uncer_thres", *lines]) + "\n"
