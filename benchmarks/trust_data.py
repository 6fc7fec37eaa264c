"""What `benchmarks/trust.py` learns from and measures on: results of models on photos of their own place and of all others.

Right place: mapping and validation images to learn from, test images to measure on, each as it is and degraded (few keypoints, part of
the view, blurred descriptors), so that there are poses of every quality. Other places: photos of all other scenes, with cameras of
their own. To learn from, poses count that are no more than chance too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.evaluation.reliability import right_within
from d2s.evaluation.score import scene_extent
from d2s.features.base import LocalFeatures, settings_hash
from d2s.features.extraction import extract_all
from d2s.features.table import extractor_from_settings
from d2s.localization import base
from d2s.localization.covariance import in_world, pose_covariance, pose_difference
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.localization.signals import signals_of
from d2s.localization.trust import isotropic
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.manifest import Scene, SceneImage

LEARN, MEASURE = "learn", "measure"
ABSENT = "absent"


@dataclass(frozen=True)
class Place:
    """A preprocessed scene and a model of it; `name` says which."""

    name: str
    folder: Path
    model: Path
    scene: Scene

    @property
    def where(self) -> str:
        """The place itself: two models of one place see each other's photos rightly."""
        return f"{self.scene.dataset}/{self.scene.name}"


def load_place(folder: Path, model: Path, name: str) -> Place:
    """A pair of the command line."""
    return Place(name, folder, model, Scene.load(folder))


class Photos:
    """Features of any scene's images with any settings: from the scene's own files where they fit, else extracted once into `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def read(self, place: Place, images: Sequence[SceneImage], settings: dict[str, Any]) -> list[LocalFeatures]:
        """Features of the images, in their order."""
        stored = place.folder / "features.h5"
        found: dict[str, LocalFeatures] = {}
        if place.scene.features["settings"] == settings and stored.is_file():
            found |= _read_those(stored, images)
        left = [image for image in images if image.name not in found]
        if left:
            found |= _read_those(self._extracted(place, left, settings), left)
        return [found[image.name] for image in images]

    def _extracted(self, place: Place, images: Sequence[SceneImage], settings: dict[str, Any]) -> Path:
        names = sorted(image.name for image in images)
        key = settings_hash({"settings": settings, "names": names})
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
    places: Sequence[Place], place: Place, photos: Photos, purpose: str, most: int, degraded: int, alike: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Rows of one model: at most `most` images of each kind and place, with `degraded` degraded versions of those of its own place.

    Of places that are `alike`, models see all of each other's photos: a few of these are what is hardest to refuse.
    """
    localizer = Localizer.load(place.model, min_confidence=0.0)
    rows = []
    for other in places_to_show(places):
        own = other.where == place.where
        images = _images(place if own else other, purpose)
        if own or not {place.where, other.where} <= set(alike):
            images = _spread(images, most)
        features = photos.read(place if own else other, images, localizer.info.features)
        for image, one in zip(images, features, strict=True):
            for kind, version in [("as it is", one), *(_degraded(one, image.name, degraded) if own else ())]:
                with nullcontext() if purpose == MEASURE else chance_poses():
                    rows.append({"kind": kind, **_row(localizer, place, other, image, version)})
    return rows


@contextmanager
def chance_poses() -> Iterator[None]:
    """Also poses that are no more than chance, which are failures otherwise: nothing shows better what wrong ones look like."""
    test = base.is_by_chance
    base.is_by_chance = lambda *_: False
    try:
        yield
    finally:
        base.is_by_chance = test


def places_to_show(places: Sequence[Place]) -> list[Place]:
    """Every place once."""
    return list({place.where: place for place in places}.values())


def _images(place: Place, purpose: str) -> list[SceneImage]:
    splits = ("train", "val") if purpose == LEARN else ("test",)
    return [image for image in place.scene.split(*splits) if image.cam_from_world is not None]


