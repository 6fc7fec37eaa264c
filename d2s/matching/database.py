"""Descriptors that are compared with one image after the other: nearest neighbours of a query among tens of thousands, in blocks.

A block's distances fit into the cache, where the searches for minima find them: twice as fast as one large product (`nearest.py` says how
distances are stored and searched). The nearest of every block comes out too, which says how distinct the nearest of all is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from d2s.matching.nearest import OFFSET, distance_dtype, with_column

BLOCK = 2048


@dataclass(frozen=True)
class Nearest:
    """For N descriptors of a query: the index (N,) of the most similar of all, the cosine similarity (N, blocks) of the most similar one in
    every block, and whether the query's descriptor is the most similar one to its nearest in turn (N,); of equal ones the first is.
    """

    index: NDArray[np.int64]
    similarity: NDArray[np.float32]
    mutual: NDArray[np.bool_]


class Database:
    """Unit descriptors (M, D), M > 0, in blocks of BLOCK, ready for comparison on the CPU."""

    def __init__(self, descriptors: ArrayLike) -> None:
        rows = np.asarray(descriptors, dtype=np.float32)
        self._dtype = distance_dtype("cpu")
        blocks = (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))
        self._blocks = [with_column(-block, 1.0 + OFFSET, self._dtype, "cpu").T for block in blocks]

    def nearest(self, query: ArrayLike) -> Nearest:
        """Compare unit descriptors (N, D), N > 0, with all."""
        x = with_column(np.asarray(query), 1.0, self._dtype, "cpu")
        room = torch.empty(len(x) * BLOCK, dtype=self._dtype)  # one for all blocks: memory that the system hands out anew is slow
        found = [_in_block(torch.mm(x, block, out=room[: len(x) * block.shape[1]].view(len(x), -1))) for block in self._blocks]
        best = np.stack([bits for bits, _, _ in found], axis=1)
        block = best.argmin(axis=1)
        rows = np.arange(len(best))
        index = np.stack([column for _, column, _ in found], axis=1)[rows, block] + BLOCK * block
        mutual = np.stack([back for _, _, back in found], axis=1)[rows, block]
        candidates = np.flatnonzero(mutual)
        first = candidates[np.unique(index[candidates], return_index=True)[1]]
        mutual = np.isin(rows, first)
        half = torch.from_numpy(best).view(self._dtype).float().numpy() - OFFSET
        return Nearest(index.astype(np.int64), np.float32(1) - half.astype(np.float32), mutual)


def _in_block(distances: torch.Tensor) -> tuple[NDArray[np.signedinteger], NDArray[np.signedinteger], NDArray[np.bool_]]:
    """For every row of distances (N, M): the bits of the least one, its column, and whether the column has none smaller."""
    bits = distances.view(torch.int16 if distances.dtype == torch.bfloat16 else torch.int32).numpy()
    column = bits.argmin(axis=1)
    best = bits[np.arange(len(bits)), column]
    return best, column, best == bits.min(axis=0)[column]
