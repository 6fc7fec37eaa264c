"""Where localization can be expected to work: how much of the map a photo would find from a place, in a direction.

A point of the map counts for a pose when it lies in the picture and some mapping image saw it from a similar direction (local features
hardly match beyond `SIMILAR_DEG`) and distance; whatever hides it from there hid it from the mapping image as well. Counts mean something
relative to those at the poses of the mapping images: a share is 1 for a typical one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import unproject
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene, SceneImage

Array = NDArray[np.float64]
MAX_POINTS, MAX_OBSERVERS = 3_000, 8
SIMILAR_DEG, SIMILAR_DISTANCE = 35.0, 2.0
ENOUGH = 0.25
"""Share of a typical mapping image's points that a photo should find."""
MAX_TYPICAL = 60
"""Mapping images that say what is typical."""
DIRECTIONS = 12
CELLS = 20
"""Cells along the longer side of the mapped area."""
AROUND, CROSSED = 2, 4
"""So many cells around mapping cameras belong to the place, where so many lines of sight cross them: nobody stands in a wall."""
TALL = 0.15, 0.5
"""Height of the cameras' path, relative to its length and to its width, from which it is worth a view from the side."""


@dataclass(frozen=True)
class Visibility:
    """Points (P, 3) of the map and where they were seen from: unit vectors (P, K, 3) towards mapping cameras and distances (P, K), NaN
    where fewer than K saw a point.
    """

    xyz: Array
    rays: Array
    distances: Array

    def count(self, cam_from_world: Array, camera: pycolmap.Camera) -> int:
        """Points that a photo at this pose would find."""
        center = pose.center(cam_from_world)
        return int(self.counts_around(center, cam_from_world[None, :, :3], camera)[0])

    def counts_around(self, center: Array, rotations: Array, camera: pycolmap.Camera) -> NDArray[np.int64]:
        """Points (R,) that photos at one place would find in several directions, rotations (R, 3, 3) world to camera."""
        offsets, half = self.xyz[self._seen_alike(center)] - center, _half_size(camera)
        return np.array([_in_picture(offsets @ r.T, half).sum() for r in rotations])

    def crossings(self, center: Array, radius: float) -> int:
        """How many lines from a mapping camera to a point that it saw pass within `radius` of `center` (3,), which is free space then."""
        offset = center - self.xyz
        along = np.einsum("pkc,pc->pk", self.rays, offset)
        beside = (offset**2).sum(axis=1)[:, None] - along**2
        return int(((along > radius) & (along < self.distances) & (beside < radius**2)).sum())

    def _seen_alike(self, center: Array) -> NDArray[np.bool_]:
        """Which points some mapping image saw from a direction and distance like those of `center` (3,)."""
        offset = center - self.xyz
        distance = np.linalg.norm(offset, axis=1)
        cosine = np.einsum("pkc,pc->pk", self.rays, offset / np.maximum(distance, 1e-12)[:, None])
        ratio = distance[:, None] / self.distances
        alike = (cosine > np.cos(np.radians(SIMILAR_DEG))) & (ratio < SIMILAR_DISTANCE) & (ratio > 1 / SIMILAR_DISTANCE)
        return np.asarray(alike.any(axis=1))


def _half_size(camera: pycolmap.Camera) -> Array:
    """Largest |x| and |y| (2,) on the plane z = 1 of what a camera sees."""
    middle = [[camera.width - 1, (camera.height - 1) / 2], [(camera.width - 1) / 2, camera.height - 1]]
    half = np.abs(unproject(camera, middle))[[0, 1], [0, 1]]
    return np.where(np.isfinite(half), half, 1.0)


def _in_picture(points_cam: Array, half: Array) -> NDArray[np.bool_]:
    """Which points (N, 3) of the camera frame a picture shows."""
    x, y, z = points_cam.T
    return np.asarray((z > 0) & (np.abs(x) < half[0] * z) & (np.abs(y) < half[1] * z))


def load_visibility(folder: Path, scene: Scene) -> Visibility | None:
    """Visibility of the labelled points of a preprocessed scene; None where the labels are not there."""
    images = [image for image in scene.split("train") if image.cam_from_world is not None]
    if not (folder / "labels.h5").is_file() or not images:
        return None
    with LabelReader(folder / "labels.h5") as labels:
        images = [image for image in images if image.name in labels]
        seen = [np.unique(label.xyz[label.valid], axis=0) for label in map(labels.read, (image.name for image in images))]
    if not any(len(points) for points in seen):
        return None
    return _visibility(seen, np.array([pose.center(i.cam_from_world) for i in images if i.cam_from_world is not None]))


