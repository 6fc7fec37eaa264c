"""A training set as it would be had some of its images not been mapped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s.geometry import pose
from d2s.geometry.camera import unproject
from d2s.training.data import TrainingSet

Array = NDArray[np.float64]
FEWEST = 3
"""Images that must still see a point."""
ROUNDS = 3
"""Of reweighting: distances to a point are known well after the first."""


def without_images(data: TrainingSet, held: Tensor) -> TrainingSet:
    """The set in which the images `held` (M,) have no labels and have left no trace in those of the others.

    Points that fewer than FEWEST other images see lose their labels; the rest are triangulated anew from the others' rays.
    """
    valid = data.valid & ~held[:, None]
    seen = torch.bincount(data.point[valid], minlength=data.num_points)
    valid &= (seen >= FEWEST)[data.point.clamp(min=0)]
    image, row = torch.nonzero(valid, as_tuple=True)
    point = data.point[image, row].numpy()
    centers, rays = _rays(data, valid)
    xyz = data.xyz.clone()
    xyz[image, row] = torch.from_numpy(triangulate(centers, rays, point, data.xyz[image, row].double().numpy()).astype(np.float32))
    return replace(data, valid=valid, xyz=xyz)


def _rays(data: TrainingSet, valid: Tensor) -> tuple[Array, Array]:
    """Camera centres and unit directions (R, 3), (R, 3) in the world of the valid rows, image by image."""
    centers, rays = [], []
    for index, rows in enumerate(valid):
        cam_from_world = data.cam_from_world[index].double().numpy()
        plane = unproject(data.cameras[int(data.camera[index])], data.keypoints[index, rows].numpy())
        local = np.column_stack([plane, np.ones(len(plane))])
        rays.append(local / np.linalg.norm(local, axis=1, keepdims=True) @ cam_from_world[:, :3])
        centers.append(np.broadcast_to(pose.center(cam_from_world), local.shape))
    return np.concatenate(centers), np.concatenate(rays)


def triangulate(centers: Array, rays: Array, point: NDArray[np.int64], start: Array) -> Array:
    """For every one of R rays the place (R, 3) of the point that it belongs to: the place that all rays of a point miss by the least angle.

    `start` (R, 3): about where the points are; it only says how far away they are.
    """
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    xyz = start
    for _ in range(ROUNDS):
        weighted = across / np.maximum(((xyz - centers) ** 2).sum(axis=1), 1e-18)[:, None, None]
        normal = _sums(weighted.reshape(-1, 9), point).reshape(-1, 3, 3)
        right = _sums(np.einsum("nij,nj->ni", weighted, centers), point)
        present = np.unique(point)
        solved = np.zeros((len(normal), 3))
        solved[present] = np.linalg.solve(normal[present], right[present, :, None])[:, :, 0]
        xyz = solved[point]
    return xyz


def _sums(values: Array, group: NDArray[np.int64]) -> Array:
    """Sums (G, C) over the rows of values (R, C) of each group."""
    return np.stack([np.bincount(group, column) for column in values.T], axis=1)
