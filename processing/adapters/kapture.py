"""kapture trees (Humenberger et al., 2020): mapping/ and query/, or one tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, InputError
from d2s.geometry.camera import make_camera
from processing.adapters.assemble import Frame, assemble, refuse_gt, units_of
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import scene_folder
from processing.adapters.kapture_files import UNKNOWN_CAMERA, KaptureTree, Pose, Record, read_tree
from processing.adapters.lists import ImageList, own_lists

EXPECTED = "a kapture tree (sensors/sensors.txt), or two in mapping/ and query/"
SPLIT_FOLDERS = {"train": "mapping", "test": "query"}


@dataclass
class _Collected:
    """What the trees hold, gathered image by image; `listed` are the names per split where the data says so."""

    cameras: dict[int, pycolmap.Camera] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)
    dropped: list[DroppedImage] = field(default_factory=list)
    listed: dict[str, list[str]] = field(default_factory=dict)


def load(options: AdapterOptions) -> SceneSource:
    """Images, cameras and poses of a kapture tree: mapping/ is mapped and query/ holds the queries, or one tree holds both.

    Queries without a pose are kept (they count in no metric) when the query tree has no trajectories at all; other images without a whole
    pose are dropped. Units are metres unless `options.extra["units"]` says otherwise. Raises InputError and its kind for whatever is wrong.
    """
    refuse_gt(options, "kapture")
    folder = scene_folder(options, "kapture", lambda path: bool(tree_folders(path)), EXPECTED)
    trees = {split: read_tree(path) for split, path in tree_folders(folder).items()}
    image_dir = _image_dir(folder, list(trees.values()))
    found = _collect(trees, folder, image_dir, options.camera is not None)
    if not found.frames:
        reason = f"the first: {found.dropped[0].name}: {found.dropped[0].reason}" if found.dropped else "records_camera.txt is empty"
        raise InputError(f"{folder} has no usable image; {reason}.")
    return assemble(
        "kapture",
        options.scene or folder.resolve().name,
        image_dir,
        found.cameras,
        found.frames,
        options,
        dropped=found.dropped,
        own_lists=(own_lists(folder) if "" in trees else {}) or _listed(folder, found.listed),
        units=units_of(options, "metres"),
        provenance={"format": "kapture", "poses": "trajectories.txt and rigs.txt"},
    )


def tree_folders(folder: Path) -> dict[str, Path]:
    """The trees of a scene by split: mapping/ and query/; else one tree under "" (the folder itself, or mapping/ alone). Empty: none."""
    found = {split: folder / name for split, name in SPLIT_FOLDERS.items() if _is_tree(folder / name)}
    if len(found) == len(SPLIT_FOLDERS):
        return found
    if _is_tree(folder):
        return {"": folder}
    return {"": found["train"]} if "train" in found else {}


def _is_tree(folder: Path) -> bool:
    return (folder / "sensors" / "sensors.txt").is_file()


def _image_dir(folder: Path, trees: Sequence[KaptureTree]) -> Path:
    """The folder that holds all images: records_data where all trees share it (by links), else the scene's folder."""
    shared = {os.path.realpath(tree.image_dir) for tree in trees}
    return trees[0].image_dir if len(shared) == 1 else folder


def _collect(trees: dict[str, KaptureTree], folder: Path, image_dir: Path, camera_given: bool) -> _Collected:
    found = _Collected()
    for split, tree in trees.items():
        prefix = "" if image_dir != folder else f"{tree.image_dir.relative_to(folder).as_posix()}/"
        camera_ids = _add_cameras(found, tree)
        for record in tree.records:
            name = f"{prefix}{record.name}"
            found.listed.setdefault(split or _split_of(record), []).append(name)
            cam_from_world, reason = _usable(tree, record, image_dir / name, withheld=split == "test" and not tree.trajectories)
            if record.sensor in tree.cameras and tree.cameras[record.sensor] is None and not camera_given:
                reason = reason or f"its sensor {record.sensor} is an {UNKNOWN_CAMERA}: give --camera"
            if reason:
                found.dropped.append(DroppedImage(name, reason))
            else:
                found.frames.append(Frame(name, camera_ids.get(record.sensor, 1), cam_from_world))
    _refuse_both(found.listed)
    return found


def _add_cameras(found: _Collected, tree: KaptureTree) -> dict[str, int]:
    """Give every camera of a tree a number of its own (kapture's ids are text, and two trees may use one id for two cameras)."""
    ids = {}
    for sensor, camera in tree.cameras.items():
        if camera is not None:
            ids[sensor] = len(found.cameras) + 1
            found.cameras[ids[sensor]] = make_camera(camera.model.name, camera.width, camera.height, camera.params, ids[sensor])
    return ids


def _split_of(record: Record) -> str:
    """The split that the name's first folder says in a tree that holds both, "" when it says nothing."""
    first = record.name.partition("/")[0]
    return next((split for split, name in SPLIT_FOLDERS.items() if name == first), "")


def _usable(tree: KaptureTree, record: Record, path: Path, withheld: bool) -> tuple[Pose | None, str]:
    """The image's pose, or why the image cannot be used."""
    if record.sensor not in tree.cameras:
        return None, f"its sensor {record.sensor} is no camera in sensors.txt"
    if not path.is_file():
        return None, f"it is in records_camera.txt, but not in {tree.image_dir}"
    poses = list(tree.poses(record))
    whole = next((found for found in poses if found is not None), None)
    if whole is not None or withheld:
        return whole, ""
    return None, "its pose lacks the rotation or the translation" if poses else "trajectories.txt has no pose for it"


def _refuse_both(listed: dict[str, list[str]]) -> None:
    both = sorted(set(listed.get("train", ())) & set(listed.get("test", ())))
    if both:
        raise FormatError(f"{both[0]} is a mapping image and a query ({len(both)} such images).", "An image can be one of them only.")


def _listed(folder: Path, listed: dict[str, list[str]]) -> dict[str, ImageList]:
    """Mapping and query images as lists, if there are both and nothing else."""
    if set(listed) != set(SPLIT_FOLDERS):
        return {}
    return {split: ImageList(f"{folder} ({SPLIT_FOLDERS[split]})", tuple(names)) for split, names in listed.items()}