def _visibility(seen: Sequence[NDArray[np.float32]], centers: Array) -> Visibility:
    """From the points (N_i, 3) that each image saw and the images' centres (I, 3)."""
    rows = np.ascontiguousarray(np.concatenate(seen)).view(np.dtype((np.void, 12))).ravel()
    image = np.repeat(np.arange(len(seen)), [len(points) for points in seen])
    _, first, number = np.unique(rows, return_index=True, return_inverse=True)
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(first), min(MAX_POINTS, len(first)), replace=False))
    place = np.full(len(first), -1)
    place[chosen] = np.arange(len(chosen))
    xyz = np.concatenate(seen)[first[chosen]].astype(np.float64)
    observers = np.full((len(chosen), MAX_OBSERVERS), -1)
    filled = np.zeros(len(chosen), dtype=int)
    order = rng.permutation(len(number))  # of many observers, any few stand for all
    for row, observer in zip(place[number.reshape(-1)[order]], image[order], strict=True):
        if row >= 0 and filled[row] < MAX_OBSERVERS:
            observers[row, filled[row]] = observer
            filled[row] += 1
    offsets = np.where(observers[..., None] >= 0, centers[observers] - xyz[:, None], np.nan)
    distances = np.linalg.norm(offsets, axis=2)
    return Visibility(xyz, offsets / np.maximum(distances, 1e-12)[..., None], distances)


@dataclass(frozen=True)
class Coverage:
    """Cells of the mapped places: `centers` (C, 3), `open` (C,) the share of the directions in which a photo from there would find enough
    of the map, `views` (C,) mapping images in the cell. `axes` (3, 3): rows right, forward and up of the view from above. `size`: of a
    cell. `query_shares` (Q,): how much of the map each query would find at its true pose. `tall`: cameras stood at very different heights.
    """

    centers: Array
    open: Array
    views: NDArray[np.int64]
    axes: Array
    size: float
    query_shares: Array
    tall: bool

    def weak(self) -> NDArray[np.bool_]:
        """Cells (C,) where clearly fewer directions than elsewhere find enough."""
        return np.asarray(self.open < 0.5 * np.median(self.open)) if len(self.open) else np.zeros(0, bool)


def measure_coverage(visibility: Visibility, scene: Scene, queries: Sequence[SceneImage], axes: Array) -> Coverage:
    """Coverage of a scene for the given queries (with poses); `axes` (2, 3) as `map_figure.view_from_above` gives them."""
    poses = np.stack([image.cam_from_world for image in scene.split("train") if image.cam_from_world is not None])
    frame = np.vstack([axes, np.cross(axes[0], axes[1])])
    places = pose.center(poses) @ frame.T
    extent = np.ptp(places, axis=0)
    size = float(max(extent[:2].max(), 0.5 * extent[2]) / CELLS) or 1.0
    cells, heights, views = _cells(places, size)
    camera = scene.camera(scene.split("train")[0])
    centers = np.column_stack([(cells[:, :2] + 0.5) * size, heights])
    free = np.array([v > 0 or visibility.crossings(c @ frame, 0.35 * size) >= CROSSED for c, v in zip(centers, views, strict=True)])
    centers, views = centers[free], views[free]
    turns = _turns(poses, frame)
    step = 1 + len(poses) // MAX_TYPICAL
    typical = max(1.0, float(np.median([visibility.count(p, camera) for p in poses[::step]])))
    enough = [(visibility.counts_around(center @ frame, turns, camera) >= ENOUGH * typical).mean() for center in centers]
    shares = [visibility.count(q.cam_from_world, scene.camera(q)) / typical for q in queries if q.cam_from_world is not None]
    tall = extent[2] > TALL[0] * extent[:2].max() and extent[2] > TALL[1] * extent[:2].min()
    return Coverage(centers @ frame, np.array(enough), views, frame, size, np.array(shares), bool(tall))


def _cells(places: Array, size: float) -> tuple[NDArray[np.int64], Array, NDArray[np.int64]]:
    """Cells (C, 3) that hold mapping cameras, and those around them; mean height (C,) of near cameras; how many each holds (C,)."""
    index = np.floor(places / [size, size, 2 * size]).astype(np.int64)
    held: dict[tuple[int, int, int], list[float]] = {}
    for cell, height in zip(index.tolist(), places[:, 2], strict=True):
        held.setdefault(tuple(cell), []).append(height)
    heights, views = {cell: float(np.mean(h)) for cell, h in held.items()}, {cell: len(h) for cell, h in held.items()}
    for _ in range(AROUND):
        for x, y, level in list(heights):
            for near in ((x + dx, y + dy, level) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
                heights.setdefault(near, heights[x, y, level])
    cells = sorted(heights)
    return np.array(cells).reshape(-1, 3), np.array([heights[c] for c in cells]), np.array([views.get(c, 0) for c in cells])


def _turns(poses: Array, frame: Array) -> Array:
    """Rotations (DIRECTIONS, 3, 3) world to camera of upright cameras that look all around, tilted as the mapping cameras mostly are."""
    tilt = float(np.median(np.arcsin(np.clip(poses[:, 2, :3] @ frame[2], -1, 1))))
    rotations = []
    for angle in np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS):
        ahead = np.cos(tilt) * (np.cos(angle) * frame[0] + np.sin(angle) * frame[1]) + np.sin(tilt) * frame[2]
        right = np.cross(ahead, frame[2])
        right /= np.linalg.norm(right)
        rotations.append(np.stack([right, np.cross(ahead, right), ahead]))
    return np.stack(rotations)
