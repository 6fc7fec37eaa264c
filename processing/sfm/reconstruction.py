"""Full structure from motion for photos without poses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pycolmap

from d2s.errors import ReconstructionError
from d2s.geometry.colmap_log import quiet_colmap
from d2s.matching.table import Matcher
from d2s.scene.manifest import Scene
from processing.progress import Ticker, track
from processing.sfm import pairs as pair_selection
from processing.sfm.colmap import Matches, SfmOptions, temporary_folder
from processing.sfm.database import verified_counts, write_database, write_matches
from processing.sfm.focal_lengths import PLAUSIBLE, as_good, as_good_without_distortion, moved, one_by_one, without_lens
from processing.sfm.matching import ReadFeatures, match_pairs
from processing.sfm.pairs import Pair

logger = logging.getLogger(__name__)

SEQUENTIAL, RETRIEVED = 5, 20
"""Neighbours by name and by looks of each photo where there are too many photos for all pairs."""
MIN_IMAGES, MIN_SHARE = 3, 0.1
"""Photos that a model of a place must hold, and their share of all: three of forty are chance."""
SMALL_SHARE = 0.25
"""A model of fewer photos may have begun at the wrong pair."""
AHEAD_DEG = 4.0
"""Angle under which the first two photos must see the place where COLMAP's 16 degrees are not to be had: walking straight ahead."""
SEEN_ALIKE = 100
"""Verified matches with which two photos certainly show the same."""
MAX_TRIALS = 2000
"""Samples that verification draws of a pair's matches at most. COLMAP's 10000 are spent on pairs with nothing in common, take four times
as long, and find no more."""
REMEDY = (
    "Take more photos of what stands still, with at least two thirds of overlap from one to the next and with texture in them, "
    "or try other --features."
)


@dataclass(frozen=True)
class Reconstructed:
    """The largest model of the photos, and how many models there were.

    `verified`: matches of each pair of photos that COLMAP's two-view geometry explains. `parts`: photos of the other models that are in no
    larger one.
    """

    model: pycolmap.Reconstruction
    num_models: int
    verified: Mapping[Pair, int]
    parts: tuple[tuple[str, ...], ...]


def photo_pairs(names: list[str], read: ReadFeatures, seed: int) -> list[Pair]:
    """All pairs of few photos; of many, those near in name and those that look alike."""
    if len(names) < pair_selection.EXHAUSTIVE_BELOW:
        return pair_selection.exhaustive_pairs(names)
    near = pair_selection.sequential_pairs(names, SEQUENTIAL)
    alike = pair_selection.retrieval_pairs(names, lambda name: np.asarray(read(name).descriptors, dtype=np.float32), RETRIEVED, seed)
    return pair_selection.unique_pairs([*near, *alike], names)


def match_photos(scene: Scene, read: ReadFeatures, matcher: Matcher, options: SfmOptions) -> Matches:
    """Matches of photos without poses; what they are worth is for COLMAP to say."""
    pairs = photo_pairs([image.name for image in scene.images], read, options.seed)
    logger.info("Matching %d image pairs of %d photos", len(pairs), len(scene.images))
    found = track(match_pairs(pairs, read, matcher), len(pairs), "matching")
    return {pair: rows for pair, rows in found if len(rows) >= options.min_matches}


def reconstruct(
    scene: Scene, read: ReadFeatures, matches: Matches, refine_cameras: bool, options: SfmOptions, work_dir: Path | None = None
) -> Reconstructed:
    """Poses of all photos, and cameras too where they are guesses; the largest model is kept.

    Raises ReconstructionError when fewer than MIN_IMAGES photos, or no training photo, can be placed in one model.
    """
    with temporary_folder(work_dir) as folder, quiet_colmap():
        database, pair_file = Path(folder) / "database.db", Path(folder) / "pairs.txt"
        write_database(database, scene, {image.name: read(image.name).keypoints for image in scene.images})
        write_matches(database, scene, matches)
        pair_file.write_text("".join(f"{a} {b}\n" for a, b in matches), encoding="utf-8")
        logger.info("Verifying %d image pairs", len(matches))
        pycolmap.verify_matches(str(database), str(pair_file), _verification_options(options))
        logger.info("Reconstructing; this can take minutes")
        pipeline, count = _pipeline_options(refine_cameras, options), _PhotoCounter(len(scene.images))
        verified = verified_counts(database)

        def models() -> list[pycolmap.Reconstruction]:
            with TemporaryDirectory(dir=folder) as written:
                found = pycolmap.incremental_mapping(str(database), folder, written, pipeline, next_image_callback=count)
            held = [model for model in found.values() if model.num_points3D()]  # photos from one spot may end without any
            return sorted(held, key=lambda model: -model.num_reg_images())

        ranked = models()
        if _size(ranked) < max(MIN_IMAGES, SMALL_SHARE * len(scene.images)):
            logger.info("Few photos show the place from sides far apart; trying again with less")
            pipeline.mapper.init_max_forward_motion, pipeline.mapper.init_min_tri_angle = 1.0, AHEAD_DEG
            ranked = max(ranked, models(), key=_size)
        if not ranked:
            raise ReconstructionError(_no_model(len(scene.images), matches, verified), REMEDY)
        if refine_cameras and one_by_one(scene.cameras, len(scene.images)):
            _refine_distortion(pipeline, False)
            plain = models()
            if plain and as_good_without_distortion(plain[0], ranked[0]):
                logger.info("The photos leave the distortion of their many cameras open; reconstructed without any")
                ranked = plain
            else:
                _refine_distortion(pipeline, True)
        lost = moved(ranked[0], scene.cameras)
        if lost:
            logger.info("The photos leave the focal length open; reconstructing again with the one in their EXIF data")
            pipeline.constant_cameras = lost
            held = models()
            ranked = held if held and as_good(held[0], ranked[0], scene.cameras) else ranked
        drop_without_lens(ranked[0])
    return Reconstructed(ranked[0], len(ranked), verified, _other_parts(ranked))


