"""7-Scenes (Shotton et al., CVPR 2013), the pseudo ground truths of Brachmann et al. (ICCV 2021), and the SfM layout of hloc."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import make_camera
from processing.adapters.assemble import Frame, assemble
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import scene_folder
from processing.adapters.lists import ImageList, own_lists
from processing.adapters.pseudo_gt import find_ground_truth, frames_of_pose_files, pose_files
from processing.adapters.rgbd_frames import COLOR_SUFFIXES, color_images, frames_with_pose_files
from processing.adapters.sfm_layout import find_model, read_frames

WIDTH, HEIGHT = 640, 480
COLOR_FOCAL = 525.0  # of the colour camera; the often quoted 585 belongs to the depth camera
SFM_FOLDER = "7scenes_sfm_triangulated"
EXPECTED = "folders seq-XX with frame-XXXXXX.color.png (or .jpg) and frame-XXXXXX.pose.txt"


@dataclass(frozen=True)
class _Found:
    """What one of the ground truths gives."""

    cameras: dict[int, pycolmap.Camera]
    frames: list[Frame]
    dropped: list[DroppedImage]
    lists: dict[str, ImageList]
    poses: str


def load(options: AdapterOptions) -> SceneSource:
    """A scene in the layout of 7-Scenes. Units are metres. Raises InputError and its kind for whatever is wrong with the data."""
    folder = scene_folder(options, "7scenes", _looks_right, EXPECTED)
    scene = options.scene or folder.resolve().name
    models = _model_places(folder, scene)
    ground_truth = find_ground_truth(options, folder, models)
    found = _read(folder, ground_truth, scene, options)
    if not found.frames:
        raise InputError(
            f"No image in {folder} has a usable pose; the first: {found.dropped[0].name}: {found.dropped[0].reason}.",
            f"--gt sfm reads the poses of {model}." if ground_truth is None and (model := find_model(models)) else "",
        )
    return assemble(
        "7scenes",
        scene,
        folder,
        found.cameras,
        found.frames,
        options,
        dropped=found.dropped,
        own_lists=found.lists,
        provenance={"format": "7scenes", "gt": options.gt, "poses": found.poses, "units": "metres, as published"},
    )


def _looks_right(folder: Path) -> bool:
    return any(path.is_dir() or path.suffix == ".zip" for path in folder.glob("seq-*"))


def _model_places(folder: Path, scene: str) -> list[Path]:
    """Where hloc and the published code keep the SfM model: beside the scenes, or one level up."""
    parents = [folder.parent / SFM_FOLDER, folder.parent.parent / SFM_FOLDER]
    return [parent / scene / part for parent in parents for part in ("triangulated", "")]


def _read(folder: Path, ground_truth: Path | None, scene: str, options: AdapterOptions) -> _Found:
    if ground_truth is not None and find_model([ground_truth]):
        return _from_model(folder, ground_truth, scaled=options.camera is None)
    names = color_images(folder, "seq-", EXPECTED)
    lists = _own_lists(folder, names)
    if ground_truth is None:
        frames, dropped = frames_with_pose_files(folder, names, 1)
        poses = f"pose.txt of 7-Scenes (depth camera), focal {COLOR_FOCAL:g}"
        return _Found({1: _camera(COLOR_FOCAL, 1)}, frames, dropped, lists, poses)
    files = pose_files(ground_truth, scene)
    poses = f"{' and '.join(path.name for path in files)} (pseudo ground truth), one camera per focal length"
    return _Found(*frames_of_pose_files(files, names, _camera), lists, poses)


def _from_model(folder: Path, model: Path, scaled: bool) -> _Found:
    """Poses, cameras and test list of the SfM layout; its list replaces the sequence files, the scene's own lists replace it."""
    color_images(folder, "seq-", EXPECTED)  # says what is wrong where sequences are still packed
    found = read_frames(model, [folder], COLOR_SUFFIXES, scaled=scaled)
    lists = found.lists({"test": model / "list_test.txt"}) or _own_lists(folder, [frame.name for frame in found.frames])
    poses = f"COLMAP model {model.parent.name}/{model.name}, with its cameras"
    return _Found(found.cameras, list(found.frames), list(found.dropped), {**lists, **own_lists(folder)}, poses)


def _camera(focal: float, camera_id: int) -> pycolmap.Camera:
    return make_camera("SIMPLE_PINHOLE", WIDTH, HEIGHT, [focal, WIDTH / 2, HEIGHT / 2], camera_id)


def _own_lists(folder: Path, names: list[str]) -> dict[str, ImageList]:
    """The data set's own split: list_SPLIT.txt where there is one, else TrainSplit.txt and TestSplit.txt."""
    lists = own_lists(folder)
    for split, sequences in (("train", "TrainSplit.txt"), ("test", "TestSplit.txt")):
        if split not in lists and (folder / sequences).is_file():
            lists[split] = _sequence_list(folder / sequences, names)
    return lists


def _sequence_list(path: Path, names: list[str]) -> ImageList:
    """The images of the sequences that a file of lines `sequenceN` names."""
    wanted = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(?:sequence|seq-?)\s*(\d+)", line.strip(), re.IGNORECASE)
        if match is None:
            raise FormatError(f"{path}:{number} is {line.strip()!r}.", "Each line must be sequenceN, for example sequence1.")
        prefix = f"seq-{int(match.group(1)):02d}/"
        images = [name for name in names if name.startswith(prefix)]
        if not images:
            raise MissingFileError(f"{path}:{number} names {line.strip()}, but {path.parent / prefix} has no image.", "Unpack it.")
        wanted += images
    return ImageList(str(path), tuple(wanted))
