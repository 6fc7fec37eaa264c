"""Whether a place is learnt at the given poses or at refined ones: whichever answers better where nothing was mapped.

Whole stretches of the mapping path, its ends among them, are localized in both maps as they would be without these images: points
triangulated anew from the others, mean descriptors of the others, and a pose field that was fitted without them. What counts are errors in
the frame of the given poses. The neighbours in a video hide what a map and its field do not know, so single images would not do. But
neither would stretches alone: next to a mapping image, the given map follows a drift of the given poses that no field can. So validation
images, which lie among mapping images and are in neither map, have their say too.

What the rest keeps of a held-out stretch is that bundle adjustment knew it when it refined the others' poses.
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
"""Of a held-out stretch, those that are localized, evenly spread; of the validation images, twice as many."""
TOLERANCES = ((1.0, 1.0), (2.0, 2.0), (5.0, 5.0), (10.0, 10.0), (25.0, 2.0))
"""Centimetres and degrees of the recalls that are averaged; without a scale, 1 % of the extent stands for 5 cm."""
CLEARLY = 0.03
"""What the averaged recall must gain at refined poses, and may nowhere lose: the given ones need no field."""


@dataclass(frozen=True)
class Localized:
    """How held-out images fared in a map: the mean of the recalls within TOLERANCES `near` mapping images, on stretches in the `middle` of
    the path and at its `ends`, and the median distance of all in the scene's unit (None: infinite).
    """

    near: float
    middle: float
    ends: float
    median_t: float | None

    @property
    def recalls(self) -> tuple[float, float, float]:
        """Near, in the middle, at the ends."""
        return self.near, self.middle, self.ends


@dataclass(frozen=True)
class MapChoice:
    """Both maps on the same `images` held-out images."""

    given: Localized
    refined: Localized
    images: int

    @property
    def takes_refined(self) -> bool:
        """Whether answers are clearly better at refined poses, and nowhere clearly worse."""
        gains = np.subtract(self.refined.recalls, self.given.recalls)
        return bool(gains.min() > -CLEARLY and gains.mean() >= CLEARLY)

    def to_json(self) -> dict[str, Any]:
        """JSON values for the run's state."""
        return asdict(self)


@dataclass(frozen=True)
class _Trial:
    """Images to localize in a map without the mapping images `held`, and what they stand for."""

    held: frozenset[str]
    near: Sequence[SceneImage] = ()
    middle: Sequence[SceneImage] = ()
    ends: Sequence[SceneImage] = ()


def choose_map(folder: Path, scene: Scene, recipe: Recipe, refined: RefinedMap) -> MapChoice | None:
    """Localize held-out images of a preprocessed scene in both maps; the same scene gives the same choice.

    None where there are too few images to tell.
    """
    path = [image for image in scene.split("train") if image.name in refined.cam_from_map and image.cam_from_world is not None]
    validation = [image for image in scene.split("val") if image.cam_from_world is not None]
    if len(path) < FEWEST or not validation:
        return None
    trials = _trials(path, validation)
    given, moved = (_localized(folder, scene, recipe, poses, trials) for poses in (None, refined))
    return MapChoice(given, moved, sum(len(trial.near) + len(trial.middle) + len(trial.ends) for trial in trials))


def _trials(path: Sequence[SceneImage], validation: Sequence[SceneImage]) -> list[_Trial]:
    stretches = [[path[i] for i in rows] for rows in np.array_split(np.arange(len(path)), STRETCHES)]
    trials = [_Trial(frozenset(), near=_spread(validation, 2 * IMAGES_PER_STRETCH))]
    for end, inner in ROUNDS:
        held = frozenset(image.name for part in (end, inner) for image in stretches[part])
        trials.append(_Trial(held, middle=_spread(stretches[inner], IMAGES_PER_STRETCH), ends=_spread(stretches[end], IMAGES_PER_STRETCH)))
    return trials


