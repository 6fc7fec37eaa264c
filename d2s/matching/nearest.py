"""Mutual nearest neighbours of descriptors, with the ratio test.

One dense product per image pair gives half the squared distance of every two descriptors, `1 - a.b` for unit vectors. The constant is part
of the product (one more column), so that rounding is relative to the distance itself: bfloat16, five times faster than float32 on CPUs that
have it, then still resolves distances to about 0.3 %. Positive IEEE numbers keep their order when their bits are read as integers, which
makes the searches for minima several times faster than on floating point.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError

# Keeps values positive where rounding makes a.b exceed 1; exactly representable together with 1 in bfloat16.
OFFSET = 2.0**-7


def mutual_nearest_neighbors(
    desc0: ArrayLike, desc1: ArrayLike, ratio: float | None = None, min_similarity: float | None = None, device: str = "cpu"
) -> NDArray[np.int32]:
    """Rows (K, 2) int32 of `desc0` (N, D) and `desc1` (M, D), unit vectors, that are each other's nearest, ordered by the first.

    `ratio` keeps a match whose distance is below `ratio` times the distance of the second best, in both directions (Lowe 2004);
    `min_similarity` keeps a match whose cosine similarity is at least that. None switches a test off.
    """
    a, b = np.asarray(desc0), np.asarray(desc1)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"Descriptors must be (N, D) and (M, D), not {a.shape} and {b.shape}.")
    if len(a) == 0 or len(b) == 0:
        return np.zeros((0, 2), np.int32)
    return _match(_half_squared_distances(a, b, device), ratio, min_similarity)


def _half_squared_distances(a: NDArray[Any], b: NDArray[Any], device: str) -> torch.Tensor:
    """OFFSET + |a - b|^2 / 2 for every two rows, (N, M) on the CPU; bfloat16 where the hardware multiplies in it, else float32."""
    dtype = distance_dtype(device)
    x = with_column(a, 1.0, dtype, device)
    y = with_column(-b, 1.0 + OFFSET, dtype, device)
    return (x @ y.T).cpu()


def distance_dtype(device: str) -> torch.dtype:
    """What distances are computed and searched in: bfloat16 where the hardware multiplies in it."""
    return torch.bfloat16 if device != "cpu" or _has_fast_bfloat16() else torch.float32


def with_column(rows: NDArray[Any], value: float, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Rows (N, D) with one more column of equal values (N, D + 1)."""
    out = torch.empty(len(rows), rows.shape[1] + 1, dtype=dtype, device=device)
    out[:, :-1] = torch.from_numpy(np.ascontiguousarray(rows))
    out[:, -1] = value
    return out


@cache
def _has_fast_bfloat16() -> bool:
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private in torch: without it float32 is right, only slower
    return bool(supported and supported())


def _match(distances: torch.Tensor, ratio: float | None, min_similarity: float | None) -> NDArray[np.int32]:
    bits = distances.view(torch.int16 if distances.dtype == torch.bfloat16 else torch.int32).numpy()
    column_of_row = bits.argmin(axis=1)
    rows = np.arange(len(bits))
    best = bits[rows, column_of_row]
    rows = np.flatnonzero(best == bits.min(axis=0)[column_of_row])
    rows = rows[np.unique(column_of_row[rows], return_index=True)[1]]  # equal distances: one row per column, the first
    rows.sort()
    columns = column_of_row[rows]
    squared = _squared(distances, bits[rows, columns])
    keep = np.ones(len(rows), dtype=bool)
    if ratio is not None:
        bits[rows, columns] = np.iinfo(bits.dtype).max  # the second best is the best without the matches
        second_in_row = _squared(distances, bits.min(axis=1)[rows])
        second_in_column = _squared(distances, bits.min(axis=0)[columns])
        keep &= squared < ratio**2 * np.minimum(second_in_row, second_in_column)
    if min_similarity is not None:
        keep &= squared <= 2 * (1 - min_similarity)
    return np.stack([rows[keep], columns[keep]], axis=1).astype(np.int32)


def _squared(distances: torch.Tensor, bits: NDArray[np.signedinteger]) -> NDArray[np.float32]:
    """Squared distances of their stored bits."""
    half = torch.from_numpy(np.ascontiguousarray(bits)).view(distances.dtype).float().numpy() - OFFSET
    return 2 * np.nan_to_num(np.maximum(half, 0), nan=np.inf)  # the largest integer reads as NaN: there is no second best
