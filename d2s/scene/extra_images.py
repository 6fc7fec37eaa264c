"""Extra training images of a scene: augmented copies and pseudo-labelled images, each kind in a sub-folder of its own.

`SCENE/KIND/` holds `features.h5` and `labels.h5` in the scene's layout (labels with a weight per row where they are not certain) and
`images.json`, which is written last: a folder without it is not finished. The scene's own files know nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError, SettingsMismatchError, unknown_choice
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.atomic import read_json, write_json

FORMAT_VERSION = 1
MANIFEST = "images.json"

MAKERS = {
    "augment": "process_train_data_augmentation",
    "unlabel": "process_unlabel_data",
    "unlabel_augment": "process_unlabel_data_pls_augment",
}
"""Kinds of extra images and the option of preprocessing that makes each."""

KINDS = tuple(MAKERS)


@dataclass(frozen=True)
class ExtraImage:
    """One extra image: its name (key in the HDF5 files), the image that it was made from, its camera and its pose.

    `cam_from_world` (3, 4) is None where no exact pose and camera are known: the image then takes no part in the reprojection loss.
    """

    name: str
    source: str
    camera: pycolmap.Camera | None = None
    cam_from_world: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.cam_from_world is not None and self.camera is None:
            raise FormatError(f"Extra image {self.name} has a pose but no camera.")


@dataclass(frozen=True)
class ExtraImages:
    """The extra images of one kind. `features_hash` names the settings of the scene's features; `info` says how they were made."""

    kind: str
    features_hash: str
    images: tuple[ExtraImage, ...]
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_choice("kind of extra images", self.kind, KINDS)
        names = [image.name for image in self.images]
        if len(set(names)) != len(names):
            raise FormatError(f"Names of extra images must be unique: {_repeated(names)}.")

    def save(self, folder: Path) -> None:
        """Write `folder/KIND/images.json` of the scene in `folder`: the last file of the sub-folder."""
        images = [_to_json(image) for image in self.images]
        head = {"format_version": FORMAT_VERSION, "kind": self.kind, "features_hash": self.features_hash, "info": self.info}
        write_json(extra_folder(folder, self.kind) / MANIFEST, {**head, "images": images})

    @staticmethod
    def load(folder: Path, kind: str) -> ExtraImages:
        """Read `folder/KIND/images.json`. Raises MissingFileError naming the option that makes it, or FormatError."""
        path = extra_folder(folder, kind) / MANIFEST
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist: these images were not made, or not to the end.", f"Run: {_remedy(kind)}.")
        return _from_json(read_json(path), path, kind)

    def require_features(self, features_hash: str, folder: Path) -> None:
        """Raises SettingsMismatchError where the images' features were made with other settings than the scene's."""
        if self.features_hash != features_hash:
            where = extra_folder(folder, self.kind)
            raise SettingsMismatchError(
                f"{where} has features of other settings ({self.features_hash}) than its scene ({features_hash}).",
                f"Remove that folder and run: {_remedy(self.kind)}.",
            )


def extra_folder(folder: Path, kind: str) -> Path:
    """Where the extra images of a scene lie."""
    if kind not in KINDS:
        raise unknown_choice("kind of extra images", kind, KINDS)
    return Path(folder) / kind


def _remedy(kind: str) -> str:
    return f"d2s preprocess --{MAKERS[kind]} true"


def _repeated(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(sorted({name for name in names if names.count(name) > 1})[:5])


def _to_json(image: ExtraImage) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": image.name, "source": image.source, "camera": None, "cam_from_world": None}
    if image.camera is not None:
        entry["camera"] = format_camera(image.camera)
    if image.cam_from_world is not None:
        qvec, tvec = pose.to_qvec_tvec(image.cam_from_world)
        entry["cam_from_world"] = {"qvec": qvec.tolist(), "tvec": tvec.tolist()}
    return entry


def _from_json(value: Any, path: Path, kind: str) -> ExtraImages:
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}, not {FORMAT_VERSION}.", f"Remove its folder and run: {_remedy(kind)}.")
    try:
        if value["kind"] != kind:
            raise ValueError(f"it says kind {value['kind']!r}")
        images = tuple(_image_from_json(entry) for entry in value["images"])
        return ExtraImages(kind, str(value["features_hash"]), images, dict(value["info"]))
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({error}).", f"Remove its folder and run: {_remedy(kind)}.") from error


def _image_from_json(entry: dict[str, Any]) -> ExtraImage:
    camera, placed = entry["camera"], entry["cam_from_world"]
    return ExtraImage(
        str(entry["name"]),
        str(entry["source"]),
        None if camera is None else parse_camera(camera),
        None if placed is None else pose.from_qvec_tvec(placed["qvec"], placed["tvec"]),
    )
