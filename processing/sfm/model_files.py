"""COLMAP models of a scene's folder."""

from __future__ import annotations

from pathlib import Path

import pycolmap

from d2s.errors import FormatError
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.atomic import atomic_path


def save_model(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write a COLMAP model, by rename."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        model.write_binary(str(temporary))


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """The COLMAP model that an earlier stage wrote. Raises FormatError when it is damaged."""
    try:
        with quiet_colmap():
            return pycolmap.Reconstruction(str(folder))
    except Exception as error:  # pycolmap raises whatever its C++ code threw: ValueError, IndexError, RuntimeError, MemoryError
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"The COLMAP model {folder} is damaged ({reason}).", "Start anew with --overwrite.") from None
