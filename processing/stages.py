"""Stages of a command that can be killed: each is skipped when it is finished with the same inputs, and redone otherwise."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2s.errors import SettingsMismatchError
from d2s.features.base import settings_hash
from d2s.scene.atomic import read_json, remove_leftovers, write_json

logger = logging.getLogger(__name__)

RECORD = "stages.json"


def remove_outputs(folder: Path, names: Sequence[str]) -> None:
    """Remove what a command wrote into a folder, in this order, and nothing else there."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class Stages:
    """The finished stages of a folder, in `stages.json`: for each its settings, a fingerprint of all that decides its result, what it
    reported and its seconds. A stage's fingerprint includes that of the stage before, so that a change reaches all that follows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        remove_leftovers(self.folder)
        self._path = self.folder / RECORD
        self._record: dict[str, Any] = read_json(self._path) if self._path.is_file() else {}
        self._previous = ""

    def run(
        self,
        name: str,
        settings: Mapping[str, Any],
        outputs: Sequence[str],
        work: Callable[[], dict[str, Any]],
        started: float | None = None,
    ) -> dict[str, Any]:
        """Do `work` unless it is done, and give what it reported (JSON values).

        `outputs` are the files or folders that it publishes. `started` (of time.monotonic) is when the stage began, where it did before.
        Raises SettingsMismatchError when it was done or begun with other settings.
        """
        fingerprint = settings_hash({"settings": dict(settings), "previous": self._previous})
        self._previous = fingerprint
        entry = self._record.get(name)
        if entry is not None:
            self._require_equal(name, entry, dict(settings), fingerprint)
            if entry["finished"] and all((self.folder / output).exists() for output in outputs):
                self._say_skipped(name, outputs)
                return dict(entry["info"])
        self._write(name, settings, fingerprint, finished=False, info={}, seconds=0.0)
        start = time.monotonic() if started is None else started
        info = work()
        self._write(name, settings, fingerprint, finished=True, info=info, seconds=time.monotonic() - start)
        return info

    def _say_skipped(self, name: str, outputs: Sequence[str]) -> None:
        if outputs:  # stages that publish nothing only compare settings
            logger.info("%s: finished before, skipped", name)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took when it ran."""
        return {name: entry["seconds"] for name, entry in self._record.items() if name != "settings"}

    def _write(self, name: str, settings: Mapping[str, Any], fingerprint: str, **rest: Any) -> None:
        self._record[name] = {"settings": dict(settings), "fingerprint": fingerprint, **rest}
        write_json(self._path, self._record)

    def _require_equal(self, name: str, entry: dict[str, Any], settings: dict[str, Any], fingerprint: str) -> None:
        if entry["fingerprint"] == fingerprint:
            return
        changed = differences(entry["settings"], settings) or ["an earlier stage changed"]
        raise SettingsMismatchError(
            f"{self.folder} was made with other settings ({name}: {'; '.join(changed[:4])}).",
            "Give the same settings, another --out_dir, or --overwrite to start anew.",
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two settings, as `key was … and is now …`."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before!r} and is now {after!r}")
    return found
