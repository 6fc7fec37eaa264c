"""`transforms.json` of nerfstudio and instant-ngp: camera-to-world matrices with OpenGL axes (x right, y up, z backward)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, unknown_choice
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, make_camera, parse_camera
from d2s.scene.atomic import read_json
from processing.adapters.assemble import UNITS, Frame, assemble, refuse_gt, units_of
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import IMAGE_SUFFIXES, image_size, scene_folder
from processing.adapters.lists import ImageList, normal_name

TRANSFORMS = "transforms.json"
PERSPECTIVE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
FISHEYE_MODELS = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
SPLIT_KEYS = {"train": "train_filenames", "val": "val_filenames", "test": "test_filenames"}
CV_FROM_GL_AXES = np.array([1.0, -1.0, -1.0])  # our cameras have y down and z forward


def load(options: AdapterOptions) -> SceneSource:
    """Images, cameras and poses of a transforms.json, in the world of its matrices (`applied_transform` and scale are noted, not undone).

    Units are "arbitrary" unless `options.extra["units"]`, or "units" in the file, as we export it, says "metres". Raises InputError and its
    kind for whatever is wrong with the data.
    """
    refuse_gt(options, "nerfstudio")
    folder = scene_folder(options, "nerfstudio", lambda path: (path / TRANSFORMS).is_file(), TRANSFORMS)
    content = _read(folder / TRANSFORMS)
    entries, dropped = _existing(content["frames"], folder)
    if not entries:
        raise InputError(
            f"None of the {len(dropped)} images of {folder / TRANSFORMS} exists in {folder} (the first: {dropped[0].name}).",
            "Put the images where file_path says.",
        )
    image_dir = _common_folder(folder, [path for path, _ in entries])
    cameras, frames = _frames(entries, content, image_dir, folder / TRANSFORMS, options.camera)
    return assemble(
        "nerfstudio",
        options.scene or folder.resolve().name,
        image_dir,
        cameras,
        frames,
        options,
        dropped=dropped,
        own_lists=_own_lists(content, folder, image_dir),
        units=units_of(options, _stated_units(content) or "arbitrary"),
        provenance=_provenance(content, options),
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) and isinstance(f.get("file_path"), str) for f in frames):
        raise FormatError(f"{path} has no list 'frames' of objects with a 'file_path'.", "See docs/datasets.md for what it must hold.")
    return content


def _existing(entries: Sequence[dict[str, Any]], folder: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[DroppedImage]]:
    """The frames whose image exists, with the path of that image; the others are dropped."""
    found, dropped = [], []
    for entry in entries:
        path = _image_path(folder, entry["file_path"])
        if path is None:
            dropped.append(DroppedImage(normal_name(entry["file_path"]), f"{TRANSFORMS} lists it, but there is no such file"))
        else:
            found.append((path, entry))
    return found, dropped


def _image_path(folder: Path, file_path: str) -> Path | None:
    """The image of a frame; the extension may be missing, as in the data sets of NeRF."""
    path = folder / file_path.replace("\\", "/")
    candidates = [path, *(path.with_name(path.name + suffix) for suffix in IMAGE_SUFFIXES)]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _common_folder(folder: Path, paths: Sequence[Path]) -> Path:
    """The scene's folder; where images lie outside it (`file_path` may begin with `../` or be absolute), the closest one that holds all."""
    home, places = os.path.abspath(folder), {os.path.dirname(os.path.abspath(path)) for path in paths}
    if not any(Path(place).is_relative_to(home) for place in places):
        return Path(os.path.commonpath(places))
    return Path(os.path.commonpath([home, *places]))


def _name(path: Path, image_dir: Path) -> str:
    return Path(os.path.relpath(os.path.abspath(path), image_dir)).as_posix()


def _frames(
    entries: Sequence[tuple[Path, dict[str, Any]]], content: Mapping[str, Any], image_dir: Path, source: Path, given_camera: str | None
) -> tuple[dict[int, pycolmap.Camera], list[Frame]]:
    """Frames and their cameras; frames with the same intrinsics share a camera."""
    ids: dict[str, int] = {}
    cameras: dict[int, pycolmap.Camera] = {}
    frames, names = [], set[str]()
    for path, entry in entries:
        where = f"{source}, frame {entry['file_path']}"
        name = _name(path, image_dir)
        if name in names:
            raise FormatError(f"{source} lists {name} more than once.", "Keep one frame for each image.")
        names.add(name)
        camera = parse_camera(given_camera) if given_camera else _camera({**content, **entry}, path, where)
        index = ids.setdefault(format_camera(camera), len(ids) + 1)
        cameras.setdefault(index, make_camera(camera.model.name, camera.width, camera.height, camera.params, index))
        frames.append(Frame(name, index, _cam_from_world(entry.get("transform_matrix"), where)))
    return cameras, frames


