"""Labels corrected by depth images: a triangulated point moves to where the depth of the images that see it says that it is.

Triangulation leaves points uncertain along the viewing direction; measured or rendered depth is not. hloc's pipeline for 7-Scenes replaces
each point by the back-projection of its own projection in one image after the other, so that the last image wins. Here all images vote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import MissingFileError, unknown_choice
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.scene.manifest import Scene, SceneImage
from processing.depth_maps import DepthMap, depth_file, read_depth_map
from processing.labels import PointTable
from processing.progress import track
from processing.report import summary

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

CAMERAS = ("auto", "aligned", "kinect")
MISSING = ("keep", "drop")


@dataclass(frozen=True)
class DepthOptions:
    """Where depth comes from, and when it is believed.

    depth_dir: folder of depth images taken (rendered) by the colour camera; None for those beside the images. camera: "aligned" or
    "kinect" (see depth_maps), "auto" for kinect where 7scenes' own depth images are read, else aligned. missing: what becomes of a point
    that depth does not settle: "keep" leaves it where it was triangulated, "drop" takes its label away. A point is settled when at least
    `min_views` images, and at least half of those that have depth for it, agree on its place to `tolerance` of its distance or
    `min_tolerance` metres, and it then moves by at most `max_shift_px` in the images that see it (mean).
    """

    depth_dir: Path | None = None
    camera: str = "auto"
    missing: str = "keep"
    min_views: int = 2
    tolerance: float = 0.03
    min_tolerance: float = 0.02
    max_shift_px: float = 4.0

    def __post_init__(self) -> None:
        if self.camera not in CAMERAS:
            raise unknown_choice("depth camera (--depth_camera)", self.camera, CAMERAS)
        if self.missing not in MISSING:
            raise unknown_choice("rule for points without depth (--depth_missing)", self.missing, MISSING)

    def record(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {**asdict(self), "depth_dir": None if self.depth_dir is None else str(self.depth_dir)}


@dataclass(frozen=True)
class DepthView:
    """An image that sees points: its name in the table, camera and pose (3, 4), and its depth as a function, called once; None for none."""

    name: str
    camera: pycolmap.Camera
    cam_from_world: Array
    depth: Callable[[], DepthMap | None]


def depth_corrected(table: PointTable, scene: Scene, options: DepthOptions | None) -> tuple[PointTable, dict[str, Any]]:
    """The table with the depth of the scene's training images applied, and what to report; unchanged without options.

    Raises MissingFileError when no training image has a depth image, and FormatError or InputError for one that cannot be used.
    """
    if options is None:
        return table, {}
    images, files = scene.split("train"), depth_files(scene, options)
    kinect = options.camera == "kinect" or (options.camera == "auto" and scene.dataset == "7scenes" and options.depth_dir is None)
    views = [_view(scene, image, files[image.name], kinect) for image in images if image.cam_from_world is not None]
    corrected, info = correct_points(table, track(views, len(views), "depth"), options)
    logger.info("depth: %d of %d points moved, %s of the others", info["corrected"], info["points"], options.missing)
    return corrected, {"depth": {**info, "images_with_depth": sum(path is not None for path in files.values())}}


def depth_files(scene: Scene, options: DepthOptions) -> dict[str, Path | None]:
    """The depth image of every training image, None where there is none. Raises MissingFileError when no image has one."""
    images = scene.split("train")
    files = {image.name: depth_file(image.name, scene.image_dir, options.depth_dir) for image in images}
    if not any(files.values()):
        where = options.depth_dir if options.depth_dir is not None else scene.image_dir
        raise MissingFileError(
            f"--depth_labels: no training image has a depth image in {where} (the first image: {images[0].name}).",
            "Unpack FRAME.depth.png beside the images, or name the folder of rendered depth with --depth_dir.",
        )
    return files


def check_depth(scene: Scene, options: DepthOptions | None) -> None:
    """Say before the long work what is wrong with the depth images that are asked for. Raises MissingFileError when there are none."""
    if options is None:
        return
    files = depth_files(scene, options)
    lacking = sum(path is None for path in files.values())
    if lacking:
        logger.warning("%d of %d training images have no depth image.", lacking, len(files))
    if scene.units != "metres":
        logger.warning("%s is in arbitrary units: depth images, which are in metres, only fit when the poses are in metres.", scene.name)


def _view(scene: Scene, image: SceneImage, path: Path | None, kinect: bool) -> DepthView:
    camera = scene.camera(image)
    assert image.cam_from_world is not None
    return DepthView(image.name, camera, image.cam_from_world, lambda: None if path is None else read_depth_map(path, camera, kinect))


def correct_points(table: PointTable, views: Iterable[DepthView], options: DepthOptions) -> tuple[PointTable, dict[str, Any]]:
    """The table with points moved to the median of where each image's depth puts them, and counts for the report.

    Each image projects a point, looks up the depth there and projects back. A moved point's `error` grows by the mean shift of its
    projections, which bounds its new reprojection error from above. Points that depth does not settle follow `options.missing`.
    """
    seen: list[tuple[DepthView, NDArray[np.int64]]] = []
    parts = []
    for view in views:
        rows = table.row_of_keypoint.get(view.name, np.empty(0, np.int64))
        rows = np.unique(rows[rows >= 0])
        seen.append((replace(view, depth=_no_depth), rows))
        parts.append(_measured(table.xyz[rows], rows, view))
    rows = np.concatenate([part[0] for part in parts]) if parts else np.empty(0, np.int64)
    points = np.concatenate([part[1] for part in parts]) if parts else np.empty((0, 3))
    distance = np.concatenate([part[2] for part in parts]) if parts else np.empty(0)
    merged, settled = _merge(rows, points, distance, len(table.xyz), options)
    shift = _mean_shift(table.xyz, merged, settled, seen)
    corrected = settled & (shift <= options.max_shift_px)
    has_depth = np.bincount(rows, minlength=len(table.xyz)) > 0
    xyz = np.where(corrected[:, None], merged, table.xyz if options.missing == "keep" else np.nan)
    error = np.where(corrected, table.error + np.where(corrected, shift, 0.0), table.error)
    info = {
        "points": len(xyz),
        "corrected": int(corrected.sum()),
        "without_depth": int((~has_depth).sum()),
        "disagreeing": int((has_depth & ~corrected).sum()),
        "rule_for_others": options.missing,
        "moved": summary(np.linalg.norm(merged - table.xyz, axis=1)[corrected]),
    }
    return replace(table, xyz=xyz, error=error), info


def _no_depth() -> None:
    return None


def _measured(xyz: Array, rows: NDArray[np.int64], view: DepthView) -> tuple[NDArray[np.int64], Array, Array]:
    """Point rows (M,) for which the image has depth, the places (M, 3) that it gives, and their distances (M,) from the camera."""
    depth = view.depth()
    if depth is None or not len(rows):
        return np.empty(0, np.int64), np.empty((0, 3)), np.empty(0)
    points = pose.transform(view.cam_from_world, xyz)
    usable = _visible(points, view.camera)
    rows, points = rows[usable], points[usable]
    rays = points[:, :2] / points[:, 2:]
    z = depth.along(rays, points[:, 2])
    measured = np.isfinite(z)
    in_camera = np.column_stack([rays, np.ones(len(rays))])[measured] * z[measured, None]
    return rows[measured], pose.transform(pose.inverse(view.cam_from_world), in_camera), np.linalg.norm(in_camera, axis=1)


def _visible(points: Array, camera: pycolmap.Camera) -> NDArray[np.bool_]:
    """Which points (N, 3) of the camera frame project into the image."""
    pixels, in_front = project(camera, points)
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= -0.5) & (pixels <= np.array([camera.width, camera.height]) - 0.5)).all(axis=1)
    return np.asarray(in_front & inside)


def _merge(rows: NDArray[np.int64], points: Array, distance: Array, count: int, options: DepthOptions) -> tuple[Array, NDArray[np.bool_]]:
    """For each of `count` points the median (count, 3) of the places that agree, and whether enough of them do."""
    first = _group_medians(rows, points, count)
    agree = np.linalg.norm(points - first[rows], axis=1) <= np.maximum(options.min_tolerance, options.tolerance * distance)
    votes, total = np.bincount(rows[agree], minlength=count), np.bincount(rows, minlength=count)
    settled = (votes >= options.min_views) & (2 * votes >= total)
    return _group_medians(rows[agree], points[agree], count), settled


def _group_medians(rows: NDArray[np.int64], points: Array, count: int) -> Array:
    """Median per component (count, 3) of the points of each row; NaN for rows without any."""
    result = np.full((count, 3), np.nan)
    sizes = np.bincount(rows, minlength=count)
    starts, present = np.cumsum(sizes) - sizes, sizes > 0
    low, high = (starts + (sizes - 1) // 2)[present], (starts + sizes // 2)[present]
    for axis in range(3):
        values = points[np.lexsort((points[:, axis], rows)), axis]
        result[present, axis] = (values[low] + values[high]) / 2
    return result


def _mean_shift(before: Array, after: Array, moved: NDArray[np.bool_], seen: Iterable[tuple[DepthView, NDArray[np.int64]]]) -> Array:
    """Mean distance (P,), pixels, by which the projections of the moved points shift in the images that see them; infinite for others."""
    total, number = np.zeros(len(before)), np.zeros(len(before))
    for index, shift in _shifts(before, after, moved, seen):
        total[index] += shift
        number[index] += 1
    return np.where(number > 0, total / np.maximum(number, 1), np.inf)


def _shifts(
    before: Array, after: Array, moved: NDArray[np.bool_], seen: Iterable[tuple[DepthView, NDArray[np.int64]]]
) -> Iterator[tuple[NDArray[np.int64], Array]]:
    for view, rows in seen:
        index = rows[moved[rows]]
        old, _ = project(view.camera, pose.transform(view.cam_from_world, before[index]))
        new, _ = project(view.camera, pose.transform(view.cam_from_world, after[index]))
        shift = np.linalg.norm(new - old, axis=1)
        yield index, np.where(np.isfinite(shift), shift, np.inf)
