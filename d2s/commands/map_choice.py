"""Whether a place is learnt at the given poses or at refined ones: whichever answers better where nothing was mapped.

Whole stretches of the mapping path, its ends among them, are localized in both maps as they would be without these images: points
triangulated anew from the others, mean descriptors of the others, and a pose field that was fitted without them. What counts are errors in
the frame of the given poses. Single images would not do, since the neighbours in a video hide what a map and its field do not know.

What the rest keeps of the held-out images is that bundle adjustment knew them when it refined the others' poses.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from d2s.config import Recipe
from d2s.evaluation.score import CM_PER_PERCENT, METRES, scene_extent
from d2s.geometry import pose
from d2s.geometry.pose_field import PoseField, fit_pose_field
from d2s.localization.localizer import Localizer
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import TrainedModel
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene, SceneImage
from d2s.scene.refined_map import RefinedMap
from d2s.training.data import FEATURES, TrainingSet, load_training_set
from d2s.training.networks import make_network
from d2s.training.without_images import without_images

Array = NDArray[np.float64]

STRETCHES = 10
"""Parts of the path."""
ROUNDS = ((0, 5), (STRETCHES - 1, 4))
"""Parts that are held out together: an end, and one from the middle."""
FEWEST = 30
"""Images on the path below which no field can be fitted without a fifth of them."""
IMAGES_PER_STRETCH = 12
"""Of a held-out stretch, those that are localized, evenly spread."""
TOLERANCES = ((1.0, 1.0), (2.0, 2.0), (5.0, 5.0), (10.0, 10.0), (25.0, 2.0))
"""Centimetres and degrees of the recalls that are averaged; without a scale, 1 % of the extent stands for 5 cm."""
CLEARLY = 0.03
"""What the averaged recall must gain at refined poses: the given ones need no field."""


@dataclass(frozen=True)
class Localized:
    """How held-out images fared in a map: the mean of the recalls within TOLERANCES at the ends of the path and in its middle, the recall
    at 5 cm and 5 degrees, and the median distance in the scene's unit (None: infinite).
    """

    ends: float
    middle: float
    recall_5cm: float
    median_t: float | None


@dataclass(frozen=True)
class MapChoice:
    """Both maps on the same `images` held-out images."""

    given: Localized
    refined: Localized
    images: int

    @property
    def takes_refined(self) -> bool:
        """Whether answers are clearly better at refined poses, and nowhere worse."""
        ends, middle = self.refined.ends - self.given.ends, self.refined.middle - self.given.middle
        return min(ends, middle) >= 0 and (ends + middle) / 2 >= CLEARLY

    def to_json(self) -> dict[str, Any]:
        """JSON values for the run's state."""
        return asdict(self)


def choose_map(folder: Path, scene: Scene, recipe: Recipe, refined: RefinedMap) -> MapChoice | None:
    """Localize held-out stretches of a preprocessed scene's mapping path in both maps; the same scene gives the same choice.

    None where the path has too few images to tell.
    """
    path = [image for image in scene.split("train") if image.name in refined.cam_from_map and image.cam_from_world is not None]
    if len(path) < FEWEST:
        return None
    stretches = [[path[i] for i in rows] for rows in np.array_split(np.arange(len(path)), STRETCHES)]
    given, moved = (_localized(folder, scene, recipe, poses, stretches) for poses in (None, refined))
    return MapChoice(given, moved, sum(len(_some(stretches[part])) for parts in ROUNDS for part in parts))


def choice_text(choice: MapChoice | None, units: str) -> str:
    """One line with the figures of both maps, and which is learnt."""
    if choice is None:
        return f"The map at given poses is learnt: refined ones need at least {FEWEST} images to be tried on."
    within, factor, unit = ("5 cm", 100, "cm") if units == METRES else ("1 % of the extent", 1, "units")

    def figures(found: Localized) -> str:
        median = "none" if found.median_t is None else f"{factor * found.median_t:.3g} {unit}"
        return f"{100 * found.recall_5cm:.0f} % within {within}, median {median}"

    learnt = "refined" if choice.takes_refined else "given"
    return (
        f"{choice.images} images of held-out stretches: {figures(choice.given)} at the given poses, {figures(choice.refined)} at refined "
        f"ones: the map at {learnt} poses is learnt."
    )


def pose_field(scene: Scene, refined: RefinedMap, without: Collection[str] = ()) -> PoseField | None:
    """What brings poses of the refined map into the frame of the given ones, from all mapping images but the named ones."""
    pairs = [
        (refined.cam_from_map[image.name], image.cam_from_world)
        for image in scene.split("train")
        if image.name in refined.cam_from_map and image.cam_from_world is not None and image.name not in without
    ]
    return fit_pose_field(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))


def _localized(
    folder: Path, scene: Scene, recipe: Recipe, refined: RefinedMap | None, stretches: Sequence[Sequence[SceneImage]]
) -> Localized:
    """How held-out images fare in one of the maps."""
    data = load_training_set(folder, scene, refined=refined)
    ends, middle = [], []
    for end, inner in ROUNDS:
        names = {image.name for part in (end, inner) for image in stretches[part]}
        field = None if refined is None else pose_field(scene, refined, names)
        localizer = _untrained(scene, recipe, without_images(data, torch.tensor([name in names for name in data.names])), field)
        ends.append(_errors(folder, scene, localizer, _some(stretches[end])))
        middle.append(_errors(folder, scene, localizer, _some(stretches[inner])))
    every = np.concatenate(ends + middle)
    centimetre = 0.01 if scene.units == METRES else scene_extent(scene) / (100 * CM_PER_PERCENT)
    median = float(np.median(every[:, 0]))
    means = [np.mean([_recall(np.concatenate(part), centimetre * cm, deg) for cm, deg in TOLERANCES]) for part in (ends, middle)]
    return Localized(float(means[0]), float(means[1]), _recall(every, 5 * centimetre, 5), median if np.isfinite(median) else None)


def _some(stretch: Sequence[SceneImage]) -> list[SceneImage]:
    return [stretch[i] for i in np.unique(np.linspace(0, len(stretch) - 1, min(len(stretch), IMAGES_PER_STRETCH)).astype(int))]


def _untrained(scene: Scene, recipe: Recipe, data: TrainingSet, field: PoseField | None) -> Localizer:
    """Model 3 before training: mean descriptors of the points, whatever model the recipe is for."""
    network = make_network(replace(recipe, model=replace(recipe.model, model=3)), data)
    info = ModelInfo(
        scene.dataset, scene.name, scene.units, scene.features.get("settings", {}), int(data.mask.shape[1]),
        recipe.localization.reliability_threshold, recipe.localization.max_error, pose_field=field,
    )  # fmt: skip
    return Localizer(TrainedModel(network, info), min_confidence=0.0)


def _errors(folder: Path, scene: Scene, localizer: Localizer, images: Sequence[SceneImage]) -> Array:
    """Distance in the scene's unit and degrees (N, 2) from the given poses; infinite without an answer."""
    with FeatureReader(folder / FEATURES) as reader:
        found = [localizer.localize_features(reader.read(image.name), scene.camera(image)).cam_from_world for image in images]
    return np.array(
        [
            (np.inf, np.inf) if cam_from_world is None else pose.pose_error(cam_from_world, image.cam_from_world)  # type: ignore[arg-type]
            for image, cam_from_world in zip(images, found, strict=True)
        ]
    )


def _recall(errors: Array, distance: float, degrees: float) -> float:
    return float(((errors[:, 0] <= distance) & (errors[:, 1] <= degrees)).mean())
