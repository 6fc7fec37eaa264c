"""How the memory of freed arrays is kept for the next ones."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
MOST_KEPT = 2**30
PAD = 2**26


def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB, at most an eighth of the machine's memory, of what was freed; False where it cannot be told.

    By default glibc gives every block above 32 MB back to the system at once and gets the next one page by page, each filled with zeros: a
    network on a photo spends up to 40 % of its time on that, training a quarter. It helps the main thread most: other threads have heaps of
    64 MB. Settings that are in the environment already (MALLOC_…, or another allocator that is preloaded) are left alone.
    """
    if sys.platform != "linux" or "LD_PRELOAD" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    settings = ((TRIM_THRESHOLD, min(MOST_KEPT, memory // 8)), (TOP_PAD, PAD), (MMAP_MAX, 0))
    accepted = [mallopt(name, value) == 1 for name, value in settings]  # every one is told, also after a refused one
    return all(accepted)
