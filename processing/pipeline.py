"""The stages of preprocessing one scene: settings, source, features, sfm, labels, and the manifest last."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2s.errors import ReconstructionError, SettingsMismatchError
from d2s.features.base import settings_hash
from d2s.features.table import make_extractor
from d2s.geometry.camera import format_camera
from d2s.matching.table import make_matcher, matcher_settings
from d2s.scene.atomic import remove_leftovers, write_json
from d2s.scene.extra_images import KINDS
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader, write_labels
from d2s.scene.manifest import Scene
from d2s.scene.refined_map import POSES, RefinedMap, refined_folder
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.table import load_source
from processing.depth_labels import DepthOptions, check_depth, depth_corrected
from processing.feature_stage import extract_scene
from processing.hloc.stages import HlocInput, hloc_stages
from processing.labels import LabelOptions, good_points, make_labels, point_table, require_labels
from processing.own_photos.held_out import capture_order
from processing.report import make_report, summary
from processing.sfm.colmap import (
    Matches,
    SfmOptions,
    features_keypoints,
    match_known_poses,
    restrict,
    temporary_folder,
    triangulate,
    verify_matches,
)
from processing.sfm.lookalikes import reconsider
from processing.sfm.matching import ReadFeatures, cached
from processing.sfm.model_files import read_model, save_model
from processing.sfm.observations import observed_points
from processing.sfm.reconstruction import REMEDY, Reconstructed, match_photos, placed, reconstruct
from processing.sfm.refinement import LOOSE, refine_poses
from processing.sfm.second_try import MORE, firmer
from processing.stages import Stages, remove_outputs
from processing.unplaced import why_unplaced
from processing.validation_split import MIN_TRAIN, with_validation
from processing.world.frame import find_world, in_metres, in_world, transform_model
from processing.world.measures import ScaleOptions

logger = logging.getLogger(__name__)

MADE_OF_MODELS = ("sfm", "sfm_all", "refined", "hloc")
OUTPUTS = ("scene.json", "stages.json", "report.json", "features.h5", "features.parts", "labels.h5", *MADE_OF_MODELS, *KINDS)
ADVICE = "Try more photos with more overlap, other --features (aliked), more --num_keypoints, or check poses and cameras."


@dataclass(frozen=True)
class Settings:
    """What the user asked for. `adapter` says where the data is, the rest how it is processed."""

    dataset: str
    adapter: AdapterOptions
    features: str = "sift"
    num_keypoints: int = 2048
    weights: Path | None = None
    batch: int | None = None
    device: str = "cpu"
    matcher: str = "nn"
    sfm: SfmOptions = field(default_factory=SfmOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    skip_bad_images: bool = False
    hloc: HlocInput | None = None
    """hloc's outputs to read instead of extracting and triangulating."""
    depth: DepthOptions | None = None
    """Depth images that correct the labels; None for labels as triangulated."""
    scale: ScaleOptions | None = None
    """What gives a reconstruction, or poses of arbitrary scale, their metres; None for poses as they are."""
    refine_poses: str = "auto"
    """Whether to make a second map at refined poses: auto (where the images disagree with the given ones), yes or no."""

    @property
    def refines(self) -> bool:
        """Depth images speak of the given poses, so labels that they corrected stay there."""
        return self.refine_poses != "no" and self.depth is None

    def record(self) -> dict[str, Any]:
        """What decides the result and can be told before anything is read, as JSON values."""
        own = {
            "dataset": self.dataset,
            "gt": self.adapter.gt,
            "camera": self.adapter.camera,
            "extra": json.loads(json.dumps(self.adapter.extra)),
            "seed": self.adapter.seed,
            "features": self.features,
            "num_keypoints": self.num_keypoints,
            "matcher": matcher_settings(self.matcher, self.features),
            "sfm": asdict(self.sfm),
            "labels": asdict(self.labels),
            "skip_bad_images": self.skip_bad_images,
        }
        # only what is asked for is recorded: scenes of earlier versions stay valid
        asked = {"hloc": self.hloc, "depth": self.depth, "scale": self.scale}
        own |= {} if self.refine_poses == "auto" else {"refine_poses": self.refine_poses}
        return {**own, **{name: part.record() for name, part in asked.items() if part is not None}}


