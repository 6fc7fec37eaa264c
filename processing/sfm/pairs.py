"""Which images to match: all of a small set, those that see the same from another angle where poses are known, retrieved ones otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import unproject
from d2s.matching.retrieval import global_descriptors
from d2s.scene.manifest import Scene, SceneImage

Array = NDArray[np.float64]
Pair = tuple[str, str]

EXHAUSTIVE_BELOW = 61
GRID = 4
"""A view is sampled at GRID x GRID pixels and three depths."""
BEST_ANGLE_DEG, LARGEST_ANGLE_DEG = 3.0, 50.0
"""Parallax from which a pair triangulates well, and beyond which local features no longer match."""
REDUNDANT_DEG = 2.0
"""Neighbours closer together than this see nearly the same: the second adds little."""


def exhaustive_pairs(names: Sequence[str]) -> list[Pair]:
    """Every pair once."""
    return list(combinations(names, 2))


def sequential_pairs(names: Sequence[str], neighbors: int = 5) -> list[Pair]:
    """Each image with the `neighbors` that follow it in the folder's order, and with those at growing powers of two beyond."""
    steps = [*range(1, neighbors + 1), *(2**k for k in range(3, 7) if 2**k > neighbors)]
    return [(names[i], names[i + step]) for step in steps for i in range(len(names) - step)]


def unique_pairs(pairs: Iterable[Pair], order: Sequence[str]) -> list[Pair]:
    """The pairs without repetition, each and all in the order of the images (neighbouring pairs then share an image)."""
    rank = {name: i for i, name in enumerate(order)}
    unordered = {(min(a, b, key=rank.__getitem__), max(a, b, key=rank.__getitem__)) for a, b in pairs if a != b}
    return sorted(unordered, key=lambda pair: (rank[pair[0]], rank[pair[1]]))


def pairs_from_poses(scene: Scene, depths: Sequence[float], num_neighbors: int) -> list[Pair]:
    """For every image, `num_neighbors` others that see the same part of the place with useful parallax and differ among themselves.

    `depths` are typical distances of the scene from its cameras. Two images at 30 frames a second match best and triangulate worst, so the
    score is overlap times a factor that grows with parallax up to BEST_ANGLE_DEG and falls to zero at LARGEST_ANGLE_DEG. Neighbours are
    taken greedily; what lies within REDUNDANT_DEG of one that was taken counts less.
    """
    images = scene.images
    overlap, angle = _overlap_and_angle(scene, depths)
    score = overlap * np.minimum(angle / BEST_ANGLE_DEG, 1) * np.clip((LARGEST_ANGLE_DEG - angle) / 20.0, 0, 1)
    np.fill_diagonal(score, 0)
    pairs = []
    for _ in range(min(num_neighbors, len(images) - 1)):
        chosen = score.argmax(axis=1)
        gain = score[np.arange(len(images)), chosen]
        pairs += [(images[i].name, images[int(j)].name) for i, j in enumerate(chosen) if gain[i] > 0]
        score *= 1 - np.exp(-((angle[chosen] / REDUNDANT_DEG) ** 2))
        score[np.arange(len(images)), chosen] = 0
    return unique_pairs(pairs, [image.name for image in images])


def _overlap_and_angle(scene: Scene, depths: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fraction (n, n) of sample points of two views that the other sees (the smaller of the two), and their mean parallax in degrees.

    Where nothing is seen in common, the parallax is that of the viewing directions.
    """
    images = scene.images
    poses = np.stack([_pose(image) for image in images])
    centers = pose.center(poses).astype(np.float32)
    bounds = np.stack([_bounds(scene, image) for image in images])
    overlap = np.zeros((len(images), len(images)), np.float32)
    angle = np.zeros_like(overlap)
    for i, image in enumerate(images):
        points = _samples(scene, image, depths)
        seen = _sees(poses, bounds, points)
        overlap[i] = seen.mean(axis=1)
        angle[i] = _parallax(centers[i], centers, points)
    return np.minimum(overlap, overlap.T), 0.5 * (angle + angle.T)


def _pose(image: SceneImage) -> Array:
    assert image.cam_from_world is not None, image.name
    return image.cam_from_world


def _bounds(scene: Scene, image: SceneImage) -> Array:
    """Extent (2, 2) of the image on the plane z = 1: a window that ignores how distortion bends its border."""
    camera = scene.camera(image)
    corners = np.array([[0, 0], [camera.width - 1, 0], [0, camera.height - 1], [camera.width - 1, camera.height - 1]], dtype=np.float64)
    plane = np.nan_to_num(unproject(camera, corners))
    return np.stack([plane.min(axis=0), plane.max(axis=0)])


def _samples(scene: Scene, image: SceneImage, depths: Sequence[float]) -> Array:
    """World points (GRID * GRID * len(depths), 3) in the view of an image."""
    camera = scene.camera(image)
    x, y = np.meshgrid((np.arange(GRID) + 0.5) / GRID * camera.width, (np.arange(GRID) + 0.5) / GRID * camera.height)
    plane = np.nan_to_num(unproject(camera, np.column_stack([x.ravel(), y.ravel()])))
    rays = np.column_stack([plane, np.ones(len(plane))])
    return pose.transform(pose.inverse(_pose(image)), np.concatenate([rays * depth for depth in depths]))


def _sees(poses: NDArray[Any], bounds: Array, points: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cameras (n,) see which points (p,), on the plane z = 1, occlusion aside: (n, p)."""
    poses, points = poses.astype(np.float32), points.astype(np.float32)
    local = np.einsum("nij,pj->npi", poses[:, :, :3], points) + poses[:, None, :, 3]
    plane = local[..., :2] / np.maximum(local[..., 2:], 1e-6)
    inside = (plane >= bounds[:, None, 0]) & (plane <= bounds[:, None, 1])
    return inside.all(axis=-1) & (local[..., 2] > 0)


def _parallax(center: NDArray[np.float32], centers: NDArray[np.float32], points: Array) -> NDArray[np.float32]:
    """Mean angle (n,) in degrees under which sample points see one centre and each of the others."""
    near = _unit(center - points.astype(np.float32))
    far = _unit(centers[:, None] - points.astype(np.float32))
    cosine = np.clip(np.einsum("npi,pi->np", far, near), -1, 1)
    return np.degrees(np.arccos(cosine)).mean(axis=1).astype(np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def probe_pairs(scene: Scene, count: int = 60) -> list[Pair]:
    """Pairs spread over the scene that look the same way from somewhat different places, to learn how far away the scene is."""
    images = scene.images
    poses = np.stack([_pose(image) for image in images])
    centers, axes = pose.center(poses), poses[:, 2, :3]
    picked = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    pairs = []
    for number, i in enumerate(picked):
        near = np.flatnonzero(axes @ axes[i] > np.cos(np.radians(30)))
        near = near[np.argsort(np.linalg.norm(centers[near] - centers[i], axis=1), kind="stable")]
        if len(near) > 1:
            rank = min((4, 12, 36)[number % 3], len(near) - 1)
            pairs.append((images[int(i)].name, images[int(near[rank])].name))
    return pairs


def retrieval_pairs(names: Sequence[str], descriptors: Callable[[str], NDArray[Any]], num_neighbors: int, seed: int = 0) -> list[Pair]:
    """Each image with the `num_neighbors` whose aggregated local descriptors (N, D) are most alike."""
    vectors = global_descriptors([descriptors(name) for name in names], seed)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(num_neighbors, len(names) - 1)]
    return [(names[i], names[int(j)]) for i, row in enumerate(nearest) for j in row]
