"""Matches of many image pairs on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from d2s.features.base import LocalFeatures
from d2s.matching.table import Matcher
from processing.sfm.pairs import Pair

ReadFeatures = Callable[[str], LocalFeatures]
Found = tuple[Pair, NDArray[np.int32]]

CACHE_BYTES = 2 << 30


def cached(read: ReadFeatures, example: LocalFeatures) -> ReadFeatures:
    """`read` with the most recently used features kept in memory, as many as CACHE_BYTES hold."""
    size = max(1, example.descriptors.nbytes + example.keypoints.nbytes)
    return lru_cache(maxsize=max(16, CACHE_BYTES // size))(read)


def match_pairs(pairs: Sequence[Pair], read: ReadFeatures, matcher: Matcher) -> Iterator[Found]:
    """Every pair with its matches (K, 2), in the order given.

    Pairs run side by side with one torch thread each: the products are too small to be worth splitting.
    """
    tasks = (partial(matcher, read(a), read(b)) for a, b in pairs)  # files are read here, in one thread: HDF5 is not made for more
    with _one_torch_thread(), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from zip(pairs, _ordered(pool, tasks), strict=True)


def _ordered(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], NDArray[np.int32]]]) -> Iterator[NDArray[np.int32]]:
    """Results in order, with a bounded number of tasks under way."""
    waiting: deque[Future[NDArray[np.int32]]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        if len(waiting) >= 4 * (os.cpu_count() or 1):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