def preprocess(settings: Settings, folder: Path, overwrite: bool = False) -> dict[str, Any]:
    """Make the scene in `folder`, or finish what a killed run began; gives the report.

    Raises SettingsMismatchError when the folder holds a scene made otherwise, InputError for data that cannot be used and
    ReconstructionError when too little of the place could be reconstructed.
    """
    if overwrite:
        clear(folder)
    _refuse_foreign(folder)
    remove_leftovers(refined_folder(folder))
    stages = Stages(folder)
    stages.run("settings", settings.record(), (), dict)
    source = _read_source(settings, stages)
    scene, dropped, sfm = _make_map(settings, folder, source, stages)
    labels = stages.run("labels", {}, ("labels.h5",), lambda: _label(settings, folder, scene))
    counts = _label_counts(folder, scene)
    report = make_report(scene, dropped, counts, sfm, labels, stages.seconds)
    write_json(folder / "report.json", report)
    scene.save(folder)
    return report


def clear(folder: Path) -> None:
    """Remove what preprocessing wrote into a scene's folder, the manifest first."""
    remove_outputs(folder, OUTPUTS)


def _refuse_foreign(folder: Path) -> None:
    if (folder / "scene.json").exists() and not (folder / "stages.json").exists():
        raise SettingsMismatchError(f"{folder} holds a scene of unknown settings.", "Give another --out_dir, or --overwrite to start anew.")


def remove_refined(folder: Path) -> None:
    """The refined map of an earlier, killed run: what makes it valid goes first."""
    (refined_folder(folder) / POSES).unlink(missing_ok=True)
    shutil.rmtree(refined_folder(folder), ignore_errors=True)


def _read_source(settings: Settings, stages: Stages) -> SceneSource:
    """The data as the adapter gives it, with a validation split; a change of it since the last run is an error."""
    start = time.monotonic()
    source = load_source(settings.dataset, settings.adapter)
    scene = with_validation(source.scene)
    if source.poses_known:
        scene = in_world(scene, find_world(settings.scale, scene))
    logger.info("%s", describe(scene))
    check_depth(scene, settings.depth)
    if not scene.split("val"):
        logger.info("No validation images: fewer than %d training images", MIN_TRAIN)
    stages.run("source", digest(replace(source, scene=scene)), (), dict, started=start)
    return replace(source, scene=scene)


def describe(scene: Scene) -> str:
    """One line on what a scene consists of."""
    counts = ", ".join(f"{len(scene.split(split))} {split}" for split in ("train", "val", "test"))
    return f"{scene.dataset}/{scene.name}: {len(scene.images)} images ({counts}), {len(scene.cameras)} cameras"


def digest(source: SceneSource) -> dict[str, Any]:
    """A short record of the data: how many images, and a hash over names, file sizes, splits, poses and cameras."""
    scene = source.scene
    rows = [
        [
            image.name, scene.path(image).stat().st_size, image.split, format_camera(scene.camera(image)),
            None if image.cam_from_world is None else np.round(image.cam_from_world, 9).tolist(),
        ]
        for image in scene.images
    ]  # fmt: skip
    return {"images": len(rows), "content": settings_hash({"rows": rows})}


def _make_map(
    settings: Settings, folder: Path, source: SceneSource, stages: Stages
) -> tuple[Scene, tuple[DroppedImage, ...], dict[str, Any]]:
    """Features and SfM model, our own or hloc's; gives the scene, all dropped images, and what to report of the model."""
    if settings.hloc is not None:
        found = hloc_stages(settings.hloc, folder, source, stages)
        return found.scene, found.dropped, found.sfm
    scene, dropped = _extract(settings, folder, source, stages)
    return _map(settings, folder, replace(source, scene=scene, dropped=dropped), stages)


