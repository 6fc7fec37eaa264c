"""`results.txt` while it grows: a line is in the file before anybody is told of the pose."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from d2s.errors import InputError
from d2s.evaluation.pose_files import result_line
from d2s.localization.result import LocalizationResult


class ResultsFile:
    """Appends `name qw qx qy qz tx ty tz` for each pose. Raises InputError where the file exists: other poses may be in it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("x", encoding="utf-8")
        except FileExistsError:
            raise InputError(f"--results {path} exists already.", "Name another file, or remove this one.") from None

    def write(self, name: str, result: LocalizationResult) -> None:
        """Hand the line to the system, whole: a killed process leaves it behind."""
        if result.cam_from_world is not None:
            self._file.write(result_line(name, result.cam_from_world))
            self._file.flush()

    def __enter__(self) -> ResultsFile:
        """The file is open since it was made."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put everything on the disk and close."""
        os.fsync(self._file.fileno())
        self._file.close()
