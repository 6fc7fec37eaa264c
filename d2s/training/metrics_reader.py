"""Reading `metrics.jsonl` while a training may still write it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class MetricsReader:
    """Hands out the records of the file, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self._offset = (0, 0), 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Records that have come since the last call, and whether the file is another one than then: a resumed run writes it anew.

        Half a line that is still being written is left for the next call; damaged lines are left out.
        """
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino
                anew = self._offset > 0 and (identity != self._file or status.st_size < self._offset)
                file.seek(0 if anew else self._offset)
                data = file.read()
        except FileNotFoundError:
            return [], False
        whole = data[: data.rfind(b"\n") + 1]
        self._file, self._offset = identity, len(whole) + (0 if anew else self._offset)
        found = (_record(line) for line in whole.splitlines())
        return [record for record in found if record is not None], anew


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if record["kind"] and float(record["total_steps"]) >= 0 else None
    except (ValueError, TypeError, KeyError):
        return None