def _extract(settings: Settings, folder: Path, source: SceneSource, stages: Stages) -> tuple[Scene, tuple[DroppedImage, ...]]:
    """Extract features; gives the scene with them noted and without unreadable images, and all images that were dropped."""
    extractor = make_extractor(settings.features, settings.num_keypoints, settings.device, settings.weights)
    record = json.loads(json.dumps(extractor.settings()))
    scene = source.scene
    images = scene.split("train", "val") if source.poses_known else scene.images

    def work() -> dict[str, Any]:
        logger.info("Extracting %s features of %d images", settings.features, len(images))
        return {"dropped": extract_scene(folder / "features.h5", scene, images, extractor, settings.batch, settings.skip_bad_images)}

    bad = stages.run("features", record, ("features.h5",), work)["dropped"]
    names = {image["name"] for image in bad}
    features = {"name": settings.features, "settings": record, "settings_hash": settings_hash(record)}
    scene = replace(scene.with_images(image for image in scene.images if image.name not in names), features=features)
    return scene, (*source.dropped, *(DroppedImage(**image) for image in bad))


def _map(settings: Settings, folder: Path, source: SceneSource, stages: Stages) -> tuple[Scene, tuple[DroppedImage, ...], dict[str, Any]]:
    """Make the SfM model; gives the scene (with poses found where none were known), all dropped images, and what to report."""
    outputs = ("sfm",) if source.poses_known else ("sfm", "sfm_all")
    with FeatureReader(folder / "features.h5") as reader:
        read = cached(reader.read, reader.read(source.scene.split("train")[0].name))
        work = _triangulate if source.poses_known else _reconstruct
        info = stages.run("sfm", {}, outputs, lambda: work(settings, folder, source, read))
    if source.poses_known:
        return source.scene, source.dropped, info
    scene, unplaced = placed(source.scene, read_model(folder / "sfm_all"))
    provenance = {**scene.provenance, "test poses": "reference poses: the test photos took part in the reconstruction, not in the labels"}
    scene = replace(scene, provenance=provenance)
    if info.get("world"):
        scene = in_metres(scene, info["world"])
    reasons = info.get("unplaced", {})
    lost = (DroppedImage(name, reasons.get(name, "could not be placed by structure from motion")) for name in unplaced)
    return scene, (*source.dropped, *lost), info


def _triangulate(settings: Settings, folder: Path, source: SceneSource, read: ReadFeatures) -> dict[str, Any]:
    """Triangulate the training images at their poses: neither validation nor test images may leave a trace in the map."""
    train = source.scene.with_images(source.scene.split("train"))
    matcher = make_matcher(settings.matcher, settings.features, settings.device)
    loose = match_known_poses(train, read, matcher, settings.sfm, LOOSE)
    info = _publish_map(settings, folder / "sfm", train, read, verify_matches(train, read, loose, settings.sfm))
    return {**info, "refined": _refine(settings, folder, train, read, loose)}


def _refine(settings: Settings, folder: Path, train: Scene, read: ReadFeatures, loose: Matches) -> dict[str, Any]:
    """A second model at poses in which the images agree better, where they do; what the report says of it."""
    remove_refined(folder)
    if not settings.refines:
        return {}
    found = refine_poses(train, features_keypoints(train, read), loose, settings.sfm, folder)
    used = settings.refine_poses == "yes" or found.worthwhile
    errors = {"error_given": found.error_before, "error_refined": found.error_after}
    logger.info(
        "The images agree to %.2f px at the given poses, %.2f px at refined ones: %s", *errors.values(),
        "a second map is made at these" if used else "the given ones are good",
    )  # fmt: skip
    if used:
        matches = verify_matches(found.scene, read, loose, settings.sfm)
        info = _publish_map(settings, refined_folder(folder) / "sfm", found.scene, read, matches)
        poses = {image.name: image.cam_from_world for image in found.scene.images if image.cam_from_world is not None}
        RefinedMap(poses, **errors).save(folder)
        return {**errors, **info}
    return errors


