"""Where in a folder a COLMAP model and its images lie, among the copies that undistorting and resizing leave beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, InputError
from processing.adapters.folders import image_size

MODEL_FOLDERS = (
    *("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "dense/sparse", "dense/0/sparse", "distorted/sparse/0", "distorted/sparse"),
    *("model", "."),
)
IMAGE_FOLDERS = ("images", "dense/images", "rgb", "input", ".")
LOOKED_AT = 12
"""Images whose size is compared with their camera's, to choose between folders that hold the same names."""


@dataclass(frozen=True)
class Layout:
    """A model and the folder of its images."""

    model: Path
    reconstruction: pycolmap.Reconstruction
    image_dir: Path


def model_folders(folder: Path, given: str | None = None) -> list[Path]:
    """The places below a scene's folder that hold a model, the usual ones first; only `given` where something is."""
    places = [folder / place for place in ([given] if given else MODEL_FOLDERS)]
    return [place for place in places if any((place / f"images{suffix}").is_file() for suffix in (".bin", ".txt"))]


def find_layout(folder: Path, models: Sequence[Path], image_dir: Path | None = None, size: tuple[int, int] | None = None) -> Layout:
    """The first of the models (at least one) whose images exist in the size of its cameras, and where they do.

    Where none fits, the first one that has images; `assemble` then says what is wrong with their sizes. `image_dir`: the only place to look
    for images; `size`: that of the cameras (width, height) where the user replaces those of the model. Raises InputError where no image of
    any model exists, FormatError for a model that cannot be read.
    """
    partly: Layout | None = None
    missing: InputError | None = None
    for model in models:
        reconstruction = read_model(model)
        names = [image.name for image in reconstruction.images.values()]
        places = [image_dir] if image_dir else _image_places(folder, model)
        holding = {place: count for place in places if (count := sum((place / name).is_file() for name in names))}
        if not holding:
            missing = missing or _no_images(folder, model, names, places)
            continue
        fitting = [place for place in holding if _fits(place, reconstruction, size)]
        best = max(fitting or holding, key=lambda place: holding[place])
        layout = Layout(model, reconstruction, best)
        if fitting:
            return layout
        partly = partly or layout
    if partly is None:
        assert missing is not None  # there is at least one model
        raise missing
    return partly


def _image_places(folder: Path, model: Path) -> list[Path]:
    """Where the images of a model may lie, beginning beside it, where `dense/0/sparse` has its own, and up to the scene's folder."""
    above = [parent for parent in model.parents if parent == folder or folder in parent.parents]
    beside = [parent / name for parent in above for name in IMAGE_FOLDERS]
    return list(dict.fromkeys([*beside, *(folder / name for name in IMAGE_FOLDERS), model]))


def _fits(place: Path, reconstruction: pycolmap.Reconstruction, size: tuple[int, int] | None) -> bool:
    """Whether the images of a folder, as far as looked at, have the size of their cameras."""
    found = [image for image in reconstruction.images.values() if (place / image.name).is_file()]
    for image in found[:: max(1, len(found) // LOOKED_AT)]:
        camera = reconstruction.cameras[image.camera_id]
        try:
            if image_size(place / image.name) != (size or (camera.width, camera.height)):
                return False
        except FormatError:
            continue  # unreadable, and told to be so by who reads it
    return True


def _no_images(folder: Path, model: Path, names: Sequence[str], places: Sequence[Path]) -> InputError:
    tried = ", ".join(str(place.relative_to(folder)) if folder in place.parents else str(place) for place in places)
    first = names[0] if names else "none"
    return InputError(
        f"None of the {len(names)} images of the model in {model} exists in {tried} (the first: {first}).",
        "Put the images that the model was made from into images/, under the names that the model uses, or give the folder of both.",
    )


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """The model in a folder. Raises FormatError naming the folder when pycolmap cannot read it."""
    try:
        return pycolmap.Reconstruction(str(folder))
    except (ValueError, IndexError, RuntimeError, MemoryError) as error:  # what its C++ readers raise for missing or damaged files
        raise FormatError(
            f"The COLMAP model in {folder} cannot be read ({' '.join(str(error).split())}).",
            "It needs cameras, images and points3D (points3D may be empty), all .bin or all .txt.",
        ) from None
