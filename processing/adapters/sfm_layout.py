"""A COLMAP model kept apart from the images it was made from, as hloc's pipelines and the published code keep their ground truth.

What the layouts of 7scenes, 12scenes, Cambridge, indoor6 and BKC share: the model lies in one folder, the images in another, names may
differ by a leading folder or the extension, the images may be larger than those that the model was made from, and text files list the
queries. An adapter finds the folders, calls `read_frames`, and hands the result to `assemble`:

    model = find_model([root / "indoor6_sfm_triangulated" / scene])
    found = read_frames(model, [scene_folder / "images", model])
    lists = found.lists({"test": model / "list_test.txt"})
    assemble("indoor6", scene, found.image_dir, found.cameras, found.frames, options, dropped=found.dropped, own_lists=lists)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import make_camera
from processing.adapters.assemble import Frame
from processing.adapters.base import DroppedImage
from processing.adapters.colmap import model_pose
from processing.adapters.colmap_folders import read_model
from processing.adapters.folders import IMAGE_SUFFIXES, find_files, image_size
from processing.adapters.lists import ImageList, normal_name, read_list

MAX_PREFIX = 3
"""Leading folders that a model's names may have before the part that names the file, for example the scene's."""
ASPECT_TOLERANCE = 0.01
"""Relative difference of the two sides' ratios up to which an image counts as resized; beyond it, it was cropped or turned."""


