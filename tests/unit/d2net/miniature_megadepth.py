"""A MegaDepth of one scene that looks at a tilted, textured plane: every depth, pose and point is known exactly.

Traps: a camera with distortion, photos of two sizes, a photo without depth, one whose depth is a tiny mask, one that is missing, and names
with spaces.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import h5py
import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from d2s.d2net.megadepth import MegaDepthScene
from d2s.geometry.camera import project, unproject

NORMAL, DISTANCE = np.array([0.15, -0.1, 1.0]), 4.0
NAMES = ("a 0.jpg", "b1.jpg", "c2.jpg", "d3.jpg", "no depth.jpg", "mask.jpg", "missing.jpg")
WITH_DEPTH = 4
CAMERAS = {
    1: pycolmap.Camera(model="SIMPLE_RADIAL", width=144, height=112, params=[150, 72, 56, -0.06], camera_id=1),
    2: pycolmap.Camera(model="SIMPLE_PINHOLE", width=120, height=136, params=[140, 60, 68], camera_id=2),
}


def texture() -> np.ndarray:
    """A large picture with structure at several scales."""
    rng = np.random.default_rng(0)
    noise = [
        cv2.resize(rng.integers(0, 256, (side, side, 3)).astype(np.float32), (700, 700), interpolation=cv2.INTER_CUBIC)
        for side in (20, 50, 110)
    ]
    return np.clip(sum(noise) / 3 * 1.6 - 70, 0, 255).astype(np.uint8)


TEXTURE = texture()


def camera_id(number: int) -> int:
    return 2 if number == 2 else 1


def pose(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(100 + number)
    rotation = Rotation.from_euler("xyz", rng.uniform(-5, 5, 3), degrees=True).as_matrix()
    return rotation, -rotation @ np.array([0.14 * (number % 4) - 0.2, rng.uniform(-0.1, 0.1), rng.uniform(-0.2, 0.2)])


def plane_points(camera: pycolmap.Camera, number: int) -> tuple[np.ndarray, np.ndarray]:
    """World points and depths of all pixels of a photo."""
    rotation, translation = pose(number)
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.column_stack([unproject(camera, np.column_stack([columns.ravel(), rows.ravel()])), np.ones(columns.size)])
    depth = (DISTANCE + NORMAL @ rotation.T @ translation) / (rays @ rotation @ NORMAL)
    return (rays * depth[:, None] - translation) @ rotation, depth


def photo(camera: pycolmap.Camera, number: int) -> np.ndarray:
    points, _ = plane_points(camera, number)
    where = (points[:, :2] * 80 + 350).reshape(camera.height, camera.width, 2).astype(np.float32)
    return cv2.remap(TEXTURE, where, None, cv2.INTER_LINEAR)


def undistorted_camera(number: int) -> pycolmap.Camera:
    """The camera that MegaDepth's own undistortion has used."""
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = 144
    return pycolmap.undistort_camera(options, CAMERAS[camera_id(number)])


def make_megadepth(root: Path, name: str = "0000", points: int = 400) -> MegaDepthScene:
    """Write both parts of the data set."""
    scene = MegaDepthScene(root, name)
    for folder in (scene.source_model, scene.source_images, scene.dense / "imgs", scene.dense / "depths"):
        folder.mkdir(parents=True)
    for number, image in enumerate(NAMES):
        if image != "missing.jpg":
            cv2.imwrite(str(scene.source_images / image), photo(CAMERAS[camera_id(number)], number), [cv2.IMWRITE_JPEG_QUALITY, 97])
        camera = undistorted_camera(number)
        if number < WITH_DEPTH:
            cv2.imwrite(str(scene.dense / "imgs" / image), photo(camera, number))
        if number < WITH_DEPTH or image == "mask.jpg":
            depth = plane_points(camera, number)[1].reshape(camera.height, camera.width).astype(np.float32)
            with h5py.File((scene.dense / "depths" / image).with_suffix(".h5"), "w") as file:
                file["depth"] = depth if number < WITH_DEPTH else np.zeros((4, 4), np.float32)
    sfm_model(points).write(scene.source_model)
    return scene


def sfm_model(count: int) -> pycolmap.Reconstruction:
    """Points of the plane, each seen by all photos that it falls into, and by most of them only."""
    model = pycolmap.Reconstruction()
    for camera in CAMERAS.values():
        model.add_camera_with_trivial_rig(camera)
    rng = np.random.default_rng(1)
    xy = rng.uniform([-2.2, -1.8], [2.2, 1.8], (count, 2))
    xyz = np.column_stack([xy, (DISTANCE - xy @ NORMAL[:2]) / NORMAL[2]])
    tracks: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for number, name in enumerate(NAMES):
        rotation, translation = pose(number)
        camera = CAMERAS[camera_id(number)]
        pixels, _ = project(camera, xyz @ rotation.T + translation)
        inside = (pixels > 1).all(axis=1) & (pixels < np.array([camera.width, camera.height]) - 2).all(axis=1) & (rng.random(count) < 0.9)
        rows = np.flatnonzero(inside)
        for index, row in enumerate(rows.tolist()):
            tracks[row].append((number + 1, index))
        observed = pycolmap.Point2DList([pycolmap.Point2D(place) for place in pixels[rows] + 0.5])
        image = pycolmap.Image(name=name, camera_id=camera.camera_id, image_id=number + 1, points2D=observed)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), translation))
    for point, elements in zip(xyz, tracks, strict=True):
        if elements:
            track = pycolmap.Track()
            for image_id, index in elements:
                track.add_element(image_id, index)
            model.add_point3D(point, track)
    return model
