"""Rows that `benchmarks/trust.py` asks beside those of `benchmarks/other_day.py`: further sides, and another day at the ends.

The places are mapped once more from the opposite side, as there without the neighbours of mapping images. FAR asks photos of a side that no
mapping image shows at all: Gerrard Hall's back looks like its front.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from d2s.scene.manifest import Scene
from processing.adapters.base import AdapterOptions
from processing.adapters.table import load_source

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
from accuracy import Case
from other_day_data import GERRARD, ROWS, Lists, Row, sides, write_asked

FOX = Case("nerfstudio", "fox", "fox", "aliked")


def side(scene: Scene, begin: float, end: float) -> list[str]:
    """Names of the photos between two shares of them, along the axis of `sides`."""
    return sides(scene, 0.0, (begin, end))[1]


def opposite(mapped: float, begin: float, end: float) -> Callable[[Scene], Lists]:
    """The last photos along the axis, from the share `mapped` on, make the map; those between `begin` and `end` ask."""
    return lambda scene: (side(scene, mapped, 1.0), side(scene, begin, end))


def photos_of(case: Case, chosen: Callable[[Scene], list[str]]) -> Callable[[Path, Path, Path], None]:
    """Photos of a data set that shares its frame with the map, at the poses that the data set gives them."""

    def make(folder: Path, target: Path, data_dir: Path) -> None:
        scene = load_source(case.dataset, AdapterOptions(data_dir / case.source, scene=case.scene)).scene
        names = set(chosen(scene))
        write_asked(folder, target, [(image, scene.camera(image)) for image in scene.images if image.name in names], scene.image_dir)

    return make


def tests(scene: Scene) -> list[str]:
    """Names of the data set's own test images."""
    return [image.name for image in scene.split("test")]


DAY = ROWS["redkitchen-day"].case
SIDES: dict[str, Row] = {
    "fox-side-middle": replace(ROWS["fox-side"], asked=photos_of(FOX, lambda scene: side(scene, 0.3, 0.7))),
    "fox-back": Row(FOX, "fox-back", opposite(0.8, 0.0, 0.7)),
    "gerrard-back": Row(GERRARD, "gerrard-back", opposite(0.4, 0.25, 0.38)),
    "redkitchen-ends-day": replace(ROWS["redkitchen-ends-sfm"], asked=photos_of(DAY, tests)),
}
FAR: dict[str, Row] = {
    "gerrard-side-far": replace(ROWS["gerrard-side"], asked=photos_of(GERRARD, lambda scene: side(scene, 0.75, 1.0))),
    "gerrard-back-far": replace(SIDES["gerrard-back"], asked=photos_of(GERRARD, lambda scene: side(scene, 0.0, 0.25))),
}