def _refine_distortion(pipeline: pycolmap.IncrementalPipelineOptions, refine: bool) -> None:
    pipeline.ba_refine_extra_params = pipeline.mapper.abs_pose_refine_extra_params = refine


def drop_without_lens(model: pycolmap.Reconstruction) -> None:
    """Take photos out of a model whose focal length left for infinity: their poses went with it."""
    for name, focal in without_lens(model).items():
        logger.warning("%s is left out: its focal length came out as %.3g times its longer side, which no lens has.", name, focal)
        image = model.find_image_with_name(name)
        model.deregister_frame(image.frame_id)


def _size(ranked: Sequence[pycolmap.Reconstruction]) -> int:
    """Photos of the largest model."""
    return int(ranked[0].num_reg_images()) if ranked else 0


def _verification_options(options: SfmOptions) -> pycolmap.TwoViewGeometryOptions:
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.max_num_trials = MAX_TRIALS
    verification.ransac.random_seed = options.seed  # else threads draw from generators of their own, and no two runs agree
    return verification


def _other_parts(ranked: Sequence[pycolmap.Reconstruction]) -> tuple[tuple[str, ...], ...]:
    """Photos of each model that are in no larger one, of the models after the first that have such photos."""
    parts, seen = [], _placed_names(ranked[0])
    for model in ranked[1:]:
        names = _placed_names(model)
        parts.append(tuple(sorted(names - seen)))
        seen |= names
    return tuple(part for part in parts if part)


def _placed_names(model: pycolmap.Reconstruction) -> set[str]:
    return {image.name for image in model.images.values() if image.has_pose}


def _no_model(photos: int, matches: Matches, verified: Mapping[Pair, int]) -> str:
    """What structure from motion had to go on with, in numbers."""
    best = max(verified.values(), default=0)
    return (
        f"No model could be started from {photos} photos: {len(matches)} pairs look alike, and the best of them has {best} matches "
        f"that one camera motion explains. {_why_no_model(best)}"
    )


def _why_no_model(best: int) -> str:
    """What most probably is wrong with photos of which the best pair has so many verified matches."""
    if best < SEEN_ALIKE:
        return "The photos show nothing in common, or were taken from one spot."
    return "The photos show the same, but all from one spot, which leaves depths unknown. Take some steps to the side between photos."


class _PhotoCounter:
    """Shows that COLMAP is at work; it tries several models, so the count may exceed the photos."""

    def __init__(self, photos: int) -> None:
        self._photos, self._count, self._ticker = photos, 0, Ticker()

    def __call__(self) -> None:
        self._count += 1
        self._ticker.tell("photos placed, over all models that were tried: %d (of %d photos)", self._count, self._photos)


def _pipeline_options(refine_cameras: bool, options: SfmOptions) -> pycolmap.IncrementalPipelineOptions:
    pipeline = pycolmap.IncrementalPipelineOptions()
    pipeline.extract_colors = False
    pipeline.min_num_matches = options.min_matches
    pipeline.min_model_size = MIN_IMAGES
    pipeline.ba_refine_focal_length = refine_cameras
    pipeline.mapper.abs_pose_refine_focal_length = refine_cameras
    _refine_distortion(pipeline, refine_cameras)
    pipeline.min_focal_length_ratio, pipeline.max_focal_length_ratio = PLAUSIBLE
    if hasattr(pipeline, "random_seed"):
        pipeline.random_seed = options.seed
    return pipeline


def placed(scene: Scene, model: pycolmap.Reconstruction) -> tuple[Scene, tuple[str, ...]]:
    """The scene with the poses and cameras of a model, without the photos that it lacks, and the names of those.

    Raises ReconstructionError when fewer than MIN_IMAGES photos, or no training photo, are left.
    """
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values() if image.has_pose}
    images = tuple(replace(image, cam_from_world=poses[image.name]) for image in scene.images if image.name in poses)
    if len(images) < max(MIN_IMAGES, MIN_SHARE * len(scene.images)) or not any(image.split == "train" for image in images):
        problem = (
            f"Only {len(images)} of {len(scene.images)} photos fit together: the others show nothing that stays where it is between them."
        )
        raise ReconstructionError(problem, REMEDY)
    cameras = {i: model.cameras[i] if i in model.cameras else camera for i, camera in scene.cameras.items()}  # noqa: SIM401 (no .get there)
    unplaced = tuple(image.name for image in scene.images if image.name not in poses)
    return replace(scene, cameras=cameras).with_images(images), unplaced
