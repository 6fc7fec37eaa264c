"""Descriptors that are compared with one image after the other: nearest neighbours of a query among tens of thousands, in blocks.

A part of the query is compared with a block at a time: their distances fit into the cache, where the searches for minima find them, twice
as fast as after one large product (`nearest.py` says how distances are stored and searched). The nearest of every block comes out too,
which says how distinct the nearest of all is.

CPUs that multiply bytes fast but not bfloat16 compare in 8 bits, with one scale for all descriptors: three times faster than float32.
Similarities then have an error of 0.0015 (standard deviation, ALIKED), and 3 % of the keypoints find another landmark, one that is less
similar by 0.001 in the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from d2s.matching.nearest import OFFSET, distance_dtype, with_column

BLOCK = 2048
PART = 512
STEPS = 127


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
        self._dtype = comparison_dtype()
        self._rows = self._coded(-rows, 1.0 + OFFSET)
        self._unit = _unit(rows)

    def nearest(self, query: ArrayLike) -> Nearest:
        """Compare unit descriptors (N, D), N > 0, with all."""
        query = np.asarray(query, dtype=np.float32)
        x = self._coded(query, 1.0)
        blocks = self._rows.split(BLOCK)
        room = torch.empty(PART * max(BLOCK, len(x)), dtype=torch.int32 if self._dtype == torch.int8 else self._dtype)
        found = [_search(x, block, room) for block in blocks]
        best = np.stack([bits for bits, _ in found], axis=1)
        block = best.argmin(axis=1)
        rows = np.arange(len(best))
        index = np.stack([column for _, column in found], axis=1)[rows, block] + BLOCK * block
        _, back = _search(self._rows[torch.from_numpy(index)], x, room)
        return Nearest(index.astype(np.int64), self._similarity(best, _unit(query)), back == rows)

    def _coded(self, rows: NDArray[np.float32], last: float) -> torch.Tensor:
        """Rows whose products are compared: bytes, or numbers with a last column that makes distances of products."""
        if self._dtype == torch.int8:
            return torch.from_numpy(np.rint(rows / _unit(rows)).astype(np.int8))
        return with_column(rows, last, self._dtype, "cpu")

    def _similarity(self, bits: NDArray[np.signedinteger[Any]], unit: float) -> NDArray[np.float32]:
        if self._dtype == torch.int8:
            return bits * np.float32(-unit * self._unit)
        half = torch.from_numpy(bits).view(self._dtype).float().numpy() - OFFSET
        return np.float32(1) - half.astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> float:
    """What one step of 8 bits stands for."""
    return max(float(np.abs(rows).max()), 1e-12) / STEPS


def comparison_dtype() -> torch.dtype:
    """What a query is compared in on this CPU: 8 bits where it multiplies those fast, but not bfloat16."""
    dtype = distance_dtype("cpu")
    return torch.int8 if dtype == torch.float32 and _has_fast_int8() else dtype


@cache
def _has_fast_int8() -> bool:
    supported = getattr(torch.cpu, "_is_vnni_supported", None)  # private in torch, like _int_mm: without it float32 is right, only slower
    return bool(supported and supported()) and hasattr(torch, "_int_mm")


def _search(x: torch.Tensor, y: torch.Tensor, room: torch.Tensor) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.int64]]:
    """For every row of x (N, D) the bits of its least product with rows of y (M, D), and which one that is: (N,), (N,).

    `room` is memory for PART products with all of y: what the system hands out anew is slow.
    """
    multiply = torch._int_mm if x.dtype == torch.int8 else torch.mm
    bits, columns = [], []
    for part in x.split(PART):
        products = multiply(part, y.T, out=room[: len(part) * len(y)].view(len(part), -1))
        found = products.view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32).numpy()
        column = found.argmin(axis=1)
        bits.append(found[np.arange(len(part)), column])
        columns.append(column)
    return np.concatenate(bits), np.concatenate(columns)