@dataclass(frozen=True)
class ModelFrames:
    """The images of a model that are on disk, under the names that they have there.

    `cameras` fit the images as they are on disk: one per camera of the model and image size. `name_on_disk` leads from a model's name to
    the file's, for the images that were found. `frames` are in the order of their names.
    """

    image_dir: Path
    cameras: dict[int, pycolmap.Camera]
    frames: tuple[Frame, ...]
    dropped: tuple[DroppedImage, ...]
    name_on_disk: Mapping[str, str]

    def lists(self, paths: Mapping[str, Path]) -> dict[str, ImageList]:
        """The image lists (split -> file) that exist, in the names on disk; they may be written in the model's names."""
        found = {split: read_list(path) for split, path in paths.items() if path.is_file()}
        return {split: replace(entries, names=self.renamed(entries.names)) for split, entries in found.items()}

    def renamed(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names on disk of a model's names; others stay as they are."""
        return tuple(self.name_on_disk.get(name, name) for name in names)


def find_model(folders: Iterable[Path]) -> Path | None:
    """The first folder that holds images.bin or images.txt, or None."""
    return next((folder for folder in folders if any((folder / f"images{suffix}").is_file() for suffix in (".bin", ".txt"))), None)


def require_model(folders: Sequence[Path], what: str, remedy: str = "") -> Path:
    """The first folder with a model. Raises MissingFileError that says what is missing and where it was looked for."""
    model = find_model(folders)
    if model is None:
        tried = " and ".join(str(folder) for folder in folders)
        raise MissingFileError(f"There is no {what} (images.bin or images.txt) in {tried}.", remedy)
    return model


def read_frames(
    model: Path,
    image_dirs: Sequence[Path],
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    aliases: Mapping[str, str] | None = None,
    scaled: bool = True,
) -> ModelFrames:
    """Poses and cameras of the images of a model that exist in one of `image_dirs`, the one that holds most of them.

    Names match exactly, or with another extension, or without up to three leading folders; never by the bare file name alone where two
    images share it. Where `aliases` (name -> other name) find more files, they are used. Intrinsics are scaled to the images' own sizes,
    unless `scaled` is False (for who replaces them by `--camera` anyway). Images that the model or the disk lacks are dropped with a
    reason. Raises FormatError for a damaged model, and InputError when none of its images is there or an image has another shape.
    """
    reconstruction = read_model(model)
    names = [image.name for image in reconstruction.images.values()]
    files = {folder: find_files(folder, suffixes) for folder in dict.fromkeys(image_dirs) if folder.is_dir()}
    matched = {folder: _match(names, listed, aliases or {}) for folder, listed in files.items()}
    image_dir = max(matched, key=lambda folder: len(matched[folder]), default=None)
    if image_dir is None or not matched[image_dir]:
        raise _no_images(model, names, image_dirs)
    name_on_disk = matched[image_dir]
    cameras = _ScaledCameras(reconstruction, model, scaled)
    frames, dropped = [], []
    for image in reconstruction.images.values():
        file = name_on_disk.get(image.name)
        if file is None:
            dropped.append(DroppedImage(image.name, f"it is in the model, but not in {image_dir}"))
        elif not image.has_pose:
            dropped.append(DroppedImage(file, "the model has no pose for it"))
        else:
            frames.append(Frame(file, cameras.fitting(image.camera_id, image_dir / file), model_pose(image, model)))
    unknown = sorted(set(files[image_dir]) - set(name_on_disk.values()))
    dropped += [DroppedImage(name, f"it is not in the COLMAP model {model}") for name in unknown]
    frames.sort(key=lambda frame: frame.name)
    return ModelFrames(image_dir, cameras.made, tuple(frames), tuple(dropped), name_on_disk)


def _match(names: Sequence[str], files: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Name -> file by the names or by their aliases, whichever finds more."""
    plain = match_to_files(names, files)
    if not aliases:
        return plain
    renamed = match_to_files([aliases.get(name, name) for name in names], files)
    return max(plain, {name: renamed[other] for name in names if (other := aliases.get(name, name)) in renamed}, key=len)


def _no_images(model: Path, names: Sequence[str], image_dirs: Sequence[Path]) -> InputError:
    first, tried = names[0] if names else "none", " or ".join(str(folder) for folder in dict.fromkeys(image_dirs))
    return InputError(
        f"None of the {len(names)} images of the model in {model} exists in {tried} (the first: {first}).", "Unpack the images there."
    )


def match_to_files(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Which file each name means: name -> file, as far as they are found.

    One way of reading the names holds for all of them: as they are, or without their first one, two or three folders; the one that finds
    most is taken. A way by which two names would mean the same file is not.
    """
    exact, by_stem = set(files), _unique_stems(files)
    best: dict[str, str] = {}
    for strip in range(MAX_PREFIX + 1):
        found = {}
        for name in names:
            file = _find(_without_folders(name, strip), exact, by_stem)
            if file is not None:
                found[name] = file
        if len(found) > len(best) and len(set(found.values())) == len(found):
            best = found
    return best


def _find(name: str | None, exact: set[str], by_stem: Mapping[str, str]) -> str | None:
    if name is None:
        return None
    return name if name in exact else by_stem.get(_stem(name))


def _without_folders(name: str, count: int) -> str | None:
    """`b/c.png` of `a/b/c.png` for count 1; None when the name has no folder left to give."""
    parts = PurePosixPath(normal_name(name)).parts
    return "/".join(parts[count:]) if count < len(parts) else None


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _unique_stems(files: Sequence[str]) -> dict[str, str]:
    """Files by their name without extension, where no other file has the same."""
    found: dict[str, str] = {}
    twice = set()
    for file in files:
        if found.setdefault(_stem(file), file) != file:
            twice.add(_stem(file))
    return {stem: file for stem, file in found.items() if stem not in twice}


class _ScaledCameras:
    """The cameras of a model, made to fit images of other sizes; one per camera and size, under the model's id where nothing was scaled."""

    def __init__(self, reconstruction: pycolmap.Reconstruction, model: Path, scaled: bool) -> None:
        self._reconstruction, self._model, self._to_size = reconstruction, model, scaled
        self._ids: dict[tuple[int, tuple[int, int]], int] = {}
        self.made: dict[int, pycolmap.Camera] = {}

    def fitting(self, camera_id: int, path: Path) -> int:
        """The id, in `made`, of the camera for an image file."""
        camera = self._reconstruction.cameras[camera_id]
        size = image_size(path) if self._to_size else (camera.width, camera.height)
        key = (camera_id, size)
        if key not in self._ids:
            index = camera_id if camera_id not in self.made else max([*self._reconstruction.cameras, *self.made]) + 1
            self.made[index] = self._scaled(camera, size, index, path)
            self._ids[key] = index
        return self._ids[key]

    def _scaled(self, camera: pycolmap.Camera, size: tuple[int, int], index: int, path: Path) -> pycolmap.Camera:
        try:
            checked = make_camera(camera.model.name, camera.width, camera.height, camera.params, index)
        except InputError as error:
            raise FormatError(f"Camera {camera.camera_id} of the model in {self._model} cannot be used: {error}") from None
        return scale_camera(checked, size, path)


def scale_camera(camera: pycolmap.Camera, size: tuple[int, int], path: Path) -> pycolmap.Camera:
    """The camera of a resized image: `size` is the (width, height) of the image in `path`, which is named in errors.

    Resizing maps corners to corners, and COLMAP's coordinates begin in the corner: x' = x * sx, with no half pixel to mind. Focal lengths
    and principal point scale per axis; distortion acts on normalised coordinates and stays. Where the two factors differ (sizes are whole
    numbers), a model with one focal length becomes the one with two that has the same distortion. Raises InputError for another shape.
    """
    sx, sy = size[0] / camera.width, size[1] / camera.height
    if abs(sx / sy - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"{path} is {size[0]}x{size[1]}, but its camera is for {camera.width}x{camera.height} images, which have another shape.",
            "Use the images that the model was made from, not cropped or turned ones.",
        )
    name, params = camera.model.name, np.array(camera.params)
    if sx != sy and len(camera.focal_length_idxs()) == 1:
        name, params = _two_focal_lengths(camera, path)
    scaled = make_camera(name, *size, params, camera.camera_id)
    params[list(scaled.focal_length_idxs())] *= [sx, sy][: len(scaled.focal_length_idxs())]
    params[list(scaled.principal_point_idxs())] *= [sx, sy]
    scaled.params = params
    return scaled


def _two_focal_lengths(camera: pycolmap.Camera, path: Path) -> tuple[str, NDArray[np.float64]]:
    """The same camera in a model with fx and fy."""
    focal, cx, cy, *distortion = camera.params
    if camera.model.name == "SIMPLE_PINHOLE":
        return "PINHOLE", np.array([focal, focal, cx, cy])
    if camera.model.name in ("SIMPLE_RADIAL", "RADIAL"):
        return "OPENCV", np.array([focal, focal, cx, cy, *distortion, *[0.0] * (4 - len(distortion))])
    raise InputError(
        f"{path} has not the shape of its camera, {camera.width}x{camera.height}, and a {camera.model.name} camera is scaled evenly only.",
        "Use the images that the model was made from.",
    )
