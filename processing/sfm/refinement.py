"""Poses in which the images agree with each other, where the given ones do not.

Reference poses come from depth cameras, motion capture or laser scans; synchronisation, calibration and drift leave them centimetres away
from what the pixels say. A map triangulated at such poses is blurred. Here the poses are moved by bundle adjustment until the matches
agree; what was moved is learnt later, from the pairs of given and refined poses (`d2s.geometry.pose_field`), so that a query still
comes out in the frame of the given ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.alignment import Similarity
from d2s.geometry.colmap_log import quiet_colmap
from d2s.regressor.landmarks import select_landmarks
from d2s.scene.manifest import Scene
from processing.sfm.colmap import Keypoints, Matches, SfmOptions, agreeing, triangulate
from processing.sfm.verification import make_view

logger = logging.getLogger(__name__)

BEST_KEYPOINTS = 768
"""Keypoints of an image that take part: poses need fewer points than a map."""
LOOSE = 4.0
"""Factor on the epipolar threshold while the poses are still wrong."""
POINTS_PER_IMAGE, FEWEST_POINTS, MOST_POINTS = 20, 4000, 30_000
"""Points that bundle adjustment works on, chosen for coverage and long tracks."""
ROUNDS = 2
WORTH = 0.9
"""Refined poses are used when they lower the median reprojection error below this share of what it was."""


@dataclass(frozen=True)
class Refinement:
    """The scene with refined poses, and the median reprojection error in pixels of the same observations before and after."""

    scene: Scene
    error_before: float
    error_after: float

    @property
    def worthwhile(self) -> bool:
        """Whether the images agree clearly better with the refined poses than with the given ones."""
        return self.error_after < WORTH * self.error_before


def refine_poses(scene: Scene, keypoints: Keypoints, matches: Matches, options: SfmOptions, work_dir: Path | None = None) -> Refinement:
    """Poses by bundle adjustment of the scene's images, cameras fixed, in a frame aligned with the given poses.

    `matches` are unverified or loosely verified. Stops after the first round where that changes little.
    Raises ReconstructionError when nothing can be triangulated.
    """
    best = {pair: rows[(rows < BEST_KEYPOINTS).all(axis=1)] for pair, rows in matches.items()}
    few = {name: np.asarray(points)[:BEST_KEYPOINTS] for name, points in keypoints.items()}
    current, before, after = scene, 0.0, 0.0
    for number in range(ROUNDS):
        threshold = options.max_error_px * (LOOSE if number == 0 else 1.0)
        views = {image.name: make_view(scene.camera(image), few[image.name], _pose(image.cam_from_world)) for image in current.images}
        verified = agreeing(views, best.items(), threshold, options.min_matches)
        model = triangulate(current, few, verified, options, work_dir)
        keep_covering_points(model, max(FEWEST_POINTS, min(MOST_POINTS, POINTS_PER_IMAGE * len(scene.images))))
        start = median_error(model)
        adjust(model)
        after = median_error(model)
        before = before or start
        current = _with_poses(scene, model)
        logger.info("Refining poses, round %d: median reprojection error %.2f px, was %.2f px", number + 1, after, start)
        if not Refinement(current, start, after).worthwhile:
            break
    return Refinement(aligned(current, scene), before, after)


def keep_covering_points(model: pycolmap.Reconstruction, count: int) -> None:
    """Delete all points but `count`, chosen so that every image keeps its share, long tracks first."""
    ids = np.array(list(model.points3D), dtype=np.int64)
    order = np.argsort(ids)
    seen = [np.array([p.point3D_id for p in image.get_observation_points2D()], dtype=np.int64) for image in model.images.values()]
    image = np.repeat(np.arange(len(seen)), [len(row) for row in seen])
    point = order[np.searchsorted(ids[order], np.concatenate(seen))]
    chosen = set(ids[select_landmarks(image, point, len(seen), len(ids), count)].tolist())
    for point_id in ids.tolist():
        if point_id not in chosen:
            model.delete_point3D(point_id)


def adjust(model: pycolmap.Reconstruction) -> None:
    """Bundle adjustment of poses and points with a robust loss; cameras stay as they are."""
    options: Any = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_principal_point = options.refine_extra_params = False
    options.print_summary = False
    solver = getattr(options, "ceres", options)  # pycolmap 3.13 has Ceres' options at the top level
    solver.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    solver.solver_options.max_num_iterations = 25
    solver.solver_options.function_tolerance = 1e-4  # COLMAP's own, 0, takes minutes over digits that no match can tell
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.images:
        config.add_image(image_id)
    with quiet_colmap():  # the adjuster itself: pycolmap.bundle_adjustment prints a headline that nothing silences
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def median_error(model: pycolmap.Reconstruction) -> float:
    """Median over the points of their mean reprojection error, pixels."""
    model.update_point_3d_errors()
    return float(np.median([point.error for point in model.points3D.values()]))


def _with_poses(scene: Scene, model: pycolmap.Reconstruction) -> Scene:
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    return scene.with_images(replace(image, cam_from_world=poses[image.name]) for image in scene.images)


def aligned(refined: Scene, given: Scene) -> Scene:
    """Refined poses in the frame and scale of the given ones: bundle adjustment leaves both free."""
    source = np.stack([_pose(image.cam_from_world) for image in refined.images])
    target = np.stack([_pose(image.cam_from_world) for image in given.images])
    similarity = _frame_change(source, target)
    return refined.with_images(
        replace(image, cam_from_world=moved) for image, moved in zip(refined.images, similarity.apply_pose(source), strict=True)
    )


def _frame_change(source: NDArray[np.float64], target: NDArray[np.float64]) -> Similarity:
    """The similarity between two sets of poses of the same cameras: rotations decide the rotation (centres on a line could not)."""
    u, _, vt = np.linalg.svd(np.einsum("nij,nik->jk", target[:, :, :3], source[:, :, :3]))
    rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    a, b = pose.center(source) @ rotation.T, pose.center(target)
    spread_a, spread_b = a - np.median(a, axis=0), b - np.median(b, axis=0)
    scale = float(np.median(np.linalg.norm(spread_b, axis=1)) / max(float(np.median(np.linalg.norm(spread_a, axis=1))), 1e-12))
    return Similarity(scale, rotation, np.median(b - scale * a, axis=0))


def _pose(cam_from_world: NDArray[np.float64] | None) -> NDArray[np.float64]:
    assert cam_from_world is not None
    return cam_from_world
