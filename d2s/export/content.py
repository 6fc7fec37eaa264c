"""What is exported, whatever the format: cameras, images with their poses and keypoints, points with colour and track."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.features.images import read_image
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene, SceneImage

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
GRAY = 128
UNKNOWN_ERROR = -1.0


@dataclass(frozen=True)
class View:
    """One image: name and path, camera, cam_from_world (3, 4), split, and where known its keypoints.

    keypoints (N, 2) in pixels, top-left pixel centre at (0, 0); `point` (N,) the row of the exported point that each of them shows, or -1.
    """

    name: str
    path: Path
    camera_id: int
    cam_from_world: Array
    split: str
    keypoints: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    point: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Points:
    """P points: xyz (P, 3) in the scene's unit, rgb (P, 3) uint8, mean reprojection error (P,) in pixels or -1 where unknown."""

    xyz: Array
    rgb: NDArray[np.uint8]
    error: Array

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def gray(xyz: ArrayLike, error: ArrayLike | None = None) -> Points:
        """Points without a colour."""
        places = np.asarray(xyz, dtype=np.float64).reshape(-1, 3)
        errors = np.full(len(places), UNKNOWN_ERROR) if error is None else np.asarray(error, dtype=np.float64)
        return Points(places, np.full(places.shape, GRAY, np.uint8), errors)


@dataclass(frozen=True)
class Content:
    """Everything that a format may write; `units` is the scene's."""

    cameras: Mapping[int, pycolmap.Camera]
    views: tuple[View, ...]
    points: Points
    units: str

    def camera(self, view: View) -> pycolmap.Camera:
        """The view's own camera."""
        return self.cameras[view.camera_id]


def view_of(scene: Scene, image: SceneImage, cam_from_world: Array) -> View:
    """An image at a pose, without keypoints."""
    return View(image.name, scene.path(image), image.camera_id, cam_from_world, image.split)


def scene_content(scene: Scene, folder: Path) -> Content:
    """All images with a known pose, and the SfM points that became labels, with the keypoints that show them.

    `folder` holds the scene's features.h5 and labels.h5.
    """
    posed = [view_of(scene, image, image.cam_from_world) for image in scene.images if image.cam_from_world is not None]
    labelled, xyz, errors = [], [np.zeros((0, 3), np.float32)], [np.zeros(0, np.float32)]
    with FeatureReader(folder / "features.h5") as features, LabelReader(folder / "labels.h5") as labels:
        for index, view in enumerate(posed):
            if view.name in labels:
                label = labels.read(view.name)
                labelled.append((index, features.read(view.name).keypoints, label.valid))
                xyz.append(label.xyz[label.valid])
                errors.append(label.error[label.valid])
    rows, number = _distinct(np.concatenate(xyz))
    taken = 0
    for index, keypoints, valid in labelled:
        point = np.full(len(keypoints), -1, dtype=np.int64)
        point[valid] = number[taken : taken + valid.sum()]
        taken += int(valid.sum())
        posed[index] = replace(posed[index], keypoints=keypoints, point=once(point))
    return Content(scene.cameras, tuple(posed), Points.gray(np.concatenate(xyz)[rows], np.concatenate(errors)[rows]), scene.units)


def _distinct(xyz: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row of the first of each distinct coordinate, and for each row (N,) its number: labels of one point are equal to the last bit."""
    keys = np.ascontiguousarray(xyz, dtype=np.float32).view(np.dtype((np.void, 12))).ravel()
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return first.astype(np.int64), number.reshape(-1).astype(np.int64)


def once(point: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep only the first keypoint of an image that shows a point: a track passes an image once."""
    result = np.full_like(point, -1)
    seen = np.flatnonzero(point >= 0)
    first = seen[np.unique(point[seen], return_index=True)[1]]
    result[first] = point[first]
    return result


def query_content(scene: Scene) -> Content:
    """The test images at their reference poses, without points."""
    views = [view_of(scene, image, image.cam_from_world) for image in scene.split("test") if image.cam_from_world is not None]
    return Content(scene.cameras, tuple(views), Points.gray(np.zeros((0, 3))), scene.units)


def with_results(content: Content, scene: Scene, poses: Mapping[str, Array], source: Path) -> Content:
    """The test images at the poses of a results.txt instead of their own; those that it does not name are left out.

    Raises InputError when it names an image that the scene does not have.
    """
    images = {image.name: image for image in scene.images}
    unknown = [name for name in poses if name not in images]
    if unknown:
        raise InputError(f"{source} has poses of {len(unknown)} images that the scene does not have, for example {unknown[0]!r}.")
    views = {view.name: view for view in content.views}
    kept = [view for view in content.views if view.split != "test" and view.name not in poses]
    placed = [replace(views.get(name) or view_of(scene, images[name], at), cam_from_world=at) for name, at in poses.items()]
    return replace(content, views=(*kept, *placed))


def with_colors(content: Content) -> Content:
    """The points with the mean colour of the pixels that show them; gray where no image is there."""
    total, count = np.zeros((len(content.points), 3)), np.zeros(len(content.points), dtype=np.int64)
    seeing = [view for view in content.views if (view.point >= 0).any()]
    found = [view for view in seeing if view.path.is_file()]
    for view in found:
        shown = view.point >= 0
        np.add.at(total, view.point[shown], _pixels(read_image(view.path), view.keypoints[shown]))
        np.add.at(count, view.point[shown], 1)
    if len(found) < len(seeing):
        logger.warning("%d of %d images are not there; points that only they show stay gray.", len(seeing) - len(found), len(seeing))
    rgb = np.where(count[:, None] > 0, np.rint(total / np.maximum(count, 1)[:, None]), GRAY)
    return replace(content, points=replace(content.points, rgb=rgb.astype(np.uint8)))


def _pixels(image: NDArray[np.uint8], keypoints: NDArray[np.float32]) -> NDArray[np.uint8]:
    column, row = np.rint(keypoints).astype(int).T
    return image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]


def tracks(views: Sequence[View], points: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Where the track of each point begins (P + 1,), and all tracks (V, 2) one after the other: index of the view, row of its keypoint."""
    view = np.concatenate([np.zeros(0, np.int64), *(np.full((v.point >= 0).sum(), i) for i, v in enumerate(views))])
    row = np.concatenate([np.zeros(0, np.int64), *(np.flatnonzero(v.point >= 0) for v in views)])
    point = np.concatenate([np.zeros(0, np.int64), *(v.point[v.point >= 0] for v in views)])
    order = np.argsort(point, kind="stable")
    starts = np.searchsorted(point[order], np.arange(points + 1))
    return starts.astype(np.int64), np.column_stack([view, row])[order].astype(np.uint32)
