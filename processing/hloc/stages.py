"""The stages of preprocessing that read hloc's outputs: features, poses and map of one scene."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.features.base import LocalFeatures, settings_hash
from d2s.features.table import extractor_from_settings
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.base import DroppedImage, SceneSource
from processing.feature_stage import PART, extract_scene
from processing.hloc import again, agreement, precision
from processing.hloc.convert import convert
from processing.hloc.driver import Driver
from processing.hloc.extractors import recover, settings_record
from processing.hloc.formats import HlocFeatures, RawFeatures, read_queries
from processing.hloc.names import hloc_names
from processing.hloc.outputs import HlocOutputs, load_model
from processing.hloc.package import require_known_poses
from processing.progress import track
from processing.sfm.model_files import save_model
from processing.stages import Stages

logger = logging.getLogger(__name__)

NO_POSE = "not in hloc's SfM model"
NO_FEATURES = "not in hloc's feature file"
SAME_COUNT = (3, 0.1)
"""Images, at least, and share of all images that have the same number of keypoints: it was a limit then."""
DEPTH = "+depth"
"""Ends the name of a model whose points hloc moved to rendered depth."""


@dataclass(frozen=True)
class HlocInput:
    """What the user asked of hloc: to read `outputs`, or to run it with `drive` first. `reextract`: features anew, labels by place."""

    num_keypoints: int
    outputs: HlocOutputs | None = None
    drive: Driver | None = None
    device: str = "cpu"
    weights: Path | None = None
    reextract: bool = False

    def record(self) -> dict[str, Any]:
        """What decides the result, as JSON values: names, sizes and times of the files that are read, or what is run."""
        again = {"reextract": True} if self.reextract else {}
        if self.drive is not None:
            return {"drive": self.drive.options.record(), "folder": str(self.drive.folder.resolve()), **again}
        assert self.outputs is not None
        model = sorted(path for path in self.outputs.sfm.iterdir() if path.suffix in (".bin", ".txt"))
        files = {path.name: _stamp(path) for path in (self.outputs.features, *model)}
        return {"folder": str(self.outputs.folder.resolve()), "sfm": self.outputs.sfm.name, "files": files, **again}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, int(status.st_mtime)]


@dataclass(frozen=True)
class HlocScene:
    """A scene as hloc's outputs make it: its images, those dropped, and what to report of the map."""

    scene: Scene
    dropped: tuple[DroppedImage, ...]
    sfm: dict[str, Any]


def hloc_stages(given: HlocInput, folder: Path, source: SceneSource, stages: Stages) -> HlocScene:
    """Run hloc where that was asked for, write `features.h5` and `sfm/`, and give the scene with the model's poses."""
    outputs = given.outputs
    if given.drive is not None:
        require_known_poses(source.poses_known)
        start = time.monotonic()
        outputs = given.drive.run(source.scene)  # does only what is not there already
        stages.run("hloc", given.record(), (), lambda: {"features": outputs.features.name, "sfm": outputs.sfm.name}, started=start)
    assert outputs is not None
    return _Reading(given, outputs, folder).run(source, stages)