def _spread(images: Sequence[SceneImage], most: int) -> list[SceneImage]:
    """At most `most` images over the whole sequence, those of the validation split first."""
    first = [image for image in images if image.split == "val"][:most]
    rest = [image for image in images if image.split != "val"]
    chosen = np.unique(np.linspace(0, max(len(rest) - 1, 0), min(len(rest), most - len(first))).astype(int))
    return first + [rest[i] for i in chosen]


def _degraded(features: LocalFeatures, name: str, count: int) -> Iterator[tuple[str, LocalFeatures]]:
    random = np.random.default_rng([*name.encode(), count])
    kinds = (("few keypoints", _thinned), ("part of the view", _cropped), ("blurred descriptors", _blurred))
    start = int(random.integers(len(kinds)))
    for number in range(count):
        kind, change = kinds[(start + number) % len(kinds)]
        yield kind, change(features, random)


def _thinned(features: LocalFeatures, random: np.random.Generator) -> LocalFeatures:
    share = 10 ** random.uniform(-2, -0.3)
    return _rows(features, random.random(len(features)) < share)


def _cropped(features: LocalFeatures, random: np.random.Generator) -> LocalFeatures:
    """The keypoints of a window in the image: the rest is hidden behind something without texture."""
    size = np.array(features.image_size) * random.uniform(0.06, 0.4)
    corner = random.uniform(0, 1, 2) * (np.array(features.image_size) - size)
    inside = (features.keypoints >= corner) & (features.keypoints < corner + size)
    return _rows(features, np.all(inside, axis=1))


def _blurred(features: LocalFeatures, random: np.random.Generator) -> LocalFeatures:
    """As in a dark or blurred photo: descriptors turned by up to 70 degrees at random."""
    descriptors = np.asarray(features.descriptors, dtype=np.float32)
    noise = random.normal(size=descriptors.shape).astype(np.float32)
    noise *= random.uniform(0.5, 3.0) / np.sqrt(descriptors.shape[1])
    turned = descriptors + noise
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return LocalFeatures(features.keypoints, features.scores, turned, features.image_size)


def _rows(features: LocalFeatures, mask: NDArray[np.bool_]) -> LocalFeatures:
    return LocalFeatures(features.keypoints[mask], features.scores[mask], features.descriptors[mask], features.image_size)


def tolerance_of(scene: Scene) -> float:
    """Distance (scene unit) within which a pose is right."""
    return right_within(scene.units, scene_extent(scene))[0]


def _row(localizer: Localizer, place: Place, shown: Place, image: SceneImage, features: LocalFeatures) -> dict[str, Any]:
    """What came out for one photo. `difference`: the error (6,), None on the wrong place or without a pose."""
    camera = (place if shown.where == place.where else shown).scene.camera(image)
    result = localizer.localize_features(features, camera)
    row: dict[str, Any] = {"model": place.name, "where": place.where, "shown": shown.where, "image": image.name, "split": image.split}
    row |= {"tolerance": tolerance_of(place.scene), "found": result.cam_from_world is not None, "inliers": result.num_inliers}
    if result.cam_from_world is None or result.cam_from_map is None:
        return row
    covariance = covariance_of(result, camera)
    row["doubt"] = result.doubt
    row["signals"] = signals_of(result, camera, localizer.estimator.max_error, covariance).tolist()
    if shown.where == place.where and image.cam_from_world is not None:
        row["difference"] = pose_difference(result.cam_from_world, image.cam_from_world).tolist()
        field = localizer.info.pose_field
        known = isotropic(*((0.0, 0.0) if field is None else field.deviations(result.cam_from_map)))
        world = None if covariance is None else in_world(covariance, result.cam_from_map, result.cam_from_world) + known
        row["covariance"] = None if world is None else world.tolist()
    return row


def covariance_of(result: LocalizationResult, camera: pycolmap.Camera) -> NDArray[np.float64] | None:
    """Of the pose in the map, from the residuals alone."""
    assert result.cam_from_map is not None
    rows = result.inliers
    return pose_covariance(result.cam_from_map, result.keypoints[rows].astype(float), result.xyz[rows].astype(float), camera)
