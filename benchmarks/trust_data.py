"""What `benchmarks/trust.py` learns from and measures on: results of models on photos of their own place and of all others.

Right place: mapping, validation and test images of the same recording; photos of another day and simulated changes, as
`benchmarks/other_day.py` asks them, and the further sides of `trust_sides`. Other places: photos of all other scenes, with cameras of
their own. Poses that are no more than chance are kept, and marked. Beside the first answer to a photo stands the one that trying harder
ends with (`effort`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.evaluation.matching_baseline import extract_queries
from d2s.evaluation.reliability import right_within
from d2s.evaluation.score import METRES, scene_extent
from d2s.features.base import Extractor, LocalFeatures, settings_hash
from d2s.features.extraction import extract_all
from d2s.features.images import read_image
from d2s.features.table import extractor_from_settings
from d2s.features.upright import extract_upright, quarter_turns
from d2s.localization import base, effort, focal
from d2s.localization.covariance import in_world, pose_covariance, pose_difference
from d2s.localization.effort import Question, try_harder
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.localization.signals import signals_of
from d2s.localization.trust import RELATIVE_TOLERANCE, isotropic
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.manifest import Scene, SceneImage

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
from other_day_data import ROWS as DAYS
from other_day_data import other_photos
from trust_sides import FAR, SIDES

SAME, DAY, CHANGED, ELSEWHERE = CONDITIONS = ("same recording", "another day", "changed photo", "another place")
"""Under what conditions photos were asked, see `Asked`."""
UNMAPPED = "a side not mapped"
"""A condition that nothing is learnt from and nothing promised of: no photo tells the back of a symmetric building from its front."""
CLOSE_METRES = 0.05
SAME_PLACE = {"colmap/redkitchen_other_day": "7scenes/redkitchen"}
"""Scenes that show a place of another name."""
ROWS = DAYS | SIDES | FAR
MORE_ALIKE = 5
"""Of places that look alike, models see so many times as many photos of each other: a few of these are what is hardest to refuse."""


@dataclass(frozen=True)
class Asked:
    """Queries of a model: test images of `scene`, their features in the file `features`, or in none yet. `camera`: whether it is known."""

    name: str
    condition: str
    scene: Scene
    features: Path
    camera: bool = True


@dataclass(frozen=True)
class Place:
    """A preprocessed scene, a model of it, and what it is asked; `name` says which."""

    name: str
    folder: Path
    model: Path
    scene: Scene
    asked: tuple[Asked, ...] = ()

    @property
    def where(self) -> str:
        """The place itself: two models of one place see each other's photos rightly."""
        name = f"{self.scene.dataset}/{self.scene.name}"
        return SAME_PLACE.get(name, name)


def load_place(folder: Path, model: Path, name: str, work: Path) -> Place:
    """A pair of the command line: its own test images, if any, are of the same recording."""
    scene = Scene.load(folder)
    return Place(name, folder, model, scene, (Asked(name, SAME, scene, work / f"queries-{name}.h5"),))


def load_other_day(home: Path) -> Place:
    """A place of benchmarks/other_day.py in its folder, with all that its rows ask, as far as they were prepared; its model is that of the
    first seed.
    """
    rows = {name: row for name, row in ROWS.items() if row.place == home.name}
    case = next(iter(rows.values())).case
    folder = home / "dataset" / case.dataset / case.scene
    asked = []
    for name, row in rows.items():
        where = folder if row.asked is None else home / "asked" / name
        if not (where / "scene.json").is_file():
            continue
        condition = UNMAPPED if name in FAR else DAY if row.asked in (None, other_photos) or name in SIDES else CHANGED
        asked.append(Asked(name, condition, Scene.load(where), home / f"queries-{name}.h5", row.camera))
    if all(row.asked is not None for row in rows.values()):  # its own test images are no row: they are of the recording
        asked.append(Asked(home.name, SAME, Scene.load(folder), home / f"queries-{home.name}.h5"))
    return Place(home.name, folder, home / "logs" / "seed0" / "model", Scene.load(folder), tuple(asked))