def _cam_from_world(matrix: Any, where: str) -> NDArray[np.float64]:
    try:
        world_from_gl = pose.from_matrix(np.asarray(matrix, dtype=np.float64))
    except (TypeError, ValueError, FormatError, np.linalg.LinAlgError) as error:
        raise FormatError(f"{where}: transform_matrix is not a pose: {error}", "It must be a 4x4 matrix, camera to world.") from None
    world_from_cam = world_from_gl.copy()
    world_from_cam[:, :3] *= CV_FROM_GL_AXES
    return pose.inverse(world_from_cam)


def _camera(values: Mapping[str, Any], path: Path, where: str) -> pycolmap.Camera:
    """The COLMAP camera of a frame's own and global values. cx and cy are in COLMAP's convention already: they come from COLMAP."""
    width, height = (_number(values, key, where) for key in ("w", "h"))
    if width is None or height is None:
        width, height = image_size(path)
    fx = _focal(values, "x", width, where)
    if fx is None:
        raise FormatError(f"{where}: there is neither fl_x nor camera_angle_x.", "Add the focal length in pixels, or give --camera.")
    fy = _focal(values, "y", height, where)
    cx, cy = _number(values, "cx", where), _number(values, "cy", where)
    center = [width / 2 if cx is None else cx, height / 2 if cy is None else cy]
    model, distortion = _model(values, where)
    try:
        return make_camera(model, round(width), round(height), [fx, fx if fy is None else fy, *center, *distortion])
    except InputError as error:
        raise FormatError(f"{where}: {error}") from None


def _focal(values: Mapping[str, Any], axis: str, size: float, where: str) -> float | None:
    focal, angle = _number(values, f"fl_{axis}", where), _number(values, f"camera_angle_{axis}", where)
    if focal is None and angle is not None:
        return size / (2 * math.tan(angle / 2))
    return focal


def _number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    value = values.get(key)
    if value is None or (isinstance(value, (int, float)) and math.isfinite(value)):
        return value
    raise FormatError(f"{where}: {key} is {value!r}.", "It must be a number.")


def _model(values: Mapping[str, Any], where: str) -> tuple[str, list[float]]:
    """The smallest COLMAP model that holds the coefficients that are not zero, and those coefficients.

    SIMPLE_RADIAL and RADIAL are OPENCV with some coefficients zero; so are the fisheye models. k3 needs FULL_OPENCV; a perspective k4
    (r to the eighth power) exists in no COLMAP model.
    """
    name = str(values.get("camera_model") or ("OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV"))
    if name not in PERSPECTIVE_MODELS + FISHEYE_MODELS:
        raise unknown_choice(f"camera_model in {where}:", name, PERSPECTIVE_MODELS + FISHEYE_MODELS)
    k1, k2, k3, k4, p1, p2 = (_number(values, key, where) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if name in FISHEYE_MODELS:
        return "OPENCV_FISHEYE", [k1, k2, k3, k4]
    if k4:
        raise FormatError(f"{where}: k4 = {k4} with camera_model {name} has no COLMAP camera.", "Undistort the images first.")
    if k3:
        return "FULL_OPENCV", [k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    return ("OPENCV", [k1, k2, p1, p2]) if any((k1, k2, p1, p2)) else ("PINHOLE", [])


def _own_lists(content: Mapping[str, Any], folder: Path, image_dir: Path) -> dict[str, ImageList]:
    """The file's own split, with its paths turned into image names."""
    lists = {}
    for split, key in SPLIT_KEYS.items():
        file_paths = [str(name) for name in content.get(key) or ()]
        if file_paths:
            found = [(name, _image_path(folder, name)) for name in file_paths]
            names = tuple(_name(path, image_dir) if path is not None else normal_name(name) for name, path in found)
            lists[split] = ImageList(f"{folder / TRANSFORMS} ({key})", names)
    return lists


def _stated_units(content: Mapping[str, Any]) -> str | None:
    """The unit that `d2s export` wrote; other programs say nothing, or something else."""
    units = content.get("units")
    return units if units in UNITS else None


def _provenance(content: Mapping[str, Any], options: AdapterOptions) -> dict[str, Any]:
    stated = "as the file says" if _stated_units(content) else "arbitrary: the file does not say"
    units = "as the user said" if options.extra.get("units") else stated
    changes = {key: content[key] for key in ("applied_transform", "applied_scale", "scale", "offset") if key in content}
    return {"format": "nerfstudio", "poses": f"{TRANSFORMS}, in the world of its matrices", "units": units, **changes}
