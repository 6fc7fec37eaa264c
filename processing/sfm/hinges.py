"""How well the observations of a model fix its parts to each other: place, direction, and scale above all.

Points that two photos share do not fix the scale between two parts of a map; it takes points that three photos see, with rays that cross on
either side. Where a part hangs on the rest by a few of these, or by those of one photo, it can turn and grow about that hinge and the
reprojection errors hardly notice; nor does a check against poses of the same reconstruction. How far it can, the normal equations of
bundle adjustment say: they give the standard deviation of the similarity between two groups of photos, whatever way the information takes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from processing.sfm.bundle import POSE, SIMILARITY, Array, Bundle, read_bundle, similarity_motion
from processing.sfm.links import smaller_part, strongest_tree

SYSTEMATIC = 2.5
"""By how much real parts are off more than independent noise in the pixels lets expect: wrong matches, lenses, corners that are none."""
FIXING = 3
"""Photos that must see a point for it to fix the scale between others."""
SMALLEST_SPREAD = 0.01
"""Shares of the extent: photos that stand closer together than this count as if they did not, so that turns are compared with something."""


@dataclass(frozen=True)
class Hinge:
    """How a part of a map hangs on the rest.

    first, second: the two photos on either side that share most points. shift: how far the part's photos are out of place, root mean
    square, as a share of the extent of the path, and scale: how much too large the part is (0.02: 2 %), both as standard deviations.
    tracks: the points that hold it, counted by their weight; photo: the one with the largest share of their observations.
    """

    first: str
    second: str
    part: tuple[str, ...]
    shift: float
    scale: float
    tracks: float
    photo: str
    share: float


def loose_parts(model: pycolmap.Reconstruction, names: Sequence[str], limit: float) -> list[Hinge]:
    """The parts of a model whose photos may be out of place by more than `limit`, a share of the extent; the worst first.

    Parts are those into which the strongest connections divide the named photos. What follows from a hinge already found is no other.
    """
    bundle = read_bundle(model, names) if len(names) > 1 else None
    if bundle is None:
        return []
    edges = strongest_tree(bundle.shared(FIXING))
    parts = [Part(bundle.poses, smaller_part(edges, cut, len(names))) for cut in range(len(edges))]
    covariance, found = bundle.covariance, list[Hinge]()
    for _ in parts:
        motions = [part.motion(covariance, bundle.noise) for part in parts]
        harm = [len(part.rows) * motion.shift**2 * (motion.shift > limit) for part, motion in zip(parts, motions, strict=True)]
        worst = int(np.argmax(harm))
        if not harm[worst]:
            break
        found.append(_hinge(bundle, names, edges[worst], parts[worst], motions[worst]))
        covariance = parts[worst].known(covariance)
    return found


@dataclass(frozen=True)
class Motion:
    """Motion of a part against the rest: its standard deviations as in `Hinge`, and the motions of all photos (6n + cameras, k) that make
    up `shift`: the squares of the changes that they cause in the pixels add up to its square.
    """

    shift: float
    scale: float
    directions: Array


class Part:
    """Some photos of a bundle, against the others: `follows` (7, 6n) is their similarity in terms of the motion of all photos."""

    def __init__(self, poses: Array, rows: Collection[int]) -> None:
        self.rows = sorted(rows)
        self.follows, effect = _relative_similarity(poses, np.isin(np.arange(len(poses)), self.rows))
        self._weight = np.einsum("kia,kib->ab", effect, effect) / len(self.rows)  # of the similarity in the mean square shift

    def motion(self, covariance: Array, noise: float) -> Motion:
        """How far the part can move; `noise`: of a pixel."""
        answer = covariance[:, : self.follows.shape[1]] @ self.follows.T
        own = self.follows @ answer[: self.follows.shape[1]]
        values, vectors = np.linalg.eigh(self._weight)
        directions = answer @ (vectors * np.sqrt(np.maximum(values, 0)))
        unit = SYSTEMATIC * noise
        return Motion(unit * float(np.sqrt(max(np.trace(self._weight @ own), 0))), unit * float(np.sqrt(max(own[6, 6], 0))), directions)

    def known(self, covariance: Array) -> Array:
        """The covariance if this part's place against the rest were known."""
        answer = covariance[:, : self.follows.shape[1]] @ self.follows.T
        return covariance - answer @ np.linalg.pinv(self.follows @ answer[: self.follows.shape[1]], hermitian=True) @ answer.T


def _relative_similarity(poses: Array, inside: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The similarity (7) of a part against the rest, about the part's middle, in terms of the motion of all photos: a matrix (7, 6n);
    and the shift of the part's photos that it means (k, 3, 7).
    """
    about = poses.copy()
    about[:, :, 3] += poses[:, :, :3] @ pose.center(poses[inside]).mean(axis=0)
    motion = similarity_motion(about)
    follows = np.zeros((SIMILARITY, len(poses), POSE))
    for sign, side in ((1.0, inside), (-1.0, ~inside)):
        spread = np.sqrt(pose.center(poses[side]).var(axis=0).sum())
        weight = np.repeat([max(float(spread), SMALLEST_SPREAD), 1.0], 3)  # turns count by how far they carry the side's photos
        fit = np.linalg.pinv((motion[side] * weight[:, None]).reshape(-1, SIMILARITY), rcond=1e-9)
        follows[:, side] = sign * fit.reshape(SIMILARITY, -1, POSE) * weight
    return follows.reshape(SIMILARITY, -1), motion[inside][:, 3:]


def _hinge(bundle: Bundle, names: Sequence[str], edge: tuple[int, int], part: Part, motion: Motion) -> Hinge:
    held = (bundle.change(motion.directions) ** 2).sum(axis=(1, 2))
    held /= max(float(held.sum()), np.finfo(float).tiny)
    by_photo = np.bincount(bundle.photo, held)
    first, second = sorted(edge)
    return Hinge(
        names[first],
        names[second],
        tuple(names[row] for row in part.rows),
        motion.shift,
        motion.scale if len(part.rows) > 1 else 0.0,
        float(1 / max((np.bincount(bundle.point, held) ** 2).sum(), np.finfo(float).tiny)),
        names[int(by_photo.argmax())],
        float(by_photo.max()),
    )
