"""Which photos get pseudo-labels, and the cameras that took them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.features.exif import read_photo
from d2s.geometry.camera import CAMERA_MODELS, make_camera, parse_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.base import DroppedImage
from processing.adapters.folders import find_files
from processing.adapters.lists import match_names, read_list

logger = logging.getLogger(__name__)

NOT_PHOTOS = (".depth.", ".mask.")
"""Parts of names of images that lie beside a data set's photos and show something else."""


@dataclass(frozen=True)
class PhotoOptions:
    """folder: where the photos are (None: the scene's). names: text file that names them (None: all that the scene does not use), with
    or without cameras as in hloc's query lists. camera: `MODEL W H p0 …` of all photos that the list gives none (None: see `camera_of`).
    """

    folder: Path | None = None
    names: Path | None = None
    camera: str | None = None


def find_photos(scene: Scene, options: PhotoOptions) -> tuple[Scene, tuple[DroppedImage, ...]]:
    """The photos with their cameras, as a scene of their own without poses, and those that cannot be used.

    Raises InputError where there are none, or where the list names training images, which have labels already.
    """
    folder = options.folder or scene.image_dir
    if not folder.is_dir():
        raise MissingFileError(f"--unlabel_dir {folder} is not a folder.", "Give the folder of the photos without labels.")
    default = parse_camera(options.camera) if options.camera else None
    given = _listed(scene, folder, options.names) if options.names else dict.fromkeys(_unused(scene, folder))
    cameras: list[pycolmap.Camera] = []
    images, dropped = [], []
    for name, listed in given.items():
        camera = _camera(scene, folder / name, listed or default)
        if isinstance(camera, str):
            dropped.append(DroppedImage(name, camera))
            continue
        cameras.append(camera)
        images.append(SceneImage(name, len(cameras), None, "train"))
    if not images:
        raise InputError(f"None of the {len(given)} photos in {folder} can be used; the first: {dropped[0].name}: {dropped[0].reason}.")
    return Scene(scene.dataset, scene.name, folder, dict(enumerate(cameras, start=1)), tuple(images), scene.units), tuple(dropped)


def _unused(scene: Scene, folder: Path) -> list[str]:
    """All photos of the folder; in the scene's own folder, those that are in no split."""
    used = {image.name for image in scene.images} if _same(folder, scene.image_dir) else set()
    names = [name for name in find_files(folder) if name not in used and not any(part in name for part in NOT_PHOTOS)]
    if not names:
        what = "every photo is in use already" if used else "there is no photo"
        raise InputError(f"No photo without labels: in {folder}, {what}.", "Name others with --unlabel_dir or --list_unlabel.")
    return names


def _listed(scene: Scene, folder: Path, path: Path) -> dict[str, pycolmap.Camera | None]:
    """The photos that a list names, with the cameras that it gives (lines `name MODEL W H p0 …`)."""
    names = match_names(read_list(path), find_files(folder))
    split_of = {image.name: image.split for image in scene.images} if _same(folder, scene.image_dir) else {}
    if known := [name for name in names if split_of.get(name) == "train"]:
        raise InputError(f"{path} names training images, which have labels already: {', '.join(known[:3])}.", "Take them out of the list.")
    for split, effect in (("val", "the choice of the best epoch"), ("test", "the evaluation")):
        if seen := sum(split_of.get(name) == split for name in names):
            logger.warning("%d of the photos in %s are %s images of the scene: training on them spoils %s.", seen, path, split, effect)
    return dict(zip(names, _listed_cameras(path), strict=True))


def _listed_cameras(path: Path) -> list[pycolmap.Camera | None]:
    """The camera that each entry of a list gives, None for none."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    entries = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [parse_camera(entry[1]) if len(entry) == 2 and entry[1].split()[0] in CAMERA_MODELS else None for entry in entries]


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _camera(scene: Scene, path: Path, given: pycolmap.Camera | None) -> pycolmap.Camera | str:
    """The camera of one photo, `given` where it is, or why it cannot be used."""
    try:
        info = read_photo(path)
    except InputError as error:
        return f"unreadable: {error.problem}"
    if given is not None:
        wrong = (info.width, info.height) != (given.width, given.height)
        return f"wrong camera: it is for {given.width}x{given.height}, the photo is {info.width}x{info.height}" if wrong else given
    alike = camera_of_size(scene, (info.width, info.height))
    if alike is not None:
        return alike
    if info.focal is None:
        return f"unknown camera: the scene has none for {info.width}x{info.height}, the photo tells no focal length; give --unlabel_camera"
    return make_camera("SIMPLE_RADIAL", info.width, info.height, [info.focal, info.width / 2, info.height / 2, 0.0])


def camera_of_size(scene: Scene, size: tuple[int, int]) -> pycolmap.Camera | None:
    """The camera of the scene's images of that size; where they have several, the one with the median focal length among the images.

    Data sets with one estimated camera per image have as many cameras as images, all of nearly the same focal length.
    """
    cameras = [scene.camera(image) for image in scene.split("train")]
    alike = sorted((camera for camera in cameras if (camera.width, camera.height) == size), key=lambda camera: camera.mean_focal_length())
    return alike[len(alike) // 2] if alike else None


def read_pairs(path: Path, queries: Sequence[str], database: Sequence[str]) -> dict[str, list[str]]:
    """The database images of each query in an hloc pairs file (`query database` per line), in the file's order.

    Lines that speak of other images are passed over. Raises MissingFileError or FormatError.
    """
    if not path.is_file():
        raise MissingFileError(f"Pairs file {path} does not exist.", "Give a text file with lines `query database`.")
    found: dict[str, list[str]] = {name: [] for name in queries}
    known = set(database)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if len(fields) != 2:
            raise FormatError(f"{path}:{number} is {line.strip()!r}.", "Each line must be `query database`, two names of images.")
        if fields[0] in found and fields[1] in known and fields[1] not in found[fields[0]]:
            found[fields[0]].append(fields[1])
    if not any(found.values()):
        example = f"{queries[0]} {database[0]}" if queries and database else "none"
        raise FormatError(f"{path} has no pair of a photo and a training image of the scene.", f"A pair would be: {example}.")
    return found