class Photos:
    """Features of any scene's images with any settings: from the scene's own files where they fit, else extracted once into `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def read(self, place: Place, images: Sequence[SceneImage], settings: dict[str, Any]) -> list[LocalFeatures]:
        """Features of the images, in their order."""
        found: dict[str, LocalFeatures] = {}
        asked = [one.features for one in place.asked if one.scene.image_dir == place.scene.image_dir]
        for stored in (place.folder / "features.h5", *asked):
            if place.scene.features["settings"] == settings and stored.is_file():
                found |= _read_those(stored, images)
        left = [image for image in images if image.name not in found]
        if left:
            found |= _read_those(self._extracted(place, left, settings), left)
        return [found[image.name] for image in images]

    def _extracted(self, place: Place, images: Sequence[SceneImage], settings: dict[str, Any]) -> Path:
        names = sorted(image.name for image in images)
        key = settings_hash({"settings": settings, "photos": str(place.scene.image_dir), "names": names})
        path = self.work / f"{place.scene.name}-{settings['name']}-{key}.h5"
        if not path.is_file():
            writer = FeatureWriter(path, settings)
            writer.write(extract_all(extractor_from_settings(settings), [(image.name, place.scene.path(image)) for image in images]))
            writer.finish(names)
        return path


def _read_those(path: Path, images: Sequence[SceneImage]) -> dict[str, LocalFeatures]:
    with FeatureReader(path) as reader:
        return {image.name: reader.read(image.name) for image in images if image.name in reader}


def collect(
    places: Sequence[Place], place: Place, photos: Photos, most: int, others: int, alike: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of one model: what it is asked, at most `most` images of its recording, and at most `others` photos of every other place,
    MORE_ALIKE times as many where both are `alike`.
    """
    localizer = Localizer.load(place.model)
    rows = []
    for asked in place.asked:
        tests = [image for image in asked.scene.split("test") if image.cam_from_world is not None]
        if tests:
            extract_queries(asked.scene, asked.scene.split("test"), asked.features)
        features = _read_those(asked.features, tests) if tests else {}
        about = {"asked": asked.name, "condition": asked.condition}
        for image in tests:
            camera = asked.scene.camera(image) if asked.camera else None
            rows.append({**about, **_row(localizer, place, place, image, features[image.name], camera, asked.scene.path(image))})
    images = _spread([image for image in place.scene.split("train", "val") if image.cam_from_world is not None], most)
    for image, one in zip(images, photos.read(place, images, localizer.info.features), strict=True):
        about = {"asked": place.name, "condition": SAME}
        photo = place.scene.path(image) if image.split == "val" else None  # nobody asks what the map was made from
        rows.append({**about, **_row(localizer, place, place, image, one, place.scene.camera(image), photo)})
    for other in places_to_show(places):
        if other.where == place.where:
            continue
        images = [image for image in other.scene.images if image.cam_from_world is not None]
        images = _spread(images, others * (MORE_ALIKE if {place.where, other.where} <= set(alike) else 1))
        for image, one in zip(images, photos.read(other, images, localizer.info.features), strict=True):
            about = {"asked": other.name, "condition": ELSEWHERE}
            rows.append({**about, **_row(localizer, place, other, image, one, other.scene.camera(image), other.scene.path(image))})
    return rows


@contextmanager
def chance_poses() -> Iterator[list[bool]]:
    """The first pose that is found stays though it is no more than chance: nothing shows better what wrong ones look like.

    The list says afterwards of every pose that was tested whether it is no more than chance, the first one first.
    """
    tests, said = (base.is_by_chance, focal.is_by_chance), list[bool]()

    def noted(*args: Any) -> bool:
        said.append(tests[0](*args))
        return said[-1] and len(said) > 1

    base.is_by_chance = focal.is_by_chance = noted
    try:
        yield said
    finally:
        base.is_by_chance, focal.is_by_chance = tests


_REMEMBERED: dict[tuple[Any, ...], list[LocalFeatures]] = {}


