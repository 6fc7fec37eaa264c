"""The scenes of a service: described from their files at once, loaded when first asked for, as many as memory may hold."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from d2s.errors import D2SError, FormatError, MissingFileError
from d2s.geometry.camera import parse_camera
from d2s.localization.localizer import Localizer
from d2s.scene.atomic import read_json

logger = logging.getLogger(__name__)

Load = Callable[[Path], Localizer]
LANDMARKS = "landmarks.xyz"  # of the network's tensors
DESCRIBED = ("dataset", "scene", "units", "num_keypoints", "bounds", "cameras")


@dataclass(frozen=True)
class ServedScene:
    """A scene by the name that clients use: `path` as given, `weights` its network's file, `info` its model.json as JSON values."""

    name: str
    path: Path
    weights: Path
    info: dict[str, Any]

    @property
    def cameras(self) -> tuple[str, ...]:
        """COLMAP lines of the mapping images' cameras."""
        return tuple(self.info["cameras"])

    def points(self, most: int) -> list[list[float]]:
        """At most `most` scene coordinates of what the map knows, to draw the place; none for networks without landmarks."""
        with safe_open(self.weights, framework="np") as file:
            if LANDMARKS not in file.keys():  # noqa: SIM118  # it is no dict
                return []
            xyz = file.get_tensor(LANDMARKS)
        rows = np.linspace(0, len(xyz) - 1, min(most, len(xyz))).astype(int)
        return [[round(float(value), 3) for value in point] for point in xyz[rows]]

    def to_json(self, loaded: bool) -> dict[str, Any]:
        """What GET /scenes says of it."""
        known = {key: self.info[key] for key in DESCRIBED}
        return {"name": self.name, **known, "features": self.info["features"]["name"], "loaded": loaded}


def describe(name: str, path: Path) -> ServedScene:
    """A scene from its files, the network unread. Raises MissingFileError or FormatError, so that a wrong folder is said at the start."""
    folder, weights = (path.parent, path) if path.suffix == ".safetensors" else (path, path / "model.safetensors")
    if not weights.is_file():
        raise MissingFileError(f"--model {name}={path}: {weights} does not exist.", "Give the model/ folder of a run.")
    value = read_json(folder / "model.json")
    try:
        info = {**value["info"], "cameras": sorted(set(value["info"]["cameras"]))}
        scene = ServedScene(name, path, weights, info)
        for camera in scene.cameras:
            parse_camera(camera)
        scene.to_json(False)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{folder / 'model.json'} is damaged ({type(error).__name__}: {error}).", "Train again.") from None
    return scene


class Catalogue:
    """Scenes by name. At most `max_loaded` localizers stay in memory: the one that was not asked for the longest goes first."""

    def __init__(self, scenes: dict[str, Path], max_loaded: int, load: Load) -> None:
        self.scenes = {name: describe(name, path) for name, path in scenes.items()}
        self.max_loaded, self._load = max_loaded, load
        self._loaded: OrderedDict[str, Localizer] = OrderedDict()
        self._lock = threading.Lock()
        self.loads = 0

    def __iter__(self) -> Iterator[ServedScene]:
        return iter(self.scenes.values())

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the scenes in memory, the one to go next first."""
        return tuple(self._loaded)

    def localizer(self, name: str) -> Localizer:
        """The localizer of a scene; reads it where it is not in memory, which takes seconds. Raises D2SError when its files are wrong."""
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self.max_loaded:
                    logger.debug("scene %s leaves memory", self._loaded.popitem(last=False)[0])
                self._loaded[name] = self._read(name)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _read(self, name: str) -> Localizer:
        """Scenes with the same features share one feature network: it is larger than the scenes."""
        localizer = self._load(self.scenes[name].path)
        for other in self._loaded.values():
            if other.info.features == localizer.info.features:
                localizer.share_features(other)
                break
        localizer.prepare()
        self.loads += 1
        return localizer

    def preload(self) -> None:
        """Read as many scenes as fit; one that cannot be read is said and left for later."""
        for name in list(self.scenes)[: self.max_loaded]:
            try:
                self.localizer(name)
            except D2SError as error:
                logger.error("scene %s cannot be loaded: %s", name, error)
