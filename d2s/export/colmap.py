"""A COLMAP model: cameras, images and points3D, binary or text, in the layout that every COLMAP since 3.6 reads.

We write the files ourselves: their layout has not changed in years, pycolmap's interface does. Without rigs and frames, newer versions
make a trivial rig per camera.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.export.content import Content, View, tracks
from d2s.geometry import pose
from d2s.geometry.camera import colmap_from_pixels

NAMES = ("cameras", "images", "points3D")
LISTS = {"val": "list_val.txt", "test": "list_test.txt"}
FILES = (*(f"{name}{suffix}" for name in NAMES for suffix in (".bin", ".txt")), *LISTS.values())

HEADER = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("length", "<u8")])
POINT_2D = np.dtype([("xy", "<f8", 2), ("point", "<i8")])


def write(folder: Path, content: Content, text: bool = False) -> None:
    """Write the model into a folder that exists, with lists of its validation and test images beside it.

    Image i of the content has id i + 1, point i too. Raises InputError for names that a text file cannot hold.
    """
    if text:
        _write_text(folder, content)
    else:
        _write_binary(folder, content)
    for split, name in LISTS.items():
        names = [view.name for view in content.views if view.split == split]
        if names:
            (folder / name).write_text("\n".join(names) + "\n", encoding="utf-8")


def _write_binary(folder: Path, content: Content) -> None:
    with (folder / "cameras.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(content.cameras)))
        for index, camera in content.cameras.items():
            model = int(getattr(pycolmap.CameraModelId, camera.model.name))
            file.write(struct.pack("<iiQQ", index, model, camera.width, camera.height))
            file.write(np.asarray(camera.params, dtype="<f8").tobytes())
    with (folder / "images.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(content.views)))
        for index, view in enumerate(content.views, 1):
            file.write(struct.pack("<i7di", index, *_pose(view), view.camera_id))
            file.write(view.name.encode() + b"\0" + struct.pack("<Q", len(view.keypoints)) + _points_2d(view).tobytes())
    with (folder / "points3D.bin").open("wb") as file:
        file.write(struct.pack("<Q", len(content.points)) + _points_3d(content).tobytes())


def _pose(view: View) -> list[float]:
    qvec, tvec = pose.to_qvec_tvec(view.cam_from_world)
    return [float(value) for value in (*qvec, *tvec)]


def _points_2d(view: View) -> NDArray[np.void]:
    """Coordinates in COLMAP's pixels and the id of the point, -1 for none."""
    rows = np.zeros(len(view.keypoints), dtype=POINT_2D)
    rows["xy"] = colmap_from_pixels(view.keypoints.astype(np.float64))
    rows["point"] = np.where(view.point >= 0, view.point + 1, -1)
    return rows


def _points_3d(content: Content) -> NDArray[np.uint8]:
    """The bytes of all points: a header and a track of its own length for each."""
    starts, elements = tracks(content.views, len(content.points))
    headers = np.zeros(len(content.points), dtype=HEADER)
    headers["id"] = np.arange(1, len(headers) + 1)
    headers["xyz"], headers["rgb"], headers["error"] = content.points.xyz, content.points.rgb, content.points.error
    headers["length"] = np.diff(starts)
    pairs = (elements + np.array([1, 0], dtype=np.uint32)).astype("<u4")  # ids of images begin at 1
    data = np.zeros(headers.nbytes + pairs.nbytes, dtype=np.uint8)
    begin = HEADER.itemsize * np.arange(len(headers)) + pairs.itemsize * 2 * starts[:-1]
    data[begin[:, None] + np.arange(HEADER.itemsize)] = headers.view(np.uint8).reshape(len(headers), HEADER.itemsize)
    of_point = np.repeat(np.arange(len(headers)), np.diff(starts))
    place = HEADER.itemsize * (of_point + 1) + 8 * np.arange(len(pairs))
    data[place[:, None] + np.arange(8)] = pairs.view(np.uint8).reshape(len(pairs), 8)
    return data


def _write_text(folder: Path, content: Content) -> None:
    spaced = [view.name for view in content.views if len(view.name.split()) != 1]
    if spaced:
        raise InputError(f"COLMAP's text files cannot hold an image name with spaces, such as {spaced[0]!r}.", "Leave out --text.")
    for name, lines in zip(NAMES, (_camera_lines(content), _image_lines(content), _point_lines(content)), strict=True):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _camera_lines(content: Content) -> Iterator[str]:
    yield "# CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"
    for index, camera in content.cameras.items():
        yield f"{index} {camera.model.name} {camera.width} {camera.height} {_numbers(camera.params)}"


def _image_lines(content: Content) -> Iterator[str]:
    yield "# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of its keypoints"
    for index, view in enumerate(content.views, 1):
        yield f"{index} {_numbers(_pose(view))} {view.camera_id} {view.name}"
        rows = _points_2d(view)
        yield " ".join(f"{x!r} {y!r} {point}" for (x, y), point in zip(rows["xy"].tolist(), rows["point"].tolist(), strict=True))


def _point_lines(content: Content) -> Iterator[str]:
    yield "# POINT3D_ID X Y Z R G B ERROR TRACK[] (IMAGE_ID POINT2D_IDX)"
    starts, elements = tracks(content.views, len(content.points))
    points = content.points
    for row in range(len(points)):
        track = " ".join(f"{view + 1} {index}" for view, index in elements[starts[row] : starts[row + 1]].tolist())
        red, green, blue = points.rgb[row].tolist()
        yield f"{row + 1} {_numbers(points.xyz[row])} {red} {green} {blue} {points.error[row]:.4f} {track}"


def _numbers(values: NDArray[np.float64] | list[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
