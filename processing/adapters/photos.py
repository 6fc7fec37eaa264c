"""A folder of photos and nothing else: cameras from EXIF, poses from structure from motion."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pycolmap

from d2s.errors import InputError
from d2s.features.exif import PhotoInfo, read_photo
from d2s.geometry.camera import make_camera, parse_camera
from processing.adapters.assemble import Frame, assemble, refuse_gt, units_of
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import IMAGE_SUFFIXES, find_files, scene_folder
from processing.adapters.lists import own_lists

logger = logging.getLogger(__name__)

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
DEFAULT_FOCAL = 1.2
"""Focal length per longer image side where nothing is known (about 60 degrees of view); bundle adjustment refines it."""
EXPECTED = f"photos ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})"
HEIC_REMEDY = "Convert them to JPEG first, for example: magick mogrify -format jpg '*.heic'"


def load(options: AdapterOptions) -> SceneSource:
    """All photos of a folder and its sub-folders, without poses; `poses_known` is False.

    One SIMPLE_RADIAL camera per device, image size and focal length, to be refined; with `--camera` one camera for all, kept as given.
    Units are "arbitrary". Raises InputError and its kind for whatever is wrong with the photos.
    """
    refuse_gt(options, "photos")
    folder = scene_folder(options, "photos", lambda path: _looks_right(path, options), EXPECTED)
    names = find_files(folder)
    dropped = _heic(folder, names)
    names, broken = _readable(folder, names, options)
    dropped += broken
    if options.camera is None:
        cameras, frames, origin = _cameras(folder, names)
    else:
        cameras, frames, origin = {1: parse_camera(options.camera)}, [Frame(name, 1, None) for name in names], {"1": "--camera"}
    source = assemble(
        "photos",
        options.scene or folder.resolve().name,
        folder,
        cameras,
        frames,
        options,
        dropped=dropped,
        own_lists=own_lists(folder),
        units=units_of(options, "arbitrary"),
        provenance={"format": "photos", "poses": "structure from motion", "intrinsics": origin},
    )
    return replace(source, poses_known=False, refine_cameras=options.camera is None)


def _looks_right(folder: Path, options: AdapterOptions) -> bool:
    """Whether there are photos. DATASET_DIR itself counts as a named scene only if photos lie in it directly, not in other scenes below."""
    names = find_files(folder, IMAGE_SUFFIXES + HEIC_SUFFIXES)
    named = options.scene != "" and not options.is_scene
    below = named and folder == Path(str(options.dataset_dir)) and folder.resolve().name != options.scene
    return any("/" not in name for name in names) if below else bool(names)


def _heic(folder: Path, names: list[str]) -> list[DroppedImage]:
    """Photos in a format that we do not read: an error when there are no others, else dropped."""
    unread = find_files(folder, HEIC_SUFFIXES)
    if not unread:
        return []
    first = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
    if not names:
        raise InputError(f"{folder} holds HEIC photos only, which are not read: {first}.", HEIC_REMEDY)
    logger.warning("%s holds HEIC photos, which are left out: %s. %s", folder, first, HEIC_REMEDY)
    return [DroppedImage(name, f"HEIC photos are not read. {HEIC_REMEDY}") for name in unread]


def _readable(folder: Path, names: list[str], options: AdapterOptions) -> tuple[list[str], list[DroppedImage]]:
    """The photos whose header can be read, and the others, which are an error unless `options.extra["skip_bad_images"]`."""
    if not options.extra.get("skip_bad_images"):
        return names, []
    broken = []
    for name in names:
        try:
            read_photo(folder / name)
        except InputError as error:
            logger.warning("Left out %s: %s", name, error.problem)
            broken.append(DroppedImage(name, f"unreadable: {error.problem}"))
    lost = {image.name for image in broken}
    return [name for name in names if name not in lost], broken


def _cameras(folder: Path, names: list[str]) -> tuple[dict[int, pycolmap.Camera], list[Frame], dict[str, str]]:
    """One camera per device, size and focal length; the photos; where each camera's focal length came from."""
    ids: dict[PhotoInfo, int] = {}
    frames = []
    for name in names:
        info = read_photo(folder / name)
        key = replace(info, focal=None if info.focal is None else round(info.focal, 1))
        frames.append(Frame(name, ids.setdefault(key, len(ids) + 1), None))
    cameras = {index: _camera(info, index) for info, index in ids.items()}
    origin = {str(index): f"{'guess' if info.focal is None else 'EXIF'} ({info.device or 'unknown device'})" for info, index in ids.items()}
    return cameras, frames, origin


def _camera(info: PhotoInfo, camera_id: int) -> pycolmap.Camera:
    focal = info.focal if info.focal is not None else DEFAULT_FOCAL * max(info.width, info.height)
    camera = make_camera("SIMPLE_RADIAL", info.width, info.height, [focal, info.width / 2, info.height / 2, 0.0], camera_id)
    camera.has_prior_focal_length = info.focal is not None
    return camera
