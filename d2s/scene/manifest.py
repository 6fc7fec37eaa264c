"""`scene.json`: what a place consists of. After preprocessing, nothing else in the project knows where a scene came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.atomic import read_json, write_json

FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
AXES, EAST_NORTH_UP = "axes", "east, north, up"
"""What `provenance` says of the world frame, where it is known."""


@dataclass(frozen=True)
class SceneImage:
    """One image: its name (path relative to the scene's image folder), camera, pose and use.

    `cam_from_world` is (3, 4) float64 in the scene's unit, or None where the pose is unknown (it then counts in no metric).
    """

    name: str
    camera_id: int
    cam_from_world: NDArray[np.float64] | None
    split: str


@dataclass(frozen=True)
class Scene:
    """The manifest of one place.

    `units` is "metres" or "arbitrary". `features` holds name, settings and settings_hash of the feature file. `provenance` says where
    images and poses came from, in the adapter's words.
    """

    dataset: str
    name: str
    image_dir: Path
    cameras: dict[int, pycolmap.Camera]
    images: tuple[SceneImage, ...]
    units: str = "metres"
    features: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [image.name for image in self.images]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise FormatError(f"Image names must be unique; given more than once: {', '.join(twice[:5])}.")
        for image in self.images:
            if image.camera_id not in self.cameras:
                raise FormatError(f"Image {image.name} uses camera {image.camera_id}, which the scene does not define.")
            if image.split not in SPLITS:
                raise FormatError(f"Image {image.name} is in split {image.split!r}; allowed: {', '.join(SPLITS)}.")

    def split(self, *splits: str) -> tuple[SceneImage, ...]:
        """The images of the given splits, in the scene's order."""
        return tuple(image for image in self.images if image.split in splits)

    def camera(self, image: SceneImage) -> pycolmap.Camera:
        """The image's own camera."""
        return self.cameras[image.camera_id]

    def path(self, image: SceneImage) -> Path:
        """Where the image file lies."""
        return self.image_dir / image.name

    def with_images(self, images: Iterable[SceneImage]) -> Scene:
        """The same scene with other images; cameras that nothing uses any more are dropped."""
        images = tuple(images)
        used = {image.camera_id for image in images}
        return replace(self, images=images, cameras={i: camera for i, camera in self.cameras.items() if i in used})

    def save(self, folder: Path) -> None:
        """Write `folder/scene.json`."""
        write_json(Path(folder) / "scene.json", _to_json(self))

    @staticmethod
    def load(folder: Path) -> Scene:
        """Read `folder/scene.json`. Raises MissingFileError or FormatError."""
        path = Path(folder) / "scene.json"
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist: this place was not preprocessed, or not to the end.", "Run: d2s preprocess.")
        return _from_json(read_json(path), path)


def _to_json(scene: Scene) -> dict[str, Any]:
    images = []
    for image in scene.images:
        entry: dict[str, Any] = {"name": image.name, "camera": image.camera_id, "split": image.split, "cam_from_world": None}
        if image.cam_from_world is not None:
            qvec, tvec = pose.to_qvec_tvec(image.cam_from_world)
            entry["cam_from_world"] = {"qvec": qvec.tolist(), "tvec": tvec.tolist()}
        images.append(entry)
    return {
        "format_version": FORMAT_VERSION,
        "dataset": scene.dataset,
        "scene": scene.name,
        "units": scene.units,
        "image_dir": str(Path(scene.image_dir).resolve()),
        "features": scene.features,
        "provenance": scene.provenance,
        "cameras": {str(i): format_camera(camera) for i, camera in scene.cameras.items()},
        "images": images,
    }


def _from_json(value: Any, path: Path) -> Scene:
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}, not {FORMAT_VERSION}.", "Preprocess again with --overwrite.")
    try:
        cameras = {int(i): parse_camera(text) for i, text in value["cameras"].items()}
        images = tuple(SceneImage(e["name"], e["camera"], _pose_from_json(e["cam_from_world"]), e["split"]) for e in value["images"])
        return Scene(
            value["dataset"],
            value["scene"],
            Path(value["image_dir"]),
            cameras,
            images,
            value["units"],
            value["features"],
            value["provenance"],
        )
    except InputError as error:  # an impossible camera or pose
        raise FormatError(f"{path} is damaged: {error}", "Preprocess again with --overwrite.") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "Preprocess again with --overwrite.") from error


def _pose_from_json(value: dict[str, list[float]] | None) -> NDArray[np.float64] | None:
    return None if value is None else pose.from_qvec_tvec(value["qvec"], value["tvec"])
