"""12-Scenes (Valentin et al., 3DV 2016): Structure sensor sequences with pose files, or the SfM layout of the published code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import make_camera, parse_camera
from processing.adapters.assemble import Frame, assemble
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import image_size, scene_folder
from processing.adapters.lists import ImageList, own_lists
from processing.adapters.pseudo_gt import find_ground_truth, frames_of_pose_files, pose_files
from processing.adapters.rgbd_frames import COLOR_SUFFIXES, color_images, frame_stem, frames_with_pose_files
from processing.adapters.sfm_layout import find_model, read_frames, scale_camera

SFM_FOLDER = "12scenes_sfm_triangulated"
DATA = "data"
EXPECTED = "a folder data with frame-XXXXXX.color.jpg and frame-XXXXXX.pose.txt, info.txt and split.txt"
INTRINSIC = "m_calibrationColorIntrinsic"
_SEQUENCE = re.compile(r"sequence\s*(\d+)\s*\[frames\s*=\s*\d+\s*\]\s*\[start\s*=\s*(\d+)\s*;\s*end\s*=\s*(\d+)\s*\]")


@dataclass(frozen=True)
class _Found:
    """What one of the ground truths gives."""

    image_dir: Path
    cameras: dict[int, pycolmap.Camera]
    frames: Sequence[Frame]
    dropped: Sequence[DroppedImage]
    lists: dict[str, ImageList]
    poses: str


def load(options: AdapterOptions) -> SceneSource:
    """A scene such as apt1/kitchen (or apt1_kitchen), in metres. Raises InputError and its kind for whatever is wrong with the data."""
    folder = _scene_folder(options)
    scene = options.scene or folder.resolve().name
    ground_truth = find_ground_truth(options, folder, _model_places(options, folder, scene))
    found = _read(folder, ground_truth, scene, options)
    if not found.frames:
        raise InputError(f"No image in {folder} has a usable pose; the first: {found.dropped[0].name}: {found.dropped[0].reason}.")
    return assemble(
        "12scenes",
        scene,
        found.image_dir,
        found.cameras,
        found.frames,
        options,
        dropped=found.dropped,
        own_lists=found.lists,
        provenance={"format": "12scenes", "gt": options.gt, "poses": found.poses, "units": "metres, as published"},
    )


def _spellings(scene: str) -> list[str]:
    """The scene as given, as a folder in a folder, and as one name: apt1/kitchen and apt1_kitchen are the same scene."""
    return list(dict.fromkeys([scene, scene.replace("_", "/", 1), scene.replace("/", "_")]))


def _scene_folder(options: AdapterOptions) -> Path:
    """The scene's folder; with `--gt sfm` the folder of the SfM layout serves as well, when it holds the images itself."""

    def looks_right(folder: Path) -> bool:
        return (folder / DATA).is_dir() or (folder / "info.txt").is_file() or (options.gt == "sfm" and find_model([folder]) is not None)

    first: InputError | None = None
    for parent in ("", SFM_FOLDER) if options.gt == "sfm" and options.scene else ("",):
        for scene in _spellings(options.scene):
            try:
                return scene_folder(replace(options, scene=str(Path(parent) / scene) if scene else ""), "12scenes", looks_right, EXPECTED)
            except InputError as error:
                first = first or error
    assert first is not None
    raise first


def _model_places(options: AdapterOptions, folder: Path, scene: str) -> list[Path]:
    """Where the SfM layout may lie: in DATASET_DIR or its folder 12scenes, or beside the scene's parents; or it is the folder itself."""
    root = Path(str(options.dataset_dir))
    parents = dict.fromkeys([root / "12scenes", root, folder.parent, folder.parent.parent, folder.parent.parent.parent])
    return [parent / SFM_FOLDER / spelled for parent in parents for spelled in _spellings(scene)] + [folder]


