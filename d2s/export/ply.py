"""Binary PLY files: points with colours, and cameras as small pyramids, for MeshLab, CloudCompare, Blender and the like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.export.content import Content, Points
from d2s.geometry import pose
from d2s.geometry.camera import unproject

Array = NDArray[np.float64]
POINTS, CAMERAS = "points.ply", "cameras.ply"
FILES = (POINTS, CAMERAS)

VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
FACE = np.dtype([("count", "u1"), ("vertices", "<i4", 3), ("rgb", "u1", 3)])
COLORS = {"train": (58, 110, 200), "val": (150, 150, 150), "test": (44, 190, 80)}
SIDES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [1, 3, 2], [1, 4, 3]])
"""Triangles of a pyramid whose vertex 0 is the camera centre."""

SHARE = 0.02
"""Depth of a pyramid as a share of the scene's extent."""


def write(folder: Path, content: Content, frusta: bool = True) -> None:
    """Write `points.ply` and, with `frusta`, `cameras.ply` (mapping cameras blue, validation gray, queries green), in the scene's frame."""
    write_points(folder / POINTS, content.points)
    if frusta and content.views:
        write_cameras(folder / CAMERAS, content)


def write_points(path: Path, points: Points) -> None:
    """Coordinates as float32, colours as uint8."""
    path.write_bytes(_header(len(points)) + _vertices(points.xyz, points.rgb).tobytes())


def write_cameras(path: Path, content: Content) -> None:
    """One pyramid per view: its tip is the camera centre, its base the image plane, upright as the image is."""
    corners = np.concatenate([_pyramid(content, index, SHARE * extent(content)) for index in range(len(content.views))])
    colors = np.array([COLORS[view.split] for view in content.views], dtype=np.uint8)
    faces = np.zeros(len(SIDES) * len(content.views), dtype=FACE)
    faces["count"] = 3
    faces["vertices"] = (SIDES + 5 * np.arange(len(content.views))[:, None, None]).reshape(-1, 3)
    faces["rgb"] = np.repeat(colors, len(SIDES), axis=0)
    vertices = _vertices(corners, np.repeat(colors, 5, axis=0))
    path.write_bytes(_header(len(vertices), len(faces)) + vertices.tobytes() + faces.tobytes())


def extent(content: Content) -> float:
    """Diagonal of the box around the camera centres and the inner 98 % of the points; 1 where there is no extent."""
    corners = [pose.center(view.cam_from_world) for view in content.views]
    if len(content.points):
        corners += list(np.percentile(content.points.xyz, [1, 99], axis=0))
    return float(np.linalg.norm(np.ptp(corners, axis=0))) or 1.0


def _pyramid(content: Content, index: int, depth: float) -> Array:
    """Centre and the four corners of the image (5, 3) at a depth, in the world; the camera's distortion bends nothing."""
    view = content.views[index]
    camera = content.camera(view)
    focal = camera.mean_focal_length()
    half = np.array([camera.width, camera.height]) / (2 * focal)
    middle = unproject(camera, [[(camera.width - 1) / 2, (camera.height - 1) / 2]])[0]
    corners = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    points = np.concatenate([np.zeros((1, 3)), depth * np.column_stack([corners, np.ones(4)])])
    return pose.transform(pose.inverse(view.cam_from_world), points)


def _vertices(xyz: Array, rgb: NDArray[np.uint8]) -> NDArray[np.void]:
    rows = np.zeros(len(xyz), dtype=VERTEX)
    rows["xyz"], rows["rgb"] = xyz, rgb
    return rows


def _header(vertices: int, faces: int | None = None) -> bytes:
    color = [f"property uchar {name}" for name in ("red", "green", "blue")]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {vertices}"]
    lines += [*(f"property float {axis}" for axis in "xyz"), *color]
    if faces is not None:
        lines += [f"element face {faces}", "property list uchar int vertex_indices", *color]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
