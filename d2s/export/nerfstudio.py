"""`transforms.json` of nerfstudio and instant-ngp: camera-to-world matrices with OpenGL axes (x right, y up, z backward)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from d2s.errors import InputError
from d2s.export.content import Content, View
from d2s.export.ply import write_points
from d2s.geometry import pose

TRANSFORMS, CLOUD = "transforms.json", "sparse_pc.ply"
FILES = (TRANSFORMS, CLOUD)
SPLIT_KEYS = {"train": "train_filenames", "val": "val_filenames", "test": "test_filenames"}
GL_FROM_CV_AXES = np.array([1.0, -1.0, -1.0, 1.0])

# COLMAP model -> what nerfstudio calls it, and its names of the parameters after the principal point.
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "SIMPLE_PINHOLE": ("PINHOLE", ()),
    "PINHOLE": ("PINHOLE", ()),
    "SIMPLE_RADIAL": ("OPENCV", ("k1",)),
    "RADIAL": ("OPENCV", ("k1", "k2")),
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "FULL_OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1",)),
    "RADIAL_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2")),
}
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
DENOMINATOR = ("k4", "k5", "k6")
"""Of FULL_OPENCV: a rational distortion, which nerfstudio does not have; its own k4 is the polynomial's."""

NGP_SCALE, NGP_LARGEST = 0.33, 128


def write(folder: Path, content: Content, final: Path) -> None:
    """Write `transforms.json` and, where there are points, `sparse_pc.ply` in the same frame and unit: nothing is moved or scaled.

    `final`: where the folder will lie, for paths of images relative to it. Raises InputError for a camera that the format cannot hold.
    """
    if not content.views:
        raise InputError("transforms.json is a list of cameras, and there is none to write.", "Name a scene whose images have poses.")
    transforms: dict[str, Any] = {
        "units": content.units,
        "applied_scale": 1.0,
        "aabb_scale": _aabb_scale(content),
        "frames": [_frame(content, view, final) for view in content.views],
    }
    for split, key in SPLIT_KEYS.items():
        transforms[key] = [_file_path(view, final) for view in content.views if view.split == split]
    if len(content.points):
        transforms["ply_file_path"] = CLOUD
        write_points(folder / CLOUD, content.points)
    (folder / TRANSFORMS).write_text(json.dumps(transforms, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _frame(content: Content, view: View, final: Path) -> dict[str, Any]:
    world_from_gl = pose.homogeneous(pose.inverse(view.cam_from_world)) * GL_FROM_CV_AXES
    return {
        "file_path": _file_path(view, final),
        **_intrinsics(content.camera(view), view),
        "transform_matrix": world_from_gl.tolist(),
    }


def _file_path(view: View, final: Path) -> str:
    return Path(os.path.relpath(view.path.absolute(), final.absolute())).as_posix()


def _intrinsics(camera: pycolmap.Camera, view: View) -> dict[str, Any]:
    """Size, focal lengths, principal point (COLMAP's pixels, as nerfstudio takes them) and distortion of one camera."""
    if camera.model.name not in MODELS:
        raise InputError(
            f"{view.name} has a {camera.model.name} camera, which transforms.json cannot hold.",
            "Export to colmap, or undistort the images.",
        )
    name, keys = MODELS[camera.model.name]
    params = [float(value) for value in camera.params]
    if camera.model.name in ONE_FOCAL:
        params = [params[0], *params]
    distortion = dict.fromkeys(DISTORTION, 0.0) | dict(zip(keys, params[4:], strict=True))
    if camera.model.name == "FULL_OPENCV":
        if any(distortion.pop(key) for key in DENOMINATOR):
            raise InputError(f"{view.name} has a rational distortion (k4, k5, k6), which transforms.json cannot hold.", "Export to colmap.")
        distortion["k4"] = 0.0
    values = {"fl_x": params[0], "fl_y": params[1], "cx": params[2], "cy": params[3], "w": int(camera.width), "h": int(camera.height)}
    return {"camera_model": name, **values, **({} if name == "PINHOLE" else distortion)}


def _aabb_scale(content: Content) -> int:
    """Side of instant-ngp's box, a power of two, that holds all cameras: it puts x at 0.33 x + 0.5 in a unit cube of side 1."""
    centers = np.array([pose.center(view.cam_from_world) for view in content.views])
    reach = 2 * NGP_SCALE * float(np.abs(centers).max())
    return min(NGP_LARGEST, 2 ** max(0, math.ceil(math.log2(max(reach, 1.0)))))