class _Reading:
    """Reads one scene's outputs of hloc."""

    def __init__(self, given: HlocInput, outputs: HlocOutputs, folder: Path) -> None:
        self.given, self.outputs, self.folder = given, outputs, folder
        self.path, self.model_path = outputs.features, outputs.sfm
        self.recovered = recover(self.path)

    def run(self, source: SceneSource, stages: Stages) -> HlocScene:
        """Both stages."""
        logger.info("Reading hloc's outputs: %s, %s", self.path, self.model_path)
        model = load_model(self.outputs)
        with HlocFeatures(self.path) as reader:
            scene, dropped, hloc_name = self._scene(source, model, reader)
            settings = self._settings(reader, hloc_name)
            # Weights may come to this machine later, which changes nothing of the map: what the file says stays.
            known = {key: value for key, value in settings.items() if key != "weights_sha256"}
            record = {"hloc": self.given.record(), "settings": known}
            work = self._extract_again if self.given.reextract else self._features
            info = stages.run("features", record, ("features.h5",), lambda: work(scene, model, reader, hloc_name, settings))
            with FeatureReader(self.folder / "features.h5") as ours:
                settings = ours.settings
            features = {"name": settings["name"], "settings": settings, "settings_hash": settings_hash(settings)}
            scene = replace(scene, features=features, provenance={**scene.provenance, **self._provenance(info)})
            sfm = stages.run("sfm", {}, ("sfm",), lambda: self._map(scene, model, reader, hloc_name))
        return HlocScene(scene, (*source.dropped, *dropped), sfm)

    def _provenance(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {"sfm": f"hloc: {self.path.name}, {self.model_path.name} in {self.outputs.folder}", "hloc": dict(info)}

    def _settings(self, reader: HlocFeatures, hloc_name: Mapping[str, str]) -> dict[str, Any]:
        dimension = len(reader.read(next(iter(hloc_name.values()))).descriptors)
        record = settings_record(self.recovered, self.given.num_keypoints, dimension, self.given.weights)
        if not self.recovered.equal and self.given.reextract:
            raise InputError(
                f"--hloc_reextract: no extractor of ours equals {self.path.name}.",
                "Run hloc again with as_half=False, or take --sfm native.",
            )
        if not self.recovered.equal:
            logger.warning("No extractor of ours equals %s: queries can be localized from stored features only.", self.path.name)
        return dict(json.loads(json.dumps(record)))

    def _scene(
        self, source: SceneSource, model: pycolmap.Reconstruction, reader: HlocFeatures
    ) -> tuple[Scene, list[DroppedImage], dict[str, str]]:
        """The scene's images that hloc has, with the model's poses; those dropped; hloc's names of all that have features."""
        scene = source.scene
        hloc_name = hloc_names([image.name for image in scene.images], reader.names(), f"Feature file {self.path}")
        posed = {image.name for image in model.images.values() if image.has_pose}
        dropped = []
        for image in scene.images:
            reason = self._reason(image, hloc_name.get(image.name), posed, source.poses_known)
            if reason:
                dropped.append(DroppedImage(image.name, reason))
        names = {image.name for image in dropped}
        scene = scene.with_images(image for image in scene.images if image.name not in names)
        if not scene.split("train"):
            raise InputError(f"hloc's outputs in {self.outputs.folder} hold no training image of this scene.", "Check the lists.")
        if source.poses_known:
            scene = agreement.with_sfm_poses(scene, model, hloc_name, self.model_path)
        else:
            scene = self._all_from_model(scene, model, hloc_name)
        agreement.require_image_sizes(reader, scene, hloc_name)
        agreement.warn_of_newer_images(self.path, scene)
        if self.outputs.queries is not None:
            agreement.warn_of_other_cameras(scene, read_queries(self.outputs.queries), self.outputs.queries)
        return scene, dropped, hloc_name

    @staticmethod
    def _reason(image: SceneImage, name: str | None, posed: set[str], poses_known: bool) -> str:
        """Why an image cannot be used; empty when it can. Queries with a pose need nothing of hloc."""
        needs_model = image.split == "train" or not poses_known
        if name is None:
            return NO_FEATURES if image.split != "test" or not poses_known else ""
        return NO_POSE if needs_model and name not in posed else ""

    def _all_from_model(self, scene: Scene, model: pycolmap.Reconstruction, hloc_name: Mapping[str, str]) -> Scene:
        """Photos without poses of their own: poses and cameras of all are the model's."""
        images = {image.name: image for image in model.images.values()}
        return agreement.replace_views(scene, model, {image.name: images[hloc_name[image.name]] for image in scene.images})

    def _features(
        self, scene: Scene, model: pycolmap.Reconstruction, reader: HlocFeatures, hloc_name: Mapping[str, str], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Copy the best keypoints of every image that hloc has into our feature file, checked against the model."""
        images = [image for image in scene.images if image.name in hloc_name]
        in_model = {image.name: image for image in model.images.values()}
        writer = FeatureWriter(self.folder / "features.h5", settings)
        seen = _Seen()

        def read() -> Iterator[tuple[str, LocalFeatures]]:
            for image in track(images, len(images), "reading hloc's features"):
                name = hloc_name[image.name]
                raw = reader.read(name)
                difference = 0.0
                if image.split == "train":
                    difference = agreement.require_same_keypoints(name, self.path, raw.keypoints, in_model[name], self.model_path)
                rows, places = raw.best(self.given.num_keypoints), self._places(raw)
                seen.add(raw, difference, restored=places is not None)
                if image.name not in writer.done:
                    yield image.name, raw.take(rows, places)

        found = read()
        while part := list(islice(found, PART)):
            writer.write(part)
        writer.finish([image.name for image in images])
        seen.say(self.path, self.given.num_keypoints)
        return {**seen.info(), **self._check(scene, reader, hloc_name, settings)}

    def _check(self, scene: Scene, reader: HlocFeatures, hloc_name: Mapping[str, str], settings: dict[str, Any]) -> dict[str, Any]:
        """Whether queries, which our extractor sees, will fit."""
        if not self.recovered.equal or self.given.drive is not None:
            return {}
        images = scene.split("train")
        image = images[len(images) // 2]
        raw = reader.read(hloc_name[image.name])
        return {"our_extractor": again.check_extractor(settings, scene.path(image), raw, self.given.weights)}

    def _extract_again(
        self, scene: Scene, model: pycolmap.Reconstruction, reader: HlocFeatures, hloc_name: Mapping[str, str], settings: dict[str, Any]
    ) -> dict[str, Any]:
        """Features of our own extractor, full precision, of the mapping images; hloc's must still be those of the model."""
        in_model = {image.name: image for image in model.images.values()}
        for name in (hloc_name[image.name] for image in scene.split("train")):
            agreement.require_same_keypoints(name, self.path, reader.keypoints(name), in_model[name], self.model_path)
        extractor = extractor_from_settings(settings, self.given.device, self.given.weights)
        logger.info("Extracting %s features again", settings["name"])
        dropped = extract_scene(self.folder / "features.h5", scene, scene.split("train", "val"), extractor, None, skip_bad_images=False)
        return {"reextracted": True, "dropped": dropped}

    def _places(self, raw: RawFeatures) -> NDArray[np.float32] | None:
        """Keypoints of full precision, where halved ones tell them."""
        if not self.recovered.on_grid or not precision.is_half(raw.keypoints) or self.recovered.max_side is None:
            return None
        return precision.restored(raw.keypoints, raw.image_size, self.recovered.max_side)

    def _map(self, scene: Scene, model: pycolmap.Reconstruction, reader: HlocFeatures, hloc_name: Mapping[str, str]) -> dict[str, Any]:
        train = scene.with_images(scene.split("train"))
        with FeatureReader(self.folder / "features.h5") as ours:
            keypoints = {image.name: ours.keypoints(image.name) for image in train.images}
        rows = {
            image.name: self._new_rows(image.name, reader.places(hloc_name[image.name]), keypoints[image.name]) for image in train.images
        }
        made = convert(model, train, keypoints, hloc_name, rows, self._refine(reader, hloc_name[train.images[0].name]))
        save_model(made, self.folder / "sfm")
        return {
            "made_by": "hloc",
            "points": made.num_points3D(),
            "points_of_hloc": model.num_points3D(),
            "mean_reprojection_error": made.compute_mean_reprojection_error(),
        }

    def _refine(self, reader: HlocFeatures, name: str) -> bool | None:
        """Whether points are to be optimised at our keypoints; never those that depth images moved off the rays' meeting points."""
        if self.model_path.name.endswith(DEPTH):
            return False
        return True if self.given.reextract or precision.is_half(reader.keypoints(name)) else None

    def _new_rows(self, name: str, raw: RawFeatures, ours: NDArray[np.float32]) -> NDArray[np.int64]:
        """For each row of the file its row in ours, (M, 2) keypoints, -1 where it was left out."""
        if self.given.reextract:
            found = again.same_places(raw.keypoints, ours)
            again.require_found(name, found[raw.best(len(ours))])
            return found
        new = np.full(len(raw), -1, dtype=np.int64)
        best = raw.best(self.given.num_keypoints)
        new[best] = np.arange(len(best))
        return new


class _Seen:
    """What the feature file is like, over all its images."""

    def __init__(self) -> None:
        self.most, self.largest_loss, self.difference, self.reduced, self.unrestored = 0, 0.0, 0.0, 0, 0
        self.images, self.half = 0, 0
        self.counts: Counter[int] = Counter()

    def add(self, raw: RawFeatures, difference: float, restored: bool) -> None:
        self.images += 1
        self.most = max(self.most, len(raw))
        self.counts[len(raw)] += 1
        self.difference = max(self.difference, difference)
        self.half += precision.is_half(raw.keypoints)
        loss = precision.largest_loss(raw.keypoints)
        self.largest_loss = max(self.largest_loss, loss)
        self.unrestored += loss > precision.WORTH_SAYING_PX and not restored

    def say(self, path: Path, num_keypoints: int) -> None:
        """Warnings that the user should read."""
        if self.largest_loss > precision.WORTH_SAYING_PX:
            way = (
                f"{self.unrestored} images keep the loss: extract again (--hloc_reextract, or hloc's as_half=False)"
                if self.unrestored
                else "they were restored from the detector's pixel grid"
            )
            logger.warning(
                "%s holds keypoints in half precision: up to %.2f px lost at this image width (the model differs by up to %.2f px); %s.",
                path, self.largest_loss, self.difference, way,
            )  # fmt: skip
        limits = sorted(count for count, images in self.counts.items() if images >= max(SAME_COUNT[0], SAME_COUNT[1] * self.images))
        if len(limits) > 1:
            text = ", ".join(f"{self.counts[count]} images have exactly {count}" for count in limits)
            logger.warning("%s seems to be of several runs with different limits: %s keypoints. Extract again with overwrite.", path, text)
        if self.most > num_keypoints:
            logger.info("Of up to %d keypoints per image the best %d are taken.", self.most, num_keypoints)
        elif self.most < num_keypoints:
            logger.info("%s has at most %d keypoints per image (--num_keypoints %d).", path, self.most, num_keypoints)

    def info(self) -> dict[str, Any]:
        """For the record of the stage."""
        return {
            "images": self.images, "most_keypoints": self.most, "half_precision_images": self.half, "largest_loss_px": self.largest_loss,
            "largest_difference_px": self.difference, "unrestored_images": self.unrestored,
        }  # fmt: skip
