"""The stages that give photos pseudo-labels: features once per photo, neighbours, labels, and the manifest last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from d2s.errors import ReconstructionError, SettingsMismatchError
from d2s.features.base import settings_hash
from d2s.features.table import extractor_from_settings
from d2s.geometry import pose
from d2s.geometry.camera import format_camera
from d2s.localization.base import DEFAULT_MAX_ERROR, PoseEstimator
from d2s.localization.table import DEFAULT_ESTIMATOR, make_estimator
from d2s.matching.table import Matcher, make_matcher
from d2s.scene.atomic import read_json, write_json
from d2s.scene.extra_images import ExtraImage, ExtraImages, extra_folder
from d2s.scene.feature_store import FeatureReader
from d2s.scene.manifest import Scene
from processing.adapters.base import DroppedImage
from processing.feature_stage import extract_scene
from processing.pipeline import Settings
from processing.progress import track
from processing.pseudo.candidates import Neighbour
from processing.pseudo.copies import CopyOptions, make_copies
from processing.pseudo.extension import TRANSFERRED, extend_map
from processing.pseudo.labelled_map import LabelledMap, read_map
from processing.pseudo.neighbours import from_pairs, retrieve
from processing.pseudo.photos import PhotoOptions, find_photos
from processing.pseudo.report import counts_of, make_report, report_lines
from processing.pseudo.store import PROVENANCE, RECORDS, LabelledPhoto, PartStore
from processing.pseudo.transfer import Transfer, TransferOptions, transfer
from processing.sfm.matching import ReadFeatures, cached, match_pairs
from processing.stages import Stages

logger = logging.getLogger(__name__)

KIND = "unlabel"
PART = 16
"""Photos per part: what a kill loses at most."""


@dataclass(frozen=True)
class PseudoOptions:
    """What the user said about photos without labels. pairs: hloc pairs file (None: retrieval). neighbors: mapping images per photo.
    extend: whether the placed photos add points to the map. copies: how to make darker and brighter copies of the labelled photos (None:
    not at all).
    """

    photos: PhotoOptions = field(default_factory=PhotoOptions)
    pairs: Path | None = None
    neighbors: int = 10
    transfer: TransferOptions = field(default_factory=TransferOptions)
    extend: bool = False
    copies: CopyOptions | None = None


def make_pseudo_labels(settings: Settings, options: PseudoOptions, folder: Path) -> dict[str, Any]:
    """Label photos of the finished scene in `folder`, or finish what a killed run began; says what came out, and gives the report.

    Everything lies in `folder/unlabel`; the scene itself does not change. Raises InputError for photos that cannot be used and
    ReconstructionError when none could be placed in the map.
    """
    scene = Scene.load(folder)
    place = extra_folder(folder, KIND)
    photos, unusable = find_photos(scene, options.photos)
    stages = Stages(place)
    try:
        stages.run("settings", _record(settings, options, folder, photos), (), dict)
        record = scene.features["settings"]
        bad = stages.run("features", record, ("features.h5",), lambda: _extract(settings, place, scene, photos))["dropped"]
        unread = {image["name"] for image in bad}
        photos = photos.with_images(image for image in photos.images if image.name not in unread)
        labels = TRANSFERRED if options.extend else "labels.h5"
        stages.run("labels", {}, (labels, PROVENANCE, RECORDS), lambda: _label(settings, options, folder, scene, photos, labels))
        records = read_json(place / RECORDS)
        new = None
        if options.extend:
            new = stages.run("extension", {}, ("labels.h5",), lambda: extend_map(settings, scene, place, photos, records))
    except SettingsMismatchError as error:
        raise SettingsMismatchError(error.problem, f"Give the same settings, or remove {place} to label anew.") from None
    report = make_report(records, new, [*unusable, *(DroppedImage(**image) for image in bad)], stages.seconds)
    write_json(place / "report.json", report)
    _manifest(scene, photos, records, options).save(folder)
    for line in (f"Photos without labels, {place}", *report_lines(report)):
        logger.info("%s", line)
    if options.copies is not None:
        make_copies(settings, folder, options.copies)
    return report


def _record(settings: Settings, options: PseudoOptions, folder: Path, photos: Scene) -> dict[str, Any]:
    """What decides the labels: the scene's own labels, the photos with their cameras, and the options."""
    rows = [[image.name, photos.path(image).stat().st_size, format_camera(photos.camera(image))] for image in photos.images]
    return {
        "scene": read_json(folder / "stages.json")["labels"]["fingerprint"],
        "photos": {"images": len(rows), "content": settings_hash({"rows": rows})},
        "pairs": None if options.pairs is None else settings_hash({"text": options.pairs.read_text(encoding="utf-8")}),
        "neighbors": options.neighbors,
        "extend": options.extend,
        "transfer": asdict(options.transfer),
        "seed": settings.adapter.seed,
    }


