"""From an undistorted MegaDepth scene to what training draws from: cameras, overlaps and scale ratios of all pairs of photos.

Two photos share points; how many, and at which ratio of resolutions, is a product of the sparse table of photos and points with itself.
It is taken photo by photo, so that beside the result it needs the memory of one row.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.d2net.megadepth import MegaDepthScene
from d2s.d2net.megadepth_undistort import read_model
from d2s.d2net.scene_info import SceneInfo
from d2s.scene.atomic import remove_leftovers_of

log = logging.getLogger(__name__)

MIN_DEPTH_KB = 100
"""Smaller depth files of MegaDepth hold orders of depth or a mask of the foreground, no depth."""

Floats = NDArray[np.float64]


def prepare_scene(scene: MegaDepthScene, target: Path, min_depth_kb: float = MIN_DEPTH_KB) -> str:
    """Write `target`; gives what was done: "present", why the scene is left out, or how many photos have depth."""
    if target.is_file():
        return "present"
    model_folder = scene.undistorted_model
    for path, there in (
        (scene.undistorted / "sparse-txt", model_folder is not None),
        (scene.undistorted / "images", (scene.undistorted / "images").is_dir()),
        (scene.dense / "depths", (scene.dense / "depths").is_dir()),
    ):
        if not there:
            return f"no {path}"
    assert model_folder is not None
    remove_leftovers_of(target)
    info = scene_info(scene, read_model(model_folder), min_depth_kb)
    info.save(target)
    return f"{np.count_nonzero(info.depth_paths != '')} of {len(info.depth_paths)} photos have depth"


def scene_info(scene: MegaDepthScene, model: pycolmap.Reconstruction, min_depth_kb: float) -> SceneInfo:
    """All about the photos of a model, in the order of their ids."""
    images = [model.images[key] for key in sorted(model.images) if model.images[key].has_pose]
    depths = [_depth_path(scene, image, model, min_depth_kb) for image in images]
    views = [_View.of(image, model) if depth else _View.unknown() for image, depth in zip(images, depths, strict=True)]
    counts = np.array([len(view.ids) for view in views], np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids, ndepths = np.concatenate([view.ids for view in views]), np.concatenate([view.ndepths for view in views])
    overlap, ratio = pair_matrices(ids, ndepths, offsets)
    poses = np.stack([view.pose for view in views])
    photos = [str((scene.undistorted / "images" / image.name).relative_to(scene.root)) for image in images]
    return SceneInfo(
        image_paths=np.array([photo if depth else "" for photo, depth in zip(photos, depths, strict=True)], dtype=np.str_),
        depth_paths=np.array([str(depth.relative_to(scene.root)) if depth else "" for depth in depths], dtype=np.str_),
        intrinsics=np.stack([view.intrinsics for view in views]),
        poses=poses,
        overlap_matrix=overlap,
        scale_ratio_matrix=ratio,
        angles=axis_angles(poses),
        n_points3D=counts,
        points3D_ids=ids,
        points3D_offsets=offsets,
        points3D_id_to_2D=np.concatenate([view.xy for view in views]),
        points3D_id_to_ndepth=ndepths.astype(np.float32),
    )


def pair_matrices(ids: NDArray[np.int64], ndepths: Floats, offsets: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Overlaps and scale ratios (n, n) of photos whose points are rows offsets[k] to offsets[k + 1]; -1 where there is none.

    overlap[a, b]: share of a's points that b sees. ratio[a, b]: over the points in front of both, the least max(nd_a / nd_b, nd_b / nd_a).
    """
    count = len(offsets) - 1
    overlap, ratio = (np.full((count, count), -1, np.float32) for _ in range(2))
    points, columns = np.unique(ids, return_inverse=True)
    photo_of_row = np.repeat(np.arange(count), np.diff(offsets))
    by_point = np.argsort(columns, kind="stable")  # the rows of point c: by_point[starts[c]:starts[c + 1]]
    starts = np.searchsorted(columns[by_point], np.arange(len(points) + 1))
    logs = np.log(np.where(ndepths > 0, ndepths, np.nan))
    for photo in np.flatnonzero(np.diff(offsets)):
        own = np.arange(offsets[photo], offsets[photo + 1])
        rows, lengths = _ranges(starts[columns[own]], starts[columns[own] + 1])
        others = by_point[rows]
        seen = photo_of_row[others]
        overlap[photo] = np.bincount(seen, minlength=count) / len(own)
        apart = np.abs(logs[others] - np.repeat(logs[own], lengths))
        least = np.full(count, np.inf)
        np.fmin.at(least, seen, apart)
        ratio[photo] = np.where(np.isfinite(least), np.exp(least), -1)
    overlap[np.diff(offsets) == 0] = overlap[:, np.diff(offsets) == 0] = -1
    np.fill_diagonal(overlap, -1)
    np.fill_diagonal(ratio, -1)
    return overlap, ratio


def _ranges(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All numbers of the ranges one after the other, and the ranges' lengths."""
    lengths = ends - begins
    return np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum()), lengths


def axis_angles(poses: Floats) -> NDArray[np.float32]:
    """Angles (n, n) in degrees between the optical axes of poses (n, 4, 4); NaN where one is not known."""
    axes = poses[:, 2, :3].astype(np.float32)
    return np.degrees(np.arccos(np.clip(axes @ axes.T, -1, 1)))


@dataclass(frozen=True)
class _View:
    """One photo: intrinsics (3, 3), pose (4, 4), and its points by ascending id: ids (m,), xy (m, 2), ndepths (m,)."""

    intrinsics: Floats
    pose: Floats
    ids: NDArray[np.int64]
    xy: NDArray[np.float32]
    ndepths: Floats

    @classmethod
    def unknown(cls) -> _View:
        nothing = np.zeros(0)
        return cls(np.full((3, 3), np.nan), np.full((4, 4), np.nan), nothing.astype(np.int64), np.zeros((0, 2), np.float32), nothing)

    @classmethod
    def of(cls, image: pycolmap.Image, model: pycolmap.Reconstruction) -> _View:
        camera = model.cameras[image.camera_id]
        points = {point.point3D_id: point.xy for point in image.points2D if point.has_point3D()}
        ids = np.array(sorted(points), np.int64)
        pose = np.eye(4)
        pose[:3] = image.cam_from_world().matrix()
        world = np.array([model.points3D[key].xyz for key in ids.tolist()]).reshape(-1, 3)
        ndepths = (world @ pose[2, :3] + pose[2, 3]) / ((camera.focal_length_x + camera.focal_length_y) / 2)
        return cls(
            camera.calibration_matrix(), pose, ids, np.array([points[key] for key in ids.tolist()], np.float32).reshape(-1, 2), ndepths
        )


def _depth_path(scene: MegaDepthScene, image: pycolmap.Image, model: pycolmap.Reconstruction, min_depth_kb: float) -> Path | None:
    """The depth map of a photo; None where there is none, it is no depth, or not of the photo's size."""
    path = scene.dense / "depths" / Path(image.name).with_suffix(".h5")
    if not path.is_file() or path.stat().st_size < 1000 * min_depth_kb or not (scene.undistorted / "images" / image.name).is_file():
        return None
    camera = model.cameras[image.camera_id]
    try:
        with h5py.File(path) as file:
            shape = file["depth"].shape
    except (OSError, KeyError):
        log.warning("Left out: %s is no depth map that can be read.", path)
        return None
    if shape != (camera.height, camera.width):
        log.warning("Left out: %s is %s, its photo %s.", path, shape, (camera.height, camera.width))
        return None
    return path
