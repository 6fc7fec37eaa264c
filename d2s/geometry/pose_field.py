"""From poses in which the images agree to the poses that the user gave.

Reference poses of depth cameras, motion capture or odometry differ from what the images say by an offset of their sensor and by drift,
both smooth in the camera pose. A map made of refined poses is sharp, and this field brings its answers back into the frame of the given
ones: Gaussian-process regression of the small motion between the two poses of the mapping images, over camera position and orientation.
Far from all of them the mean motion remains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular

from d2s.geometry import pose

Array = NDArray[np.float64]

MOST_ANCHORS = 600
"""Mapping images that the field is built on: 45 kB of a model."""
MOST_TRIED = 300
"""Of these, the images on which the length scales are tried."""
BLOCKS = (3, 6, 12)
"""Stretches of the mapping images, long to short, that cross-validation holds out, one at a time: neighbours would hide every error."""
LENGTHS = (0.6, 1.2, 2.4)
"""Length scales to choose from, as multiples of the typical distance of a camera from the middle of all."""
ANGLES_DEG = (20.0, 40.0, 80.0)
NOISES = (0.01, 0.1, 1.0)
KERNELS: dict[str, Callable[[Array, Array], Array]] = {
    "gaussian": lambda far, turned: np.exp(-0.5 * (far + turned)),
    "quadratic": lambda far, turned: 1 / (1 + 0.5 * (far + turned)),
    "sum": lambda far, turned: 0.5 * (_matern(far) + _matern(turned)),
}
"""Likeness by squared distance and squared angle, as multiples of their scales; files number them in this order. Drift has many lengths:
the Gaussian kernel of earlier versions knows one, and goes on with a slope beyond the last anchor.
"""
ROTATION, TRANSLATION = "sum", "quadratic"
CHI_SQUARE_3 = 2.366
"""Median of the squared length of three independent standard normal numbers."""
WORTH = 0.9
"""A field is kept when cross-validation finds its error below this share of the error without it."""


@dataclass(frozen=True)
class Reach:
    """Of an anchor: `length` in the scene's unit, `angle_deg` in degrees, `kernel` of KERNELS. `noise`: variance of the given poses' own
    errors, as a share of that of the motions.
    """

    length: float
    angle_deg: float
    noise: float = 1.0
    kernel: str = "gaussian"

    def likeness(self, distance: Array, angle: Array) -> Array:
        """1 for equal poses, falling with distance and with the angle between them."""
        return KERNELS[self.kernel]((distance / self.length) ** 2, (angle / self.angle_deg) ** 2)


@dataclass(frozen=True)
class PoseField:
    """`anchors` (K, 3, 4): refined poses of mapping images. `weights` (K, 6) and `mean` (6,): rotation vector in radians and translation in
    the scene's unit, both in camera axes. `reach` and `spread`, for rotation and for translation: that of an anchor, and standard
    deviations per axis, in radians and in the scene's unit, of the motions that the field expects about their mean. A spread of 0: nothing
    is known.
    """

    anchors: Array
    weights: Array
    mean: Array
    reach: tuple[Reach, Reach]
    spread: tuple[float, float] = (0.0, 0.0)

    def correct(self, cam_from_map: ArrayLike) -> Array:
        """cam_from_world (3, 4) in the frame of the given poses of a pose (3, 4) that was found in the map."""
        found = np.asarray(cam_from_map, dtype=np.float64)
        turned, moved = self._likeness(found[None])
        return pose.compose(motion(self.mean + np.concatenate([turned[0] @ self.weights[:, :3], moved[0] @ self.weights[:, 3:]])), found)

    def deviations(self, cam_from_map: ArrayLike) -> tuple[float, float]:
        """Standard deviations per axis, in radians and in the scene's unit, of the given pose from what `correct` makes of a pose (3, 4).

        Least among many anchors; far from all of them, those of the motions themselves.
        """
        likeness = self._likeness(np.asarray(cam_from_map, dtype=np.float64)[None])
        turned, moved = (
            spread * float(np.sqrt(_variances(like, factor, reach.noise)[0]))
            for like, factor, reach, spread in zip(likeness, self._factors, self.reach, self.spread, strict=True)
        )
        return turned, moved

    @cached_property
    def _factors(self) -> list[Array]:
        """Cholesky factors (K, K) of the covariances of the anchors: 80 ms with the first query, instead of 2.8 MB of a model."""
        return [_factor(like, reach.noise) for like, reach in zip(self._likeness(self.anchors), self.reach, strict=True)]

    def _likeness(self, poses: Array) -> list[Array]:
        """Of poses (N, 3, 4) to the anchors (N, K), for rotation and for translation."""
        far = _distances(poses, self.anchors)
        return [reach.likeness(*far) for reach in self.reach]


def fit_pose_field(refined: ArrayLike, given: ArrayLike) -> PoseField | None:
    """The field from refined to given poses (N, 3, 4) of the same images in their order along the path.

    None where cross-validation over held-out stretches finds no use in it: the poses are equal, or differ by noise.
    """
    refined, given = np.asarray(refined, dtype=np.float64), np.asarray(given, dtype=np.float64)
    if len(refined) < 2 * max(BLOCKS):
        return None
    chosen = np.unique(np.linspace(0, len(refined) - 1, min(len(refined), MOST_ANCHORS)).astype(int))
    anchors, targets = refined[chosen], given[chosen]
    motions = np.stack([small_motion(pose.compose(g, pose.inverse(r))) for r, g in zip(anchors, targets, strict=True)])
    unit = typical_distance(anchors)
    distances = _distances(anchors, anchors)
    some = np.arange(0, len(anchors), -(-len(anchors) // MOST_TRIED))
    trial = [values[np.ix_(some, some)] for values in distances]
    mean, before, after = motions.mean(axis=0), 0.0, 0.0
    weights, reaches, spreads = [], [], []
    for half, kernel, size in ((slice(0, 3), ROTATION, 1.0), (slice(3, 6), TRANSLATION, unit)):
        choices = [Reach(length * unit, angle, noise, kernel) for length, angle, noise in product(LENGTHS, ANGLES_DEG, NOISES)]
        errors = [held_out_error(reach.likeness(*trial), motions[some, half], reach.noise) for reach in choices]
        reach = choices[int(np.argmin(errors))]
        before, after = before + _size(motions[some, half]) / size, after + min(errors) / size
        weights.append(_solve(reach.likeness(*distances), (motions - mean)[:, half], reach.noise))
        spreads.append(_spread(reach.likeness(*trial), motions[some, half], reach.noise))
        reaches.append(reach)
    if not after < WORTH * before:
        return None
    return PoseField(anchors, np.concatenate(weights, axis=1), mean, (reaches[0], reaches[1]), (spreads[0], spreads[1]))


def typical_distance(poses: Array) -> float:
    """Median distance of the cameras from the middle of all."""
    centers = pose.center(poses)
    return max(float(np.median(np.linalg.norm(centers - np.median(centers, axis=0), axis=1))), 1e-9)


def held_out_error(likeness: Array, motions: Array, noise: float) -> float:
    """Mean length of what is left of the motions (K, 3) on stretches of the path that a field was not fitted to, short and long ones."""
    return float(np.mean([_size(left_over(likeness, motions, noise, blocks)) for blocks in BLOCKS]))


def left_over(likeness: Array, motions: Array, noise: float, blocks: int) -> Array:
    """What is left of each motion (K, 3) after a field that was fitted without its stretch of the path."""
    left = np.empty_like(motions)
    for held, rest in _stretches(len(motions), blocks):
        mean = motions[rest].mean(axis=0)
        weights = _solve(likeness[np.ix_(rest, rest)], motions[rest] - mean, noise)
        left[held] = motions[held] - mean - likeness[np.ix_(held, rest)] @ weights
    return left


def _stretches(count: int, blocks: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each of so many stretches of a path, its rows and all others."""
    every = np.arange(count)
    return [(held, np.setdiff1d(every, held)) for held in np.array_split(every, blocks)]