def _spread(images: Sequence[SceneImage], most: int) -> list[SceneImage]:
    return [images[i] for i in np.linspace(0, len(images) - 1, min(len(images), most)).astype(int)]


def choice_text(choice: MapChoice | None, units: str) -> str:
    """One line with the figures of both maps, and which is learnt."""
    if choice is None:
        return f"The map at given poses is learnt: refined ones need {FEWEST} images and validation images to be tried on."
    factor, unit = (100, "cm") if units == METRES else (1, "units")

    def figures(found: Localized) -> str:
        median = "none" if found.median_t is None else f"{factor * found.median_t:.3g} {unit}"
        return f"{', '.join(f'{100 * recall:.0f}' for recall in found.recalls)} % (median {median})"

    learnt = "refined" if choice.takes_refined else "given"
    return (
        f"Mean recall of {choice.images} held-out images, near others, in the middle, at the ends: {figures(choice.given)} at the "
        f"given poses, {figures(choice.refined)} at refined ones: the map at {learnt} poses is learnt."
    )


def pose_field(scene: Scene, refined: RefinedMap, without: Collection[str] = ()) -> PoseField | None:
    """What brings poses of the refined map into the frame of the given ones, from all mapping images but the named ones."""
    pairs = [
        (refined.cam_from_map[image.name], image.cam_from_world)
        for image in scene.split("train")
        if image.name in refined.cam_from_map and image.cam_from_world is not None and image.name not in without
    ]
    return fit_pose_field(np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]))


def _localized(folder: Path, scene: Scene, recipe: Recipe, refined: RefinedMap | None, trials: Sequence[_Trial]) -> Localized:
    """How held-out images fare in one of the maps."""
    whole = load_training_set(folder, scene, refined=refined)
    found: dict[str, list[tuple[float, float]]] = {"near": [], "middle": [], "ends": []}
    for trial in trials:
        data = without_images(whole, torch.tensor([name in trial.held for name in whole.names])) if trial.held else whole
        field = None if refined is None else pose_field(scene, refined, trial.held)
        localizer = _untrained(scene, recipe, data, field)
        for part, errors in found.items():
            errors += [_error(folder, scene, localizer, image) for image in getattr(trial, part)]
    centimetre = 0.01 if scene.units == METRES else scene_extent(scene) / (100 * CM_PER_PERCENT)
    near, middle, ends = (
        float(np.mean([_recall(np.array(errors), centimetre * cm, deg) for cm, deg in TOLERANCES])) for errors in found.values()
    )
    median = float(np.median([distance for errors in found.values() for distance, _ in errors]))
    return Localized(near, middle, ends, median if np.isfinite(median) else None)


def _untrained(scene: Scene, recipe: Recipe, data: TrainingSet, field: PoseField | None) -> Localizer:
    """Model 3 before training: mean descriptors of the points, whatever model the recipe is for."""
    network = make_network(replace(recipe, model=replace(recipe.model, model=3)), data)
    info = ModelInfo(
        scene.dataset, scene.name, scene.units, scene.features.get("settings", {}), int(data.mask.shape[1]),
        recipe.localization.reliability_threshold, recipe.localization.max_error, pose_field=field,
    )  # fmt: skip
    return Localizer(TrainedModel(network, info), min_confidence=0.0)


def _error(folder: Path, scene: Scene, localizer: Localizer, image: SceneImage) -> tuple[float, float]:
    """Distance in the scene's unit and degrees from the given pose; infinite without an answer."""
    with FeatureReader(folder / FEATURES) as reader:
        found = localizer.localize_features(reader.read(image.name), scene.camera(image)).cam_from_world
    return (np.inf, np.inf) if found is None else pose.pose_error(found, image.cam_from_world)  # type: ignore[arg-type]


def _recall(errors: Array, distance: float, degrees: float) -> float:
    return float(((errors[:, 0] <= distance) & (errors[:, 1] <= degrees)).mean())
