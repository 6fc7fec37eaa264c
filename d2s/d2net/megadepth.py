"""MegaDepth (Li and Snavely 2018) as it is unpacked: where the files of a scene are, and which scenes D2-Net was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2s.errors import D2SError, InputError, MissingFileError, ReconstructionError

log = logging.getLogger(__name__)

SOURCES, UNDISTORTED = "MegaDepth_v1_SfM", "Undistorted_SfM"
"""Folders of the SfM models as published, and of what `d2s d2net undistort` makes of them."""

_TRAIN_SCENES = """
    0000 0001 0002 0003 0004 0005 0007 0008 0011 0012 0013 0015 0017 0019 0020 0021 0022 0023 0024 0025 0026 0027 0032 0035 0036 0037
    0039 0042 0043 0046 0048 0050 0056 0057 0060 0061 0063 0065 0070 0080 0083 0086 0087 0095 0098 0100 0101 0103 0104 0105 0107 0115
    0117 0122 0130 0137 0143 0147 0148 0149 0150 0156 0160 0176 0183 0189 0190 0200 0214 0224 0235 0237 0240 0243 0258 0265 0269 0299
    0312 0326 0327 0331 0335 0341 0348 0366 0377 0380 0394 0407 0411 0430 0446 0455 0472 0474 0476 0478 0493 0494 0496 0505 0559 0733
    0860 1017 1589 4541 5004 5005 5006 5007 5009 5010 5012 5013 5017
"""
TRAIN_SCENES = _TRAIN_SCENES.split()
"""The 117 scenes of the published training."""

_VALID_SCENES = """
    0016 0033 0034 0041 0044 0047 0049 0058 0062 0064 0067 0071 0076 0078 0090 0094 0099 0102 0121 0129 0133 0141 0151 0162 0168 0175
    0177 0178 0181 0185 0186 0197 0204 0205 0209 0212 0217 0223 0229 0231 0238 0252 0257 0271 0275 0277 0281 0285 0286 0290 0294 0303
    0306 0307 0323 0349 0360 0387 0389 0402 0406 0412 0443 0482 0768 1001 3346 5000 5001 5002 5003 5008 5011 5014 5015 5016 5018
"""
VALID_SCENES = _VALID_SCENES.split()
"""The 77 scenes of its validation."""

PHOTOTOURISM_SCENES = ("0019", "0021", "0024", "0025", "0078", "1589")
"""Scenes that the PhotoTourism benchmark tests on: one of the published checkpoints was trained without them."""


@dataclass(frozen=True)
class MegaDepthScene:
    """Paths of one scene below the root of the data set; creates nothing."""

    root: Path
    name: str

    @property
    def source_model(self) -> Path:
        """The SfM model of the photos as they are."""
        return self.root / SOURCES / self.name / "sparse" / "manhattan" / "0"

    @property
    def source_images(self) -> Path:
        """The photos as they are."""
        return self.root / SOURCES / self.name / "images"

    @property
    def dense(self) -> Path:
        """Photos and depth maps of the data set itself."""
        return self.root / "phoenix" / "S6" / "zl548" / "MegaDepth_v1" / self.name / "dense0"

    @property
    def undistorted(self) -> Path:
        """What `d2s d2net undistort` makes: images/, sparse/ (COLMAP binary) and sparse-txt/ (text)."""
        return self.root / UNDISTORTED / self.name

    @property
    def undistorted_model(self) -> Path | None:
        """The SfM model of the undistorted photos; the binary one, since the text has no names with spaces. None when there is none."""
        for folder in (self.undistorted / "sparse", self.undistorted / "sparse-txt"):
            if any((folder / f"images.{suffix}").is_file() for suffix in ("bin", "txt")):
                return folder
        return None


def scenes_of(root: Path, folder: str, chosen: Sequence[str] = ()) -> list[MegaDepthScene]:
    """The scenes that have a sub-folder of `root / folder`, or the `chosen` ones. Raises MissingFileError when there is none."""
    if not (root / folder).is_dir():
        first = "" if folder == SOURCES else ", and run d2s d2net undistort first"
        raise MissingFileError(f"{root} has no folder {folder}.", f"Give the folder that MegaDepth was unpacked in{first}.")
    names = list(chosen) or sorted(path.name for path in (root / folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    missing = [name for name in names if not (root / folder / name).is_dir()]
    if missing or not names:
        raise MissingFileError(f"{root / folder} has no scene {' '.join(missing)}".strip() + ".", "Scenes are its sub-folders.")
    return [MegaDepthScene(root, name) for name in names]


@dataclass(frozen=True)
class Attempt:
    """What work on a scene came to: what was done, or the problem that ended it."""

    outcome: str
    failed: bool = False


def attempt(work: Callable[..., str], *arguments: Any, **options: Any) -> Attempt:
    """Do the work; the scenes of a night are not lost because one of them is damaged."""
    try:
        return Attempt(work(*arguments, **options))
    except D2SError as error:
        return Attempt(error.problem, failed=True)


class SceneReport:
    """Tells of scene after scene: one line each at once, one error at the end."""

    def __init__(self, count: int) -> None:
        self.count, self.told, self.problems = count, 0, list[str]()

    def add(self, name: str, result: Attempt) -> None:
        """Called for each of them."""
        self.told += 1
        log.log(logging.WARNING if result.failed else logging.INFO, "%d/%d %s: %s", self.told, self.count, name, result.outcome)
        self.problems += [f"{name}: {result.outcome}"] if result.failed else []

    def raise_if_any(self) -> None:
        """Raises ReconstructionError when scenes have failed: the others are done."""
        if self.problems:
            raise ReconstructionError(
                f"{len(self.problems)} of {self.count} scenes failed, first {self.problems[0]}", "The others are done."
            )


def read_scene_list(path: Path) -> list[str]:
    """Names of scenes in a text file, apart by spaces or lines. Raises InputError when there is none."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise MissingFileError(f"Scene list {path} does not exist.") from None
    except UnicodeDecodeError:
        raise InputError(f"Scene list {path} is not a text file in UTF-8.") from None
    if not names:
        raise InputError(f"Scene list {path} names no scene.", "Write one name per line, for example 0015.")
    return list(dict.fromkeys(names))
