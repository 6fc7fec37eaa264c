"""The command's part: write `SCENE/augment/` of a finished scene, or finish what a killed run began."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError, SettingsMismatchError
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.extraction import extract_all
from d2s.features.table import extractor_from_settings
from d2s.features.weights import sha256_of
from d2s.matching.table import make_matcher
from d2s.scene.atomic import atomic_path, write_json
from d2s.scene.extra_images import ExtraImage, ExtraImages, extra_folder
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.label_store import LabelReader, Labels, write_labels
from d2s.scene.manifest import Scene
from processing.augmentation.copies import AugmentOptions, Copy, copies_of, read_copy
from processing.augmentation.transfer import SourceView, labels_by_match, labels_by_warp
from processing.feature_stage import is_published
from processing.progress import track
from processing.report import summary
from processing.stages import Stages

logger = logging.getLogger(__name__)

KIND = "augment"
FEATURES, LABELS = "features.h5", "labels.h5"
PART = 16
"""Copies per part: what a kill loses at most."""
BORDER = 4.0
"""Pixels of the source image within which a keypoint is of the black border rather than of the photo."""


def augment(
    folder: Path, options: AugmentOptions, device: str = "cpu", weights: Path | None = None, batch: int | None = None
) -> dict[str, Any]:
    """Make the augmented copies of the scene in `folder`; gives the report, which is `augment/report.json` too.

    Raises SettingsMismatchError when the folder holds copies made otherwise, InputError when the scene's features cannot be made here.
    """
    scene = Scene.load(folder)
    target = extra_folder(folder, KIND)
    stages = _begin(folder, scene, options)
    copies = _labelled_copies(folder, scene, options)
    extractor = extractor_from_settings(scene.features.get("settings", {}), device, weights)
    logger.info("Augmented copies: %d of each of %d images", options.copies, len(copies) // options.copies)
    outputs = (FEATURES, "images") if options.keep_images else (FEATURES,)
    stages.run("features", {}, outputs, lambda: _extract(target, scene, copies, extractor, batch, options.keep_images))
    info = stages.run("labels", {}, (LABELS,), lambda: _label(folder, scene, copies, options))
    report = {**info, "seconds": {name: round(value, 3) for name, value in stages.seconds.items()}}
    write_json(target / "report.json", report)
    images = tuple(ExtraImage(copy.name, copy.source.name, copy.camera, copy.cam_from_world) for copy in copies)
    ExtraImages(KIND, scene.features.get("settings_hash", ""), images, {"options": asdict(options)}).save(folder)
    return report


def report_lines(report: dict[str, Any]) -> list[str]:
    """The table that the user sees."""
    labels, error = report["labels_per_copy"], report["reprojection_error"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in report["copies"].items())
    rows = [
        ("augmented copies", f"{sum(report['copies'].values())} ({kinds})"),
        ("labels per copy", f"median {labels['median']:.0f}, {100 * report['labels_kept']:.0f} % of the source images'"),
    ]
    if error["count"]:
        rows.append(("reprojection error", f"{error['median']:.2f} px (median), {error['p95']:.2f} px (95 %)"))
    return [f"  {name:<20}{value}" for name, value in rows]


def _begin(folder: Path, scene: Scene, options: AugmentOptions) -> Stages:
    """The stages of the sub-folder, after a check that what is there was made with the same options from the same scene."""
    target = extra_folder(folder, KIND)
    stages = Stages(target)
    try:
        stages.run("settings", asdict(options), (), dict)
        hashes = {"features": scene.features.get("settings_hash", ""), "labels": sha256_of(folder / LABELS)[:16]}
        stages.run("scene", hashes, (), dict)
    except SettingsMismatchError as error:
        raise SettingsMismatchError(error.problem, f"Give the same options, or remove {target} to make the copies anew.") from None
    return stages


def _labelled_copies(folder: Path, scene: Scene, options: AugmentOptions) -> list[Copy]:
    """The copies of all training images that have a label."""
    with LabelReader(folder / LABELS) as labels:
        images = [image for image in scene.split("train") if image.name in labels and labels.read(image.name).valid.any()]
    if not images:
        raise InputError(f"{folder} has no labelled training image to copy.", "See report.json there.")
    return [copy for image in images for copy in copies_of(scene, image, options)]


def _extract(
    target: Path, scene: Scene, copies: Sequence[Copy], extractor: Extractor, batch: int | None, keep_images: bool
) -> dict[str, Any]:
    """Make the copies in memory and write their features, in parts, so that a killed run goes on where it stopped."""
    names = [copy.name for copy in copies]
    path = target / FEATURES
    if is_published(path, extractor.settings(), names):  # killed between that and the note of it
        shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)
        return {}
    writer = FeatureWriter(path, extractor.settings())
    by_name = {copy.name: copy for copy in copies if copy.name not in writer.done}
    if len(by_name) < len(copies):
        logger.info("Going on: %d of %d copies have their features", len(copies) - len(by_name), len(copies))

    def load(copy: Copy) -> NDArray[np.uint8]:
        pixels = read_copy(scene, copy)
        if keep_images:
            _write_image(target / "images" / f"{copy.name}.png", pixels)
        return pixels

    found = extract_all(extractor, list(by_name.items()), batch, load=load)
    inside = ((name, _without_border(features, by_name[name])) for name, features in found)
    tracked = track(inside, len(by_name), "augmented copies")
    while part := list(islice(tracked, PART)):
        writer.write(part)
    writer.finish(names)
    return {}


def _without_border(features: LocalFeatures, copy: Copy) -> LocalFeatures:
    """The features that show the photo, not the black around it."""
    if copy.view is None:
        return features
    width, height = features.image_size  # that of the source, too
    origin = copy.view.invert_points(features.keypoints)
    keep = ((origin >= BORDER) & (origin <= np.array([width, height]) - 1 - BORDER)).all(axis=1)
    return LocalFeatures(features.keypoints[keep], features.scores[keep], features.descriptors[keep], features.image_size)


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())


def _label(folder: Path, scene: Scene, copies: Sequence[Copy], options: AugmentOptions) -> dict[str, Any]:
    """Write the labels of all copies; gives what the report says of them."""
    points = _labelled_points(folder / LABELS)
    target = extra_folder(folder, KIND)
    records: list[dict[str, Any]] = []
    with FeatureReader(folder / FEATURES) as sources, LabelReader(folder / LABELS) as labels, FeatureReader(target / FEATURES) as made:

        def items() -> Iterator[tuple[str, Labels]]:
            for copy in copies:
                name = copy.source.name
                placed = _require_pose(copy)
                source = SourceView(sources.read(name), labels.read(name), scene.camera(copy.source), placed, points)
                found, errors = _labels_of(copy, source, made.read(copy.name), scene.features, options)
                records.append(
                    {"kind": copy.kind, "labels": int(found.valid.sum()), "source": int(source.labels.valid.sum()), "errors": errors}
                )
                yield copy.name, found

        write_labels(target / LABELS, track(items(), len(copies), "labels of augmented copies"))
    return _summary(records)


def _labels_of(
    copy: Copy, source: SourceView, features: LocalFeatures, kind: dict[str, Any], options: AugmentOptions
) -> tuple[Labels, NDArray[np.float64]]:
    """Labels of one copy, and how far (pixels of the source image) each label's projection is from its keypoint."""
    origin = features.keypoints.astype(np.float64) if copy.view is None else copy.view.invert_points(features.keypoints)
    if options.labels == "match":
        matches = make_matcher("nn", kind["name"])(features, source.features)
        labels = labels_by_match(source, matches, len(features))
    else:
        shrunk = max(1.0, max(features.image_size) / (kind["settings"].get("max_side") or np.inf))
        labels = labels_by_warp(source, origin, options.tolerance_px * shrunk, options.max_error_px * shrunk, options.clear_px * shrunk)
    return labels, source.errors(labels.xyz[labels.valid], origin[labels.valid])


