"""What each keypoint of a photo may show: matches with labelled images, gathered into votes for 3D points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import project
from processing.pseudo.labelled_map import LabelledMap

Descriptors = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbour:
    """A labelled image that may show the same: its features (K rows) and the map point (K,) of each, -1 for none."""

    name: str
    features: LocalFeatures
    point: NDArray[np.int64]

    def descriptors(self, rows: NDArray[np.integer]) -> Descriptors:
        """Descriptors of some rows."""
        return np.asarray(self.features.descriptors[rows], dtype=np.float32)


@dataclass(frozen=True)
class Candidates:
    """C different pairs of a keypoint `row` (C,) and a map `point` (C,), with the neighbours that say so, `voters` (C, k), and the best
    cosine `similarity` (C,) of the keypoint to what they saw there.
    """

    row: NDArray[np.int64]
    point: NDArray[np.int64]
    voters: NDArray[np.bool_]
    similarity: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def votes(self) -> NDArray[np.int32]:
        """How many neighbours say so (C,)."""
        return self.voters.sum(axis=1).astype(np.int32)

    def select(self, which: NDArray[Any]) -> Candidates:
        """Some of them, by mask or by index."""
        return Candidates(self.row[which], self.point[which], self.voters[which], self.similarity[which])


def from_votes(
    row: NDArray[np.int64],
    point: NDArray[np.int64],
    voter: NDArray[np.int64],
    similarity: NDArray[np.float32],
    num_voters: int,
    min_similarity: float = -1.0,
) -> Candidates:
    """Candidates of single votes (V,): equal pairs become one, ordered by row, then by point. A vote of less similarity does not count."""
    pairs, index = np.unique(np.stack([row, point], axis=1), axis=0, return_inverse=True)
    index = index.reshape(-1)
    voters = np.zeros((len(pairs), num_voters), bool)
    counts = similarity >= min_similarity
    voters[index[counts], voter[counts]] = True
    best = np.full(len(pairs), -1.0, np.float32)
    np.maximum.at(best, index, similarity)
    return Candidates(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64), voters, best)


def union(one: Candidates, other: Candidates) -> Candidates:
    """The candidates of both, with the votes of both; ordered by row, then by point."""
    both = np.stack([np.concatenate([one.row, other.row]), np.concatenate([one.point, other.point])], axis=1)
    pairs, index = np.unique(both, axis=0, return_inverse=True)
    index = index.reshape(-1)
    voters, best = np.zeros((len(pairs), one.voters.shape[1]), bool), np.full(len(pairs), -1.0, np.float32)
    np.logical_or.at(voters, index, np.concatenate([one.voters, other.voters]))
    np.maximum.at(best, index, np.concatenate([one.similarity, other.similarity]))
    return Candidates(pairs[:, 0], pairs[:, 1], voters, best)


def from_matches(features: LocalFeatures, neighbours: Sequence[Neighbour], matches: Sequence[NDArray[np.int32]]) -> Candidates:
    """Candidates of the matches (M, 2) between a photo and each of its neighbours; matches with unlabelled keypoints say nothing."""
    own = np.asarray(features.descriptors, dtype=np.float32)
    rows, points, voters, similarities = [], [], [], []
    for number, (neighbour, pairs) in enumerate(zip(neighbours, matches, strict=True)):
        pairs = pairs[neighbour.point[pairs[:, 1]] >= 0]
        rows.append(pairs[:, 0].astype(np.int64))
        points.append(neighbour.point[pairs[:, 1]])
        voters.append(np.full(len(pairs), number))
        similarities.append(np.einsum("nd,nd->n", own[pairs[:, 0]], neighbour.descriptors(pairs[:, 1])))
    if not rows:
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0), bool), np.zeros(0, np.float32))
    similarity = np.concatenate(similarities)
    return from_votes(np.concatenate(rows), np.concatenate(points), np.concatenate(voters), similarity, len(neighbours))


def near_projections(
    features: LocalFeatures,
    neighbours: Sequence[Neighbour],
    the_map: LabelledMap,
    camera: pycolmap.Camera,
    cam_from_world: NDArray[np.float64],
    radius: float,
    min_similarity: float,
) -> Candidates:
    """Candidates of a known pose (guided matching): all points that the neighbours show, at every keypoint within `radius` pixels of them.

    A neighbour votes when what it saw there has at least `min_similarity`; candidates that nobody votes for are among the result.
    """
    seen = [np.flatnonzero(neighbour.point >= 0) for neighbour in neighbours]
    points = np.unique(np.concatenate([n.point[rows] for n, rows in zip(neighbours, seen, strict=True)]))
    pixels, _ = project(camera, pose.transform(cam_from_world, the_map.xyz[points].astype(np.float64)))
    row, point = _pairs_within(features.keypoints, pixels, radius)
    own = np.asarray(features.descriptors, dtype=np.float32)
    votes = []
    for number, (neighbour, rows) in enumerate(zip(neighbours, seen, strict=True)):
        observed = np.full(len(points), -1, np.int64)
        observed[np.searchsorted(points, neighbour.point[rows])] = rows
        which = np.flatnonzero(observed[point] >= 0)
        similarity = np.einsum("nd,nd->n", own[row[which]], neighbour.descriptors(observed[point[which]]))
        votes.append((row[which], points[point[which]], np.full(len(which), number), similarity))
    row, point, voter, similarity = (np.concatenate(part) for part in zip(*votes, strict=True))
    return from_votes(row, point, voter, similarity, len(neighbours), min_similarity)


def _pairs_within(
    keypoints: NDArray[np.float32], pixels: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of keypoints (N, 2) and of pixels (M, 2, NaN for none) closer to each other than `radius`."""
    visible = np.flatnonzero(np.isfinite(pixels).all(axis=1))
    if not len(visible) or not len(keypoints):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(keypoints).query_ball_point(pixels[visible], radius, return_sorted=True)
    count = np.array([len(found) for found in near])
    row = np.concatenate([np.asarray(found, np.int64) for found in near]) if count.any() else np.zeros(0, np.int64)
    return row, np.repeat(visible, count).astype(np.int64)
