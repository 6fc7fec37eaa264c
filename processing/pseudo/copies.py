"""Darker and brighter copies of pseudo-labelled photos. Their features are extracted once; labels move over by position.

The published code drew a new brightness for every neighbour that it matched a photo with, and so merged labels of keypoints that were not
the same. Here the photo itself is matched and verified, and a copy shows everything in the same place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import SettingsMismatchError
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.extraction import extract_all
from d2s.features.images import read_image
from d2s.features.table import extractor_from_settings
from d2s.scene.atomic import read_json, write_json
from d2s.scene.extra_images import ExtraImage, ExtraImages, extra_folder
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.label_store import LabelReader, Labels, write_labels
from processing.augmentation.light import generator_of
from processing.augmentation.transfer import repeated
from processing.feature_stage import is_published
from processing.pipeline import Settings
from processing.progress import track
from processing.report import summary
from processing.stages import Stages

logger = logging.getLogger(__name__)

SOURCE, KIND = "unlabel", "unlabel_augment"
PART = 16


@dataclass(frozen=True)
class CopyOptions:
    """Factors of the brightness of the darker copy (as published) and of the brighter one; tolerance_px: how far a keypoint of a copy may
    be from the photo's keypoint that it repeats, in pixels of the image that features are detected on.
    """

    dark: tuple[float, float] = (0.4, 0.8)
    bright: tuple[float, float] = (1.2, 1.6)
    tolerance_px: float = 1.5


@dataclass(frozen=True)
class LightCopy:
    """A copy of `source` (in `image_dir`) whose values are multiplied by `factor`."""

    name: str
    source: ExtraImage
    path: Path
    factor: float

    def load(self) -> NDArray[np.uint8]:
        """The copy's pixels: clipped where they become too bright."""
        return np.asarray(np.clip(np.round(read_image(self.path) * np.float32(self.factor)), 0, 255), dtype=np.uint8)


def copies_of(photo: ExtraImage, image_dir: Path, options: CopyOptions, seed: int) -> list[LightCopy]:
    """The darker and the brighter copy of a photo: a pure function of its name, the options and the seed."""
    path = PurePosixPath(photo.name)
    copies = []
    for kind, bounds in (("dark", options.dark), ("bright", options.bright)):
        name = str(path.with_name(f"{path.stem}.{kind}{path.suffix}"))
        copies.append(LightCopy(name, photo, image_dir / photo.source, float(generator_of(seed, KIND, name).uniform(*bounds))))
    return copies


def labels_by_position(photo: LocalFeatures, labels: Labels, copy: LocalFeatures, tolerance: float) -> Labels:
    """Labels (K rows) of a copy's features. A keypoint that repeats one of the photo takes its label, or its being a negative, and its
    weight; of the others nothing is known: weight 0.
    """
    row = repeated(photo.keypoints.astype(np.float64), copy.keypoints.astype(np.float64), tolerance)
    found = row >= 0
    valid = found & labels.valid[row]

    def taken(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
        out = np.zeros((len(row), *values.shape[1:]), values.dtype)
        out[where] = values[row[where]]
        return out

    votes = None if labels.votes is None else taken(labels.votes, valid)
    parts = (taken(values, valid) for values in (labels.xyz, labels.track_length, labels.error))
    xyz, track_length, error = parts
    return Labels(xyz, valid, track_length, error, taken(labels.weights(), found), votes)


def make_copies(settings: Settings, folder: Path, options: CopyOptions | None = None) -> dict[str, Any]:
    """Make the copies of all pseudo-labelled photos of the scene in `folder`, or finish what a killed run began; gives the report.

    Everything lies in `folder/unlabel_augment`. Raises SettingsMismatchError where that holds copies made otherwise.
    """
    options = options or CopyOptions()
    photos, place = ExtraImages.load(folder, SOURCE), extra_folder(folder, KIND)
    image_dir, seed = Path(photos.info["image_dir"]), settings.adapter.seed
    copies = [copy for photo in photos.images for copy in copies_of(photo, image_dir, options, seed)]
    with FeatureReader(extra_folder(folder, SOURCE) / "features.h5") as reader:
        extractor = extractor_from_settings(reader.settings, settings.device, settings.weights)
    stages = Stages(place)
    try:
        labels = read_json(extra_folder(folder, SOURCE) / "stages.json")["labels"]["fingerprint"]
        stages.run("settings", {"labels": labels, "seed": seed, **asdict(options)}, (), dict)
    except SettingsMismatchError as error:
        raise SettingsMismatchError(error.problem, f"Give the same settings, or remove {place} to make the copies anew.") from None
    stages.run("features", {}, ("features.h5",), lambda: _extract(place, copies, extractor, settings.batch))
    counts = stages.run("labels", {}, ("labels.h5",), lambda: _label(folder, place, copies, extractor, options))["labels"]
    labels_per_copy = summary(counts)
    report = {"copies": len(copies), "labels_per_copy": labels_per_copy, "seconds": stages.seconds}
    write_json(place / "report.json", report)
    images = tuple(ExtraImage(copy.name, copy.source.source, copy.source.camera) for copy in copies)
    ExtraImages(KIND, photos.features_hash, images, {**photos.info, "options": asdict(options)}).save(folder)
    logger.info("  %-20s%d, labels: median %.0f", "copies of photos", len(copies), labels_per_copy["median"])
    return report


def _extract(place: Path, copies: Sequence[LightCopy], extractor: Extractor, batch: int | None) -> dict[str, Any]:
    """Features of the copies, which are made in memory."""
    path, names = place / "features.h5", [copy.name for copy in copies]
    if is_published(path, extractor.settings(), names):
        return {}
    writer = FeatureWriter(path, extractor.settings())
    todo = [(copy.name, copy) for copy in copies if copy.name not in writer.done]
    logger.info("Extracting %s features of %d copies of photos", extractor.name, len(todo))
    found = track(extract_all(extractor, todo, batch, load=LightCopy.load), len(todo), "copies of photos")
    while part := list(islice(found, PART)):
        writer.write(part)
    writer.finish(names)
    return {}


def _label(folder: Path, place: Path, copies: Sequence[LightCopy], extractor: Extractor, options: CopyOptions) -> dict[str, Any]:
    """Write the labels of all copies; gives how many each has."""
    source = extra_folder(folder, SOURCE)
    max_side = extractor.settings().get("max_side") or np.inf
    counts = []
    with (
        FeatureReader(source / "features.h5") as photos,
        LabelReader(source / "labels.h5") as known,
        FeatureReader(place / "features.h5") as made,
    ):

        def items() -> Iterator[tuple[str, Labels]]:
            for copy in copies:
                photo = photos.read(copy.source.name)
                tolerance = options.tolerance_px * max(1.0, max(photo.image_size) / max_side)
                labels = labels_by_position(photo, known.read(copy.source.name), made.read(copy.name), tolerance)
                counts.append(int(labels.valid.sum()))
                yield copy.name, labels

        write_labels(place / "labels.h5", items())
    return {"labels": counts}