def _size(motions: Array) -> float:
    return float(np.linalg.norm(motions, axis=1).mean())


def _spread(likeness: Array, motions: Array, noise: float) -> float:
    """The spread of a field that explains what it leaves of the motions (K, 3) on stretches that it was not fitted to.

    Medians decide: wrong poses must not.
    """
    expected = np.empty(len(motions))
    for held, rest in _stretches(len(motions), BLOCKS[0]):
        factor = _factor(likeness[np.ix_(rest, rest)], noise)
        expected[held] = _variances(likeness[np.ix_(held, rest)], factor, noise)
    squared = (left_over(likeness, motions, noise, BLOCKS[0]) ** 2).sum(axis=1) / expected
    return float(np.sqrt(np.median(squared) / CHI_SQUARE_3))


def _factor(likeness: Array, noise: float) -> Array:
    return np.asarray(np.linalg.cholesky(likeness + noise * np.eye(len(likeness))), dtype=np.float64)


def _variances(likeness: Array, factor: Array, noise: float) -> Array:
    """Variances (N,) at poses with these likenesses (N, K) to the anchors, where `spread` is 1."""
    return np.asarray(1 + noise - (solve_triangular(factor, likeness.T, lower=True) ** 2).sum(axis=0))


def _solve(kernel: Array, values: Array, noise: float) -> Array:
    return np.linalg.solve(kernel + noise * np.eye(len(kernel)), values).astype(np.float64)


def _distances(a: Array, b: Array) -> tuple[Array, Array]:
    """Distances of the centres (N, M) and angles between the orientations (N, M) in degrees."""
    cosine = (np.einsum("nij,mij->nm", a[:, :, :3], b[:, :, :3]) - 1) / 2
    distance = np.linalg.norm(pose.center(a)[:, None] - pose.center(b)[None], axis=-1)
    return distance, np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _matern(squared: Array) -> Array:
    """Of a squared distance: the Matérn kernel of smoothness 3/2."""
    scaled = np.sqrt(3 * squared)
    return np.asarray((1 + scaled) * np.exp(-scaled))


def small_motion(b_from_a: Array) -> Array:
    """Rotation vector and translation (6,) of a rigid motion (3, 4)."""
    return np.concatenate([cv2.Rodrigues(np.ascontiguousarray(b_from_a[:, :3]))[0].ravel(), b_from_a[:, 3]])


def motion(vector: Array) -> Array:
    """Rigid motion (3, 4) of a rotation vector and a translation (6,)."""
    return np.concatenate([cv2.Rodrigues(np.ascontiguousarray(vector[:3]))[0], vector[3:, None]], axis=1)
