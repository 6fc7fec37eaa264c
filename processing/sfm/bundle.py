"""The normal equations of bundle adjustment at a finished model: which motions of its photos the observations forbid, and how firmly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix

from d2s.geometry import pose
from d2s.geometry.camera import pixels_from_colmap, project

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

POSE, POINT, SIMILARITY = 6, 3, 7
FARTHEST = 100.0
"""How far points are from where they came out at most, in extents of the path: some have nearly parallel rays only."""


@dataclass(frozen=True)
class Bundle:
    """The observations of n photos, and how their pixels change with the model.

    poses (n, 3, 4): cam_from_world, in units of the extent of the path about its middle. lens (n,): row of each photo's camera. photo,
    point (m,): rows of each observation. by_pose (m, 2, 6): derivatives by a turn and a shift in the camera's frame; by_point (m, 2, 3);
    by_focal (m, 2): by the logarithm of the focal length. noise: standard deviation of an observation, pixels.
    """

    poses: Array
    lens: Rows
    photo: Rows
    point: Rows
    by_pose: Array
    by_point: Array
    by_focal: Array
    noise: float

    @cached_property
    def views(self) -> csr_matrix:
        """Derivatives (2m, 6n + cameras) by all poses and focal lengths."""
        m, n = len(self.photo), len(self.poses)
        rows = np.repeat(np.arange(2 * m), POSE + 1)
        columns = np.column_stack([POSE * self.photo[:, None] + np.arange(POSE), POSE * n + self.lens[self.photo]])
        values = np.concatenate([self.by_pose, self.by_focal[..., None]], axis=2)
        return csr_matrix((values.ravel(), (rows, np.repeat(columns, 2, axis=0).ravel())), (2 * m, POSE * n + int(self.lens.max()) + 1))

    @cached_property
    def points(self) -> csr_matrix:
        """Derivatives (2m, 3 points) by all points, those of each point made orthonormal: their projection is what points can absorb."""
        m, count = len(self.point), int(self.point.max()) + 1
        normal = np.tile((self.noise / FARTHEST) ** 2 * np.eye(POINT), (count, 1, 1))
        np.add.at(normal, self.point, np.einsum("mki,mkj->mij", self.by_point, self.by_point))
        inverse_root = np.linalg.inv(np.linalg.cholesky(normal))
        values = np.einsum("mki,mji->mkj", self.by_point, inverse_root[self.point])
        rows = np.repeat(np.arange(2 * m), POINT)
        columns = np.repeat(POINT * self.point[:, None] + np.arange(POINT), 2, axis=0)
        return csr_matrix((values.ravel(), (rows, columns.ravel())), (2 * m, POINT * count))

    @cached_property
    def covariance(self) -> Array:
        """Covariance (6n + cameras, squared) of poses and focal lengths where pixels have noise 1 and points are free.

        It holds for what does not change when the whole world is moved. What no observation fixes has 1 in its unit over the noise.
        """
        cross = self.points.T @ self.views
        normal = (self.views.T @ self.views - cross.T @ cross).toarray()
        free = np.zeros((len(normal), SIMILARITY))
        free[: POSE * len(self.poses)] = similarity_motion(self.poses).reshape(-1, SIMILARITY)
        normal += np.trace(normal) / len(normal) * free @ free.T + self.noise**2 * np.eye(len(normal))
        return np.asarray(cho_solve(cho_factor(normal), np.eye(len(normal))))

    def change(self, views: Array) -> Array:
        """Change (m, 2, k) of the pixels when poses and focal lengths change by (6n + cameras, k) and the points follow as they can."""
        moved = self.views @ views
        return np.asarray(moved - self.points @ (self.points.T @ moved)).reshape(len(self.photo), 2, -1)

    def shared(self, shortest: int) -> Rows:
        """Points that each pair of photos shares (n, n), of those that `shortest` photos see."""
        length = np.bincount(self.point)
        long = length[self.point] >= shortest
        place = (self.photo[long], self.point[long])
        sees = csr_matrix((np.ones(int(long.sum()), np.int64), place), (len(self.poses), len(length)))
        return np.asarray((sees @ sees.T).toarray())


def similarity_motion(poses: Array) -> Array:
    """Motion (n, 6, 7) of photos, as a turn and a shift in their own frames, when they all shift, turn and grow about the origin."""
    rotation, center = poses[:, :, :3], pose.center(poses)
    motion = np.zeros((len(poses), POSE, SIMILARITY))
    motion[:, 3:, :3] = motion[:, :3, 3:6] = -rotation
    motion[:, 3:, 3:6] = rotation @ cross_matrix(center)
    motion[:, 3:, 6] = -np.einsum("nij,nj->ni", rotation, center)
    return motion


def cross_matrix(vectors: Array) -> Array:
    """Matrices (n, 3, 3) that take the cross product with vectors (n, 3) from the left."""
    matrix = np.zeros((len(vectors), 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        matrix[:, i, j], matrix[:, j, i] = -vectors[:, k], vectors[:, k]
    return matrix


def read_bundle(model: pycolmap.Reconstruction, names: Sequence[str]) -> Bundle | None:
    """The named photos of a model, and the points that two or more of them see; None where these are too few to say anything."""
    images = {image.name: image for image in model.images.values()}
    lenses = {camera_id: row for row, camera_id in enumerate(dict.fromkeys(images[name].camera_id for name in names))}
    observed = [images[name].get_observation_points2D() for name in names]
    ids = np.array([element.point3D_id for row in observed for element in row], np.int64)
    known, point, counts = np.unique(ids, return_inverse=True, return_counts=True)
    photo = np.repeat(np.arange(len(names)), [len(row) for row in observed])
    lens = np.array([lenses[images[name].camera_id] for name in names])
    poses = np.stack([images[name].cam_from_world().matrix() for name in names])
    xyz = np.array([model.points3D[index].xyz for index in known.tolist()]).reshape(-1, 3)[point]
    pixels = np.array([element.xy for row in observed for element in row]).reshape(-1, 2)
    local = np.einsum("mij,mj->mi", poses[photo, :, :3], xyz) + poses[photo, :, 3]
    error = np.full((len(photo), 2), np.nan)
    for row, camera_id in enumerate(lenses):
        own = lens[photo] == row
        error[own] = project(model.cameras[camera_id], local[own])[0] - pixels_from_colmap(pixels[own])
    keep = (counts[point] > 1) & np.isfinite(error).all(axis=1)  # no pixel: behind the camera
    photo, (_, point), local, error = photo[keep], np.unique(point[keep], return_inverse=True), local[keep], error[keep]
    freedom = 2 * len(photo) - POINT * (int(point.max(initial=-1)) + 1) - POSE * len(names)
    extent = float(np.linalg.norm(np.ptp(pose.center(poses), axis=0)))
    if freedom <= 0 or extent <= 0:
        return None
    poses[:, :, 3] = (poses[:, :, 3] + poses[:, :, :3] @ pose.center(poses).mean(axis=0)) / extent
    focal = np.array([model.cameras[camera_id].mean_focal_length() for camera_id in lenses])[lens[photo]]
    noise = float(np.sqrt((error**2).sum() / freedom))
    return Bundle(poses, lens, photo, point, *_derivatives(poses[photo, :, :3], local / extent, focal), noise)


def _derivatives(rotation: Array, local: Array, focal: Array) -> tuple[Array, Array, Array]:
    """Derivatives of pixels by pose (m, 2, 6), point (m, 2, 3) and focal length (m, 2), without distortion.

    rotation (m, 3, 3): cam_from_world of each observation; local (m, 3): its point in the camera's frame; focal (m,): pixels.
    """
    plane = local[:, :2] / local[:, 2:]
    by_local = np.zeros((len(local), 2, 3))
    by_local[:, 0, 0] = by_local[:, 1, 1] = focal / local[:, 2]
    by_local[:, :, 2] = -(focal / local[:, 2])[:, None] * plane
    return np.concatenate([-by_local @ cross_matrix(local), by_local], axis=2), by_local @ rotation, focal[:, None] * plane