def _require_pose(copy: Copy) -> NDArray[np.float64]:
    if copy.source.cam_from_world is None:
        raise InputError(f"Training image {copy.source.name} has no pose.", "Preprocess the scene anew with --overwrite.")
    return copy.source.cam_from_world


def _labelled_points(path: Path) -> NDArray[np.float64]:
    """All scene points (P, 3) that some image has a label of, once each."""
    with LabelReader(path) as reader:
        labels = [reader.read(name) for name in reader.names()]
    return np.unique(np.concatenate([label.xyz[label.valid] for label in labels]), axis=0).astype(np.float64)


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    kinds = sorted({record["kind"] for record in records})
    errors = np.concatenate([record["errors"] for record in records])
    return {
        "copies": dict(Counter(record["kind"] for record in records)),
        "labels_per_copy": summary([record["labels"] for record in records]),
        "labels_kept": _kept(records),
        "labels_kept_by_kind": {kind: _kept([record for record in records if record["kind"] == kind]) for kind in kinds},
        "reprojection_error": summary(errors[np.isfinite(errors)]),
        "behind_camera": int((~np.isfinite(errors)).sum()),
    }


def _kept(records: Sequence[dict[str, Any]]) -> float:
    """Labels of the copies as a share of the labels of their source images."""
    return round(sum(record["labels"] for record in records) / max(1, sum(record["source"] for record in records)), 4)