def _read(folder: Path, ground_truth: Path | None, scene: str, options: AdapterOptions) -> _Found:
    if ground_truth is not None and find_model([ground_truth]):
        found = read_frames(ground_truth, [folder, ground_truth, folder / DATA], COLOR_SUFFIXES, scaled=options.camera is None)
        lists = found.lists({"test": ground_truth / "list_test.txt"}) or _split_lists(folder, [f.name for f in found.frames])
        poses = f"COLMAP model {ground_truth.parent.name}/{ground_truth.name}, with its cameras"
        return _Found(found.image_dir, found.cameras, found.frames, found.dropped, {**lists, **own_lists(folder)}, poses)
    names = color_images(folder, f"{DATA}/", EXPECTED)
    lists = {**_split_lists(folder, names), **own_lists(folder)}
    camera = parse_camera(options.camera) if options.camera else _read_camera(folder / "info.txt", folder / names[0])
    if ground_truth is None:
        frames, dropped = frames_with_pose_files(folder, names, 1)
        return _Found(folder, {1: camera}, frames, dropped, lists, f"pose.txt of 12-Scenes, {INTRINSIC} of info.txt")
    files = pose_files(ground_truth, scene)

    def camera_of(focal: float, camera_id: int) -> pycolmap.Camera:
        return _pseudo_camera(focal, camera_id, camera)

    poses = f"{' and '.join(path.name for path in files)} (pseudo ground truth), one camera per focal length"
    cameras, frames, dropped = frames_of_pose_files(files, names, camera_of)
    return _Found(folder, cameras, frames, dropped, lists, poses)


def _pseudo_camera(focal: float, camera_id: int, camera: pycolmap.Camera) -> pycolmap.Camera:
    """A camera of the pseudo ground truth: one focal length, the principal point in the middle."""
    width, height = camera.width, camera.height
    return make_camera("SIMPLE_PINHOLE", width, height, [focal, width / 2, height / 2], camera_id)


def _read_camera(path: Path, image: Path) -> pycolmap.Camera:
    """The colour camera of info.txt (lines `key = value`), scaled to the images. Raises MissingFileError or FormatError naming the file."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist.", f"It must hold m_colorWidth, m_colorHeight and {INTRINSIC}.")
    lines = [line.split("=", 1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if "=" in line]
    values = {key.strip(): value.split() for key, value in lines}
    try:
        size = int(values["m_colorWidth"][0]), int(values["m_colorHeight"][0])
        matrix = np.array([float(value) for value in values[INTRINSIC]]).reshape(4, 4)
        camera = make_camera("PINHOLE", *size, [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])
    except KeyError as error:
        raise FormatError(f"{path} has no line {error.args[0]} = ….", "It must be the info.txt of 12-Scenes.") from None
    except (ValueError, IndexError, InputError) as error:
        raise FormatError(
            f"{path} has no usable colour camera: {error}.",
            f"{INTRINSIC} must be a 4x4 matrix, m_colorWidth and m_colorHeight whole numbers.",
        ) from None
    return scale_camera(camera, image_size(image), image)


def _split_lists(folder: Path, names: Sequence[str]) -> dict[str, ImageList]:
    """The queries: the frames of the first sequence of split.txt, as in the literature; all others are mapped."""
    path = folder / "split.txt"
    if not path.is_file():
        return {}
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    matches = [_SEQUENCE.fullmatch(line) for line in lines]
    for number, (line, match) in enumerate(zip(lines, matches, strict=True), start=1):
        if match is None or int(match.group(2)) > int(match.group(3)):
            raise FormatError(f"{path}:{number} is {line!r}.", "Each line must be: sequenceN [frames=K] [start=A ; end=B].")
    if not matches or matches[0] is None:
        raise FormatError(f"{path} names no sequence.", "Each line must be: sequenceN [frames=K] [start=A ; end=B].")
    start, end = int(matches[0].group(2)), int(matches[0].group(3))
    queries = tuple(name for name in names if start <= _frame_number(name) <= end)
    return {"test": ImageList(str(path), queries)} if queries else {}


def _frame_number(name: str) -> int:
    """7 of data/frame-000007.color.jpg; -1 for other names."""
    match = re.search(r"(\d+)$", frame_stem(name))
    return int(match.group(1)) if match else -1