def _extract(settings: Settings, place: Path, scene: Scene, photos: Scene) -> dict[str, Any]:
    """Features of every photo, once. A photo that cannot be read is left out: it was only a help."""
    extractor = extractor_from_settings(scene.features["settings"], settings.device, settings.weights)
    logger.info("Extracting %s features of %d photos without labels", extractor.name, len(photos.images))
    return {"dropped": extract_scene(place / "features.h5", photos, photos.images, extractor, settings.batch, skip_bad_images=True)}


def _label(settings: Settings, options: PseudoOptions, folder: Path, scene: Scene, photos: Scene, labels: str) -> dict[str, Any]:
    """Label all photos; `labels` is the file that the labels go to."""
    place = extra_folder(folder, KIND)
    mapping = [image.name for image in scene.split("train")]
    names = [image.name for image in photos.images]
    the_map = read_map(folder / "labels.h5", mapping)
    store = PartStore(place)
    with FeatureReader(place / "features.h5") as photo_file, FeatureReader(folder / "features.h5") as mapping_file:
        read_mapping = cached(mapping_file.read, mapping_file.read(mapping[0]))
        neighbours = (
            from_pairs(options.pairs, names, mapping, options.neighbors)
            if options.pairs
            else retrieve(names, photo_file.read, mapping, read_mapping, options.neighbors, settings.adapter.seed)
        )
        todo = {name: neighbours[name] for name in names if name not in store.records}
        if 0 < len(todo) < len(names):
            logger.info("Going on: %d of %d photos are done", len(names) - len(todo), len(names))
        matcher = make_matcher(settings.matcher, scene.features["name"], settings.device)
        estimator = make_estimator(DEFAULT_ESTIMATOR, DEFAULT_MAX_ERROR, seed=settings.adapter.seed)
        transfers = _transfers(matcher, estimator, options, photos, todo, the_map, photo_file.read, read_mapping)
        labelled = track(transfers, len(todo), "pseudo-labels")
        while part := list(islice(labelled, PART)):
            store.write(part)
    if not any(store.records[name]["labels"] for name in names):
        reasons = Counter(store.records[name]["reason"] for name in names)
        raise ReconstructionError(
            f"None of {len(names)} photos could be placed in the map ({counts_of(reasons)}).",
            "Check that they show the mapped place and that --unlabel_camera is right.",
        )
    store.finish(names, labels)
    store.remove()
    return {"labelled": sum(store.records[name]["labels"] > 0 for name in names)}


def _transfers(
    matcher: Matcher,
    estimator: PoseEstimator,
    options: PseudoOptions,
    photos: Scene,
    neighbours: Mapping[str, Sequence[str]],
    the_map: LabelledMap,
    read_photo: ReadFeatures,
    read_mapping: ReadFeatures,
) -> Iterator[LabelledPhoto]:
    """Photos with their labels, in the order given: each is matched with all its neighbours, then verified."""
    camera = {image.name: photos.camera(image) for image in photos.images}
    read = cached(read_photo, read_mapping(next(iter(the_map.point_of_row))))
    # match_pairs knows one reader: which file a name belongs to must show in the name
    pairs = [(f"0{name}", f"1{other}") for name, others in neighbours.items() for other in others]
    matched = match_pairs(pairs, lambda key: (read, read_mapping)[int(key[0])](key[1:]), matcher)
    groups = groupby(matched, key=lambda item: item[0][0][1:])
    for name, others in neighbours.items():
        found = [matches for _, matches in next(groups)[1]] if others else []
        near = [Neighbour(other, read_mapping(other), the_map.point_of_row[other]) for other in others]
        yield _photo(name, near, transfer(read(name), camera[name], near, found, the_map, estimator, options.transfer))


def _photo(name: str, neighbours: Sequence[Neighbour], found: Transfer) -> LabelledPhoto:
    votes = found.voters.sum(axis=0).tolist()
    qvec = tvec = None
    if found.cam_from_world is not None:
        qvec, tvec = (part.tolist() for part in pose.to_qvec_tvec(found.cam_from_world))
    record = {
        "labels": 0 if found.labels is None else int(found.labels.valid.sum()),
        "reason": found.reason,
        "detail": found.detail,
        "candidates": found.candidates,
        "inliers": found.inliers,
        "neighbours": [{"name": n.name, "votes": int(count)} for n, count in zip(neighbours, votes, strict=True)],
        "qvec": qvec,
        "tvec": tvec,
    }
    return LabelledPhoto(name, record, found.labels, found.voters)


def _manifest(scene: Scene, photos: Scene, records: Mapping[str, Any], options: PseudoOptions) -> ExtraImages:
    """The labelled photos. Their poses come from the map and not from a reference, so they stay out of the reprojection loss."""
    images = tuple(ExtraImage(i.name, i.name, photos.camera(i)) for i in photos.images if records[i.name]["labels"])
    info = {"image_dir": str(photos.image_dir.resolve()), "neighbors": options.neighbors, "extend": options.extend}
    return ExtraImages(KIND, scene.features["settings_hash"], images, {**info, "transfer": asdict(options.transfer)})
