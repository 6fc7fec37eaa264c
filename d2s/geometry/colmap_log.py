"""COLMAP's own log lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pycolmap

logger = logging.getLogger(__name__)


@contextmanager
def quiet_colmap() -> Iterator[None]:
    """COLMAP's own lines only where something is wrong, all of them with `--log_level debug`."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value if not logger.isEnabledFor(logging.DEBUG) else level
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level
