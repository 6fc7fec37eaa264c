"""Structure from motion with pycolmap: triangulation at known poses, and full reconstruction where there are none."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import ReconstructionError
from d2s.geometry import pose
from d2s.geometry.colmap_log import quiet_colmap
from d2s.matching.table import Matcher
from d2s.scene.manifest import Scene, SceneImage
from processing.progress import track
from processing.sfm import pairs as pair_selection
from processing.sfm.database import posed_model, write_database, write_verified
from processing.sfm.matching import Found, ReadFeatures, match_pairs
from processing.sfm.pairs import Pair
from processing.sfm.verification import View, depths, make_view, verify

logger = logging.getLogger(__name__)

Matches = dict[Pair, NDArray[np.int32]]
Keypoints = Mapping[str, ArrayLike]

REMEDY = "Check that the poses are world-to-camera and belong to these images and cameras, or try other --features."


@dataclass(frozen=True)
class SfmOptions:
    """How the native path works.

    num_neighbors: images to match each image with. max_error_px: epipolar distance up to which a match agrees with known poses.
    min_matches: pairs with fewer verified matches are not used. min_angle_deg: smallest triangulation angle of a 3D point.
    """

    num_neighbors: int = 20
    max_error_px: float = 3.0
    min_matches: int = 15
    min_angle_deg: float = 1.5
    seed: int = 0


def match_known_poses(scene: Scene, read: ReadFeatures, matcher: Matcher, options: SfmOptions, looseness: float = 1.0) -> Matches:
    """Verified matches of a scene whose images all have poses; `looseness` multiplies the error that a match may have."""
    views = views_of(scene, read)
    pairs = choose_pairs(scene, read, matcher, views, options)
    logger.info("Matching %d image pairs of %d images", len(pairs), len(scene.images))
    found = track(match_pairs(pairs, read, matcher), len(pairs), "matching")
    return agreeing(views, found, looseness * options.max_error_px, options.min_matches)


def verify_matches(scene: Scene, read: ReadFeatures, matches: Matches, options: SfmOptions) -> Matches:
    """The matches that agree with the scene's poses, of pairs that have enough of them."""
    return agreeing(views_of(scene, read), matches.items(), options.max_error_px, options.min_matches)


def agreeing(views: Mapping[str, View], found: Iterable[Found], max_error_px: float, min_matches: int) -> Matches:
    """The matches that agree with the views' poses, of pairs that keep at least `min_matches`."""
    verified = ((pair, verify(views[pair[0]], views[pair[1]], rows, max_error_px)) for pair, rows in found)
    return {pair: rows for pair, rows in verified if len(rows) >= min_matches}


def restrict(matches: Matches, names: Container[str]) -> Matches:
    """The matches between the named images."""
    return {(a, b): rows for (a, b), rows in matches.items() if a in names and b in names}


def choose_pairs(scene: Scene, read: ReadFeatures, matcher: Matcher, views: Mapping[str, View], options: SfmOptions) -> list[Pair]:
    """All pairs of a small scene, else those that overlap with useful parallax."""
    names = [image.name for image in scene.images]
    if len(names) < pair_selection.EXHAUSTIVE_BELOW:
        return pair_selection.exhaustive_pairs(names)
    return pair_selection.pairs_from_poses(scene, typical_depths(scene, read, matcher, views, options), options.num_neighbors)


def typical_depths(scene: Scene, read: ReadFeatures, matcher: Matcher, views: Mapping[str, View], options: SfmOptions) -> list[float]:
    """Near, middle and far distance of the scene from its cameras, learnt from the matches of a few pairs."""
    found = [
        _pair_depths(views[a], views[b], verify(views[a], views[b], rows, options.max_error_px))
        for (a, b), rows in match_pairs(pair_selection.probe_pairs(scene), read, matcher)
    ]
    distances = np.concatenate(found) if found else np.zeros(0)
    if len(distances) < 100:
        raise ReconstructionError(f"Only {len(distances)} matches of {len(found)} probed image pairs agree with the given poses.", REMEDY)
    return [float(v) for v in np.percentile(distances, [20, 50, 80])]


def _pair_depths(view0: View, view1: View, matches: NDArray[np.int32]) -> NDArray[np.float64]:
    """Depths of the matches whose rays meet at a degree or more."""
    relative = pose.compose(view1.cam_from_world, pose.inverse(view0.cam_from_world))
    depth, _, sine = depths(relative, view0.rays[matches[:, 0]], view1.rays[matches[:, 1]])
    return depth[(sine > np.sin(np.radians(1))) & (depth > 0)]


def views_of(scene: Scene, read: ReadFeatures) -> dict[str, View]:
    """What verification needs of each image of a scene whose poses are known."""
    return {image.name: _view(scene, image, read) for image in scene.images}


def _view(scene: Scene, image: SceneImage, read: ReadFeatures) -> View:
    assert image.cam_from_world is not None, image.name
    return make_view(scene.camera(image), read(image.name).keypoints, image.cam_from_world)


def triangulate(
    scene: Scene, keypoints: Keypoints, matches: Matches, options: SfmOptions, work_dir: Path | None = None
) -> pycolmap.Reconstruction:
    """3D points of verified matches at the scene's poses, which stay as they are, like the cameras.

    Point2D i of an image is row i of its keypoints. COLMAP's database lies in `work_dir` meanwhile (default: the system's folder for such).
    Raises ReconstructionError when no point comes out.
    """
    if not matches:
        raise ReconstructionError("No image pair has enough matches that agree with the given poses.", REMEDY)
    logger.info("Triangulating %d images, %d verified pairs", len(scene.images), len(matches))
    with temporary_folder(work_dir) as folder, quiet_colmap():
        database = Path(folder) / "database.db"
        write_database(database, scene, keypoints)
        write_verified(database, scene, matches)
        model = pycolmap.triangulate_points(
            posed_model(scene, keypoints), str(database), str(folder), str(folder), True, _pipeline_options(options), False
        )
    if model.num_points3D() == 0:
        raise ReconstructionError(f"No 3D point could be triangulated from {len(matches)} image pairs.", REMEDY)
    return model


def _pipeline_options(options: SfmOptions) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's own options: no colours (the images are not read), fixed seed."""
    pipeline = pycolmap.IncrementalPipelineOptions()
    pipeline.extract_colors = False
    pipeline.min_num_matches = options.min_matches
    pipeline.triangulation.min_angle = options.min_angle_deg
    pipeline.mapper.filter_min_tri_angle = options.min_angle_deg
    if hasattr(pipeline, "random_seed"):
        pipeline.random_seed = options.seed
    return pipeline


def temporary_folder(work_dir: Path | None) -> TemporaryDirectory[str]:
    """A folder that goes when it is left; its name, .*.tmp, lets the next run remove what a killed one could not."""
    return TemporaryDirectory(prefix=".colmap.", suffix=".tmp", dir=work_dir)


def features_keypoints(scene: Scene, read: ReadFeatures) -> dict[str, NDArray[np.float32]]:
    """Keypoints (N, 2) of all images of a scene."""
    return {image.name: read(image.name).keypoints for image in scene.images}
