"""Features of many image files: decoded in the background while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.images import read_image
from d2s.features.upright import extract_upright, quarter_turns

OnError = Callable[[str, InputError], None]
Pixels = tuple[NDArray[np.uint8], int]
"""An image as stored, and the quarter turns that make it upright."""
Loaded = tuple[str, Pixels]


def extract_all(
    extractor: Extractor,
    items: Sequence[tuple[str, Any]],
    batch_size: int | None = None,
    prefetch: int = 16,
    on_error: OnError | None = None,
    load: Callable[[Any], NDArray[np.uint8]] | None = None,
) -> Iterator[tuple[str, LocalFeatures]]:
    """Name and features of every (name, image file), in the order given; `load` makes the image where the second is something else.

    Files are looked at upright (`d2s.features.upright`). `batch_size`: images given to the extractor at once (default: what it prefers).
    `prefetch`: images decoded ahead.
    An image that cannot be read raises InputError naming the file, or is left out after `on_error(name, error)` where that is given.
    """
    count = batch_size or preferred_batch(extractor)
    with closing(_load_ahead(items, max(prefetch, count), on_error, load)) as loaded:
        while batch := list(islice(loaded, count)):
            features = extract_upright(extractor, [image for _, (image, _) in batch], [turns for _, (_, turns) in batch])
            yield from zip((name for name, _ in batch), features, strict=True)


def preferred_batch(extractor: Extractor) -> int:
    """How many images an extractor wants at once: one, unless it says otherwise in an attribute `batch_size`."""
    return int(getattr(extractor, "batch_size", 1))


def _load_ahead(
    items: Sequence[tuple[str, Any]], ahead: int, on_error: OnError | None, load: Callable[[Any], NDArray[np.uint8]] | None
) -> Generator[Loaded, None, None]:
    """Decoded images in order; at most `ahead` of them wait in memory."""
    pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode")
    waiting: deque[tuple[str, Future[Pixels]]] = deque()
    source = iter(items)
    try:
        while True:
            for name, origin in islice(source, ahead - len(waiting)):
                waiting.append((name, pool.submit(_pixels, origin, load)))
            if not waiting:
                return
            name, future = waiting.popleft()
            try:
                pixels = future.result()
            except InputError as error:
                if on_error is None:
                    raise
                on_error(name, error)
                continue
            yield name, pixels
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pixels(origin: Any, load: Callable[[Any], NDArray[np.uint8]] | None) -> Pixels:
    return (read_image(origin), quarter_turns(origin)) if load is None else (load(origin), 0)