@contextmanager
def remembered_features() -> Iterator[None]:
    """What trying harder extracts of a photo is kept for the models that are shown it after: most have the same features."""

    def remembered(extractor: Extractor, images: Sequence[NDArray[np.uint8]], turns: Sequence[int]) -> list[LocalFeatures]:
        key = (settings_hash(extractor.settings()), *(hash(image.tobytes()) for image in images), *turns)
        if key not in _REMEMBERED:
            _REMEMBERED[key] = extract_upright(extractor, images, turns)
        return _REMEMBERED[key]

    effort.extract_upright = remembered
    try:
        yield
    finally:
        effort.extract_upright = extract_upright


def places_to_show(places: Sequence[Place]) -> list[Place]:
    """Every place once, by the first of its models."""
    return list({place.where: place for place in reversed(places)}.values())


def _spread(images: Sequence[SceneImage], most: int) -> list[SceneImage]:
    """At most `most` images over the whole sequence, those of the validation split first."""
    first = [image for image in images if image.split == "val"][:most]
    rest = [image for image in images if image.split != "val"]
    chosen = np.unique(np.linspace(0, max(len(rest) - 1, 0), min(len(rest), most - len(first))).astype(int))
    return first + [rest[i] for i in chosen]


def close_of(scene: Scene) -> float:
    """Distance (scene unit) of the recall that refusals may not cost: 5 cm, or 5 % of the extent of the mapping cameras."""
    return CLOSE_METRES if scene.units == METRES else RELATIVE_TOLERANCE * scene_extent(scene.with_images(scene.split("train", "val")))


def _row(
    localizer: Localizer,
    place: Place,
    shown: Place,
    image: SceneImage,
    features: LocalFeatures,
    camera: pycolmap.Camera | None,
    photo: Path | None,
) -> dict[str, Any]:
    """What came out for one photo: the first answer, and under "effort" the one that trying harder with its file `photo` ends with, None
    where that is the first one.
    """
    with chance_poses() as by_chance:
        first = localizer.localize_features(features, camera)
    row: dict[str, Any] = {"model": place.name, "where": place.where, "shown": shown.where, "image": image.name, "split": image.split}
    row |= {"tolerance": right_within(place.scene.units, scene_extent(place.scene)), "close": close_of(place.scene)}
    true = image.cam_from_world if shown.where == place.where else None
    row |= _answer(localizer, first, true, not by_chance or by_chance[0])
    if photo is not None:
        with remembered_features():
            question = Question(read_image(photo), quarter_turns(photo), camera, features)
            last = try_harder(localizer, first, question, time.perf_counter())
        row["effort"] = None if last.cam_from_map is first.cam_from_map else _answer(localizer, last, true)
    return row


def _answer(localizer: Localizer, result: LocalizationResult, true: NDArray[np.float64] | None, by_chance: bool = False) -> dict[str, Any]:
    """`found`: whether there is a pose that is more than chance. `difference`: its error (6,), where a `true` pose is known."""
    cam_from_world = result.refused_pose if result.cam_from_world is None else result.cam_from_world
    answer: dict[str, Any] = {"found": cam_from_world is not None and not by_chance, "inliers": result.num_inliers}
    if cam_from_world is None or result.cam_from_map is None or result.camera is None:
        return answer
    covariance = covariance_of(result, result.camera)
    answer["doubt"] = result.doubt
    answer["signals"] = signals_of(result, result.camera, localizer.estimator.max_error, covariance).tolist()
    if true is not None:
        answer["difference"] = pose_difference(cam_from_world, true).tolist()
        field = localizer.info.pose_field
        known = isotropic(*((0.0, 0.0) if field is None else field.deviations(result.cam_from_map)))
        world = None if covariance is None else in_world(covariance, result.cam_from_map, cam_from_world) + known
        answer["covariance"] = None if world is None else world.tolist()
    return answer


def covariance_of(result: LocalizationResult, camera: pycolmap.Camera) -> NDArray[np.float64] | None:
    """Of the pose in the map, from the residuals alone."""
    assert result.cam_from_map is not None
    rows = result.inliers
    return pose_covariance(result.cam_from_map, result.keypoints[rows].astype(float), result.xyz[rows].astype(float), camera, result.free)
