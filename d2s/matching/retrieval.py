"""Which images look alike: global descriptors aggregated from local ones (VLAD), for places without a retrieval network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POOL = 40_000
"""Local descriptors that the words are learnt from, at most."""


@dataclass(frozen=True)
class Codebook:
    """Words (W, D) that local descriptors are compared with."""

    words: NDArray[np.float32]

    def describe(self, descriptors: NDArray[Any]) -> Array:
        """VLAD vector (W * D,) of one image's local descriptors (N, D): unit length, or zero for an image without features.

        Residuals to the nearest word are summed, normalised per word, square-rooted and normalised (Arandjelovic and Zisserman 2013).
        """
        local = np.asarray(descriptors, dtype=np.float32)
        nearest = _nearest_word(local, self.words)
        residuals = np.zeros_like(self.words)
        np.add.at(residuals, nearest, local - self.words[nearest])
        residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
        vector = np.sign(residuals) * np.sqrt(np.abs(residuals))
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).ravel().astype(np.float64)


def learn_codebook(local: Sequence[NDArray[Any]], seed: int = 0, num_words: int = 64) -> Codebook:
    """Words for images with local descriptors (N_i, D); the same for the same images and seed."""
    rng = np.random.default_rng(seed)
    pool = np.concatenate([d[rng.permutation(len(d))[: max(1, POOL // len(local))]] for d in local]).astype(np.float32)
    return Codebook(_kmeans(pool, min(num_words, len(pool)), rng))


def global_descriptors(local: Sequence[NDArray[Any]], seed: int = 0, num_words: int = 64) -> Array:
    """VLAD vectors (n, num_words * D) of images' local descriptors (N_i, D), over a codebook of the scene's own descriptors."""
    codebook = learn_codebook(local, seed, num_words)
    return np.stack([codebook.describe(d) for d in local])


def most_similar(queries: NDArray[Any], database: NDArray[Any], count: int) -> NDArray[np.intp]:
    """Rows (q, count) of `database` (n, V) that are most alike each of `queries` (q, V), best first; fewer columns where n < count."""
    return np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :count]


def _kmeans(points: NDArray[np.float32], count: int, rng: np.random.Generator, rounds: int = 12) -> NDArray[np.float32]:
    words = points[rng.choice(len(points), count, replace=False)]
    for _ in range(rounds):
        nearest = _nearest_word(points, words)
        size = np.bincount(nearest, minlength=count)
        total = np.zeros_like(words)
        np.add.at(total, nearest, points)
        words = np.where(size[:, None] > 0, total / np.maximum(size, 1)[:, None], words)
    return words


def _nearest_word(points: NDArray[np.float32], words: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argmin((words**2).sum(axis=1) - 2 * points @ words.T, axis=1)
