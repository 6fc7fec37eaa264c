"""Cambridge Landmarks (Kendall et al., ICCV 2015): its pose lists, and the retriangulated models that hloc's pipeline reads.

No file of the original reconstruction (reconstruction.nvm) is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, unknown_choice
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, parse_camera
from processing.adapters.assemble import Frame, assemble
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import find_files, image_size, scene_folder
from processing.adapters.lists import ImageList, normal_name, own_lists
from processing.adapters.sfm_layout import ModelFrames, find_model, match_to_files, read_frames, require_model

logger = logging.getLogger(__name__)

SFM_FOLDER = "CambridgeLandmarks_Colmap_Retriangulated_1024px"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
POSE_FILES = {"train": "dataset_train.txt", "test": "dataset_test.txt"}
DEFAULT_FOCAL, DEFAULT_WIDTH = 1670.0, 1920
"""Focal length in pixels at the published size, near what the literature uses for all scenes: 744 at 480 rows (DSAC++, CVPR 2018)."""
FARTHEST = 1e4
"""Metres: the lists hold a few camera centres that are no places at all."""
EXPECTED = "folders seqN with images, and dataset_train.txt and dataset_test.txt"
GROUND_TRUTHS = ("original", "sfm")


@dataclass(frozen=True)
class _Found:
    """What one of the ground truths gives."""

    cameras: dict[int, pycolmap.Camera]
    frames: Sequence[Frame]
    dropped: Sequence[DroppedImage]
    lists: dict[str, ImageList]
    poses: str
    intrinsics: str


def load(options: AdapterOptions) -> SceneSource:
    """A scene of Cambridge Landmarks. Units are metres, as published (from a reconstruction whose scale was measured).

    `--gt original`: poses and split of dataset_train.txt and dataset_test.txt, intrinsics from `--camera`, else the retriangulated model,
    else the default focal length. `--gt sfm`: all from the retriangulated model. Raises InputError and its kind for whatever is wrong.
    """
    if options.gt not in GROUND_TRUTHS:
        raise unknown_choice("ground truth (--gt)", options.gt, GROUND_TRUTHS)
    folder = _scene_folder(options)
    scene = options.scene or folder.resolve().name
    models = _model_places(options, folder, scene)
    listed = any((folder / file).is_file() for file in POSE_FILES.values())
    found = _from_lists(folder, models, options) if options.gt == "original" and listed else _from_model(folder, models, options)
    if not found.frames:
        raise InputError(f"No image in {folder} is usable; the first: {found.dropped[0].name}: {found.dropped[0].reason}.")
    return assemble(
        "Cambridge",
        scene,
        folder,
        found.cameras,
        found.frames,
        options,
        dropped=found.dropped,
        own_lists={**found.lists, **own_lists(folder)},
        provenance={
            "format": "Cambridge", "gt": options.gt, "poses": found.poses, "units": "metres, as published",
            "intrinsics": "--camera" if options.camera else found.intrinsics,
        },
    )  # fmt: skip


def _scene_folder(options: AdapterOptions) -> Path:
    lower = options.dataset_dir is not None and not (Path(options.dataset_dir) / "Cambridge").is_dir()
    return scene_folder(options, "cambridge" if lower else "Cambridge", _looks_right, EXPECTED)


def _looks_right(folder: Path) -> bool:
    return any((folder / file).is_file() for file in POSE_FILES.values()) or any(path.is_dir() for path in folder.glob("seq*"))


def _model_places(options: AdapterOptions, folder: Path, scene: str) -> list[Path]:
    """Folders that may hold empty_all, model_train and list_query.txt of the scene."""
    if options.gt_file is not None:
        return [Path(options.gt_file), Path(options.gt_file).parent]
    parents = [folder.parent, folder.parent.parent, Path(str(options.dataset_dir))]
    return [parent / SFM_FOLDER / scene for parent in dict.fromkeys(parents)]


def _from_model(folder: Path, models: Sequence[Path], options: AdapterOptions) -> _Found:
    """All images of `empty_all`, which holds training and query images with their own cameras."""
    remedy = f"Put {SFM_FOLDER} beside the scene, or name SCENE's folder in it with --gt_file."
    model = require_model([place / "empty_all" for place in models], "retriangulated model", remedy)
    found = read_frames(model, [folder], IMAGE_SUFFIXES, scaled=options.camera is None)
    lists = found.lists({"test": model.parent / "list_query.txt"}) or _lists(_read_lists(folder), folder)
    where = f"retriangulated model {model.parent.name}/{model.name}"
    return _Found(found.cameras, found.frames, found.dropped, lists, where, f"{where}, one camera per image and size")


def _from_lists(folder: Path, models: Sequence[Path], options: AdapterOptions) -> _Found:
    """Poses of the lists; intrinsics from the retriangulated model where it is there."""
    entries = _read_lists(folder)
    files = find_files(folder, IMAGE_SUFFIXES)
    names = [name for listed in entries.values() for name in listed]
    name_on_disk = match_to_files(names, files)
    poses = {name_on_disk[name]: value for listed in entries.values() for name, value in listed.items() if name in name_on_disk}
    dropped = [DroppedImage(name, "it is in the lists of poses, but not on disk") for name in names if name not in name_on_disk]
    dropped += [DroppedImage(file, "it is in neither list of poses") for file in files if file not in poses]
    if not poses:
        raise InputError(
            f"None of the {len(names)} images that the lists in {folder} name is there (the first: {names[0]}).", "Unpack them."
        )
    camera_ids, cameras, intrinsics = _intrinsics(folder, list(poses), models, options)
    usable = {name: value for name, value in poses.items() if name in camera_ids and np.abs(value[:, 3]).max() < FARTHEST}
    dropped += [
        DroppedImage(name, "the lists give no place for it" if name in camera_ids else "the retriangulated model has no camera for it")
        for name in poses
        if name not in usable
    ]
    frames = [Frame(name, camera_ids[name], value) for name, value in usable.items()]
    lists = _lists({split: {name_on_disk.get(name, name): v for name, v in listed.items()} for split, listed in entries.items()}, folder)
    return _Found(cameras, frames, dropped, lists, " and ".join(POSE_FILES[split] for split in entries), intrinsics)


def _intrinsics(
    folder: Path, names: Sequence[str], models: Sequence[Path], options: AdapterOptions
) -> tuple[dict[str, int], dict[int, pycolmap.Camera], str]:
    """Camera id of each image, as far as it is known; the cameras; where they come from."""
    if options.camera is not None:
        return dict.fromkeys(names, 1), {1: parse_camera(options.camera)}, "--camera"
    model = find_model([place / "empty_all" for place in models])
    if model is not None:
        found: ModelFrames = read_frames(model, [folder], IMAGE_SUFFIXES)
        ids = {frame.name: frame.camera_id for frame in found.frames}
        return ids, found.cameras, f"retriangulated model {model.parent.name}/{model.name}, one camera per image and size"
    logger.warning(
        "%s: no %s and no --camera: every image gets a focal length of %g px per %d px of its longer side, which costs accuracy.",
        folder.name, SFM_FOLDER, DEFAULT_FOCAL, DEFAULT_WIDTH,
    )  # fmt: skip
    sizes = {name: image_size(folder / name) for name in names}
    size_ids = {size: index for index, size in enumerate(sorted(set(sizes.values())), start=1)}
    cameras = {index: _default_camera(*size, index) for size, index in size_ids.items()}
    return {name: size_ids[size] for name, size in sizes.items()}, cameras, f"default focal length, {DEFAULT_FOCAL:g} px at {DEFAULT_WIDTH}"


def _default_camera(width: int, height: int, camera_id: int) -> pycolmap.Camera:
    focal = DEFAULT_FOCAL * max(width, height) / DEFAULT_WIDTH
    return make_camera("SIMPLE_PINHOLE", width, height, [focal, width / 2, height / 2], camera_id)


Poses = Mapping[str, NDArray[np.float64]]


def _lists(entries: Mapping[str, Poses], folder: Path) -> dict[str, ImageList]:
    return {split: ImageList(str(folder / POSE_FILES[split]), tuple(listed)) for split, listed in entries.items() if listed}


def _read_lists(folder: Path) -> dict[str, Poses]:
    """cam_from_world (3, 4) by image name, for each split whose file is there."""
    return {split: _read_list(folder / file) for split, file in POSE_FILES.items() if (folder / file).is_file()}


def _read_list(path: Path) -> Poses:
    """Lines `name X Y Z W P Q R` after three of heading: camera centre, and the quaternion (w first) from world to camera."""
    poses: dict[str, NDArray[np.float64]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields or (number <= 3 and not _is_entry(fields)):
            continue
        try:
            if len(fields) != 8:
                raise FormatError(f"{len(fields)} fields.")
            name, values = normal_name(fields[0]), np.array([float(field) for field in fields[1:]])
            if name in poses:
                raise FormatError(f"{name} is listed twice.")
            poses[name] = _pose(values[:3], values[3:])
        except (ValueError, FormatError) as error:
            raise FormatError(f"{path}:{number} is not a pose: {error}", "Each line must be: name X Y Z W P Q R.") from None
    if not poses:
        raise FormatError(f"{path} names no image.", "It must hold lines: name X Y Z W P Q R.")
    return poses


def _is_entry(fields: Sequence[str]) -> bool:
    try:
        return len(fields) == 8 and bool([float(field) for field in fields[1:]])
    except ValueError:
        return False


def _pose(center: NDArray[np.float64], qvec: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(center).all():
        raise FormatError("the position is not finite.")
    rotation = pose.from_qvec_tvec(qvec, np.zeros(3))[:, :3]
    return np.column_stack([rotation, -rotation @ center])