def _reconstruct(settings: Settings, folder: Path, source: SceneSource, read: ReadFeatures) -> dict[str, Any]:
    """Find the poses of all photos, then make the map anew from the training photos alone, at these poses."""
    matcher = make_matcher(settings.matcher, settings.features, settings.device)
    matches = match_photos(source.scene, read, matcher, settings.sfm)

    def place(pairs: Matches) -> Reconstructed:
        return reconstruct(source.scene, read, pairs, source.refine_cameras, settings.sfm, folder)

    ordered = capture_order(source.scene.image_dir, [image.name for image in source.scene.images])
    found = firmer(reconsider(place(matches), matches, ordered, place), lambda: _with_more_keypoints(settings, folder, source, ordered))
    world = find_world(settings.scale, placed(source.scene, found.model)[0], found.model)
    if world is not None:
        transform_model(found.model, world)
    scene, unplaced = placed(source.scene, found.model)
    train = scene.with_images(scene.split("train"))
    names = {image.name for image in train.images}
    verified = verify_matches(train, read, restrict(matches, names), settings.sfm)
    try:
        info = _publish_map(settings, folder / "sfm", train, read, verified)
    except ReconstructionError as error:  # its remedy speaks of given poses
        counted = f"{len(scene.images)} of {len(source.scene.images)} photos fit together, and too loosely for a map"
        raise ReconstructionError(f"Only {counted}: {error.problem}", REMEDY) from error
    save_model(found.model, folder / "sfm_all")
    return {
        **info, "models_found": found.num_models, "photos_placed": found.model.num_reg_images(),
        "unplaced": why_unplaced(unplaced, {name: len(read(name)) for name in unplaced}, found),
        "world": {} if world is None else {"note": world.note, **world.info},
    }  # fmt: skip


def _with_more_keypoints(settings: Settings, folder: Path, source: SceneSource, ordered: Sequence[str]) -> Reconstructed:
    """All photos reconstructed from features of their own, which are kept no longer than that."""
    scene, matcher = source.scene, make_matcher(settings.matcher, settings.features, settings.device)
    extractor = make_extractor(settings.features, MORE * settings.num_keypoints, settings.device, settings.weights)
    with temporary_folder(folder) as work:
        extract_scene(Path(work) / "features.h5", scene, scene.images, extractor, settings.batch, settings.skip_bad_images)
        with FeatureReader(Path(work) / "features.h5") as reader:
            read = cached(reader.read, reader.read(ordered[0]))

            def place(pairs: Matches) -> Reconstructed:
                return reconstruct(scene, read, pairs, source.refine_cameras, settings.sfm, folder)

            matches = match_photos(scene, read, matcher, settings.sfm)
            return reconsider(place(matches), matches, ordered, place)


def _publish_map(settings: Settings, target: Path, train: Scene, read: ReadFeatures, matches: Matches) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    model = triangulate(train, features_keypoints(train, read), matches, settings.sfm, target.parent)
    save_model(model, target)
    return {
        "verified_pairs": len(matches),
        "matches_per_pair": summary([len(rows) for rows in matches.values()]),
        "points": model.num_points3D(),
        "mean_reprojection_error": model.compute_mean_reprojection_error(),
    }


def _label(settings: Settings, folder: Path, scene: Scene) -> dict[str, Any]:
    """Labels of the training images; too few are an error."""
    train = scene.split("train")
    table, depth = depth_corrected(point_table(read_model(folder / "sfm"), observed_points(folder / "sfm")), scene, settings.depth)
    with FeatureReader(folder / "features.h5") as reader:
        rows = {image.name: reader.count(image.name) for image in train}
    labels = dict(make_labels(table, rows, settings.labels))
    require_labels([int(label.valid.sum()) for label in labels.values()], settings.labels, ADVICE)
    if RefinedMap.load(folder) is not None:
        refined = point_table(read_model(refined_folder(folder) / "sfm"), observed_points(refined_folder(folder) / "sfm"))
        write_labels(refined_folder(folder) / "labels.h5", make_labels(refined, rows, settings.labels))
    write_labels(folder / "labels.h5", labels.items())
    good = good_points(table, settings.labels)
    return {
        "track_length": summary(table.track_length[good]),
        "reprojection_error": summary(table.error[good]),
        "triangulation_angle": summary(table.angle_deg[good]),
        "points_refused": int((~good).sum()),
        **depth,
    }


def _label_counts(folder: Path, scene: Scene) -> dict[str, int]:
    with LabelReader(folder / "labels.h5") as reader:
        return {image.name: int(reader.read(image.name).valid.sum()) for image in scene.split("train")}
