"""Scenes of real photos in MegaDepth's layout, from what `d2s preprocess` left: SfM points with known poses become depth maps.

Between the points that a photo sees, inverse depth is interpolated over the triangles of their Delaunay triangulation, which is exact on
planes. Triangles that are too large, or whose corners are too far from each other in depth, stay without depth: a hole costs training
nothing, a wrong depth would be learnt.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pycolmap
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from d2s.d2net.megadepth import MegaDepthScene
from d2s.d2net.megadepth_undistort import read_model
from d2s.geometry.camera import pixels_from_colmap
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.manifest import Scene

MAX_ERROR = 2.0  # reprojection error of a point that counts, in pixels of the photo as it is
MIN_VIEWS = 3  # photos that see it
MAX_SIDE = 0.1  # longest side of a triangle, by the longer side of the photo
MAX_DEPTH_RATIO = 1.1  # of a triangle's farthest corner to its nearest
LEFT_OUT = 10  # every so many points are left out to see what the interpolation says there

Floats = NDArray[np.float64]


def make_scene(scene: MegaDepthScene, preprocessed: Path, names: list[str], longest: int) -> dict[str, float]:
    """Write both parts of the data set for photos of a preprocessed scene; gives how far interpolated depths are from those of points.

    `longest`: the longer side of the undistorted photos. Names lose their folders, as MegaDepth has none.
    """
    model = chosen_part(read_model(preprocessed / "sfm"), names)
    source = Scene.load(preprocessed).image_dir
    scene.source_images.mkdir(parents=True)
    scene.source_model.mkdir(parents=True)
    for image in model.images.values():
        shutil.copyfile(source / image.name, scene.source_images / flat(image.name))
        image.name = flat(image.name)
    model.write(scene.source_model)
    with tempfile.TemporaryDirectory() as folder:
        undistorted = undistort(scene, Path(folder), longest)
        shutil.copytree(Path(folder) / "images", scene.dense / "imgs")
    return write_depths(scene.dense / "depths", undistorted)


def flat(name: str) -> str:
    return name.replace("/", "_")


def chosen_part(model: pycolmap.Reconstruction, names: list[str]) -> pycolmap.Reconstruction:
    """Without the other photos, and without points that are not well known."""
    for key in [key for key, point in model.points3D.items() if point.error > MAX_ERROR or point.track.length() < MIN_VIEWS]:
        model.delete_point3D(key)
    for image in list(model.images.values()):
        if image.name not in names:
            model.deregister_frame(image.frame_id)
    return model


def undistort(scene: MegaDepthScene, folder: Path, longest: int) -> pycolmap.Reconstruction:
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = longest
    with quiet_colmap():
        pycolmap.undistort_images(folder, scene.source_model, scene.source_images, undistort_options=options)
    return read_model(folder / "sparse")


def write_depths(folder: Path, model: pycolmap.Reconstruction) -> dict[str, float]:
    folder.mkdir(parents=True)
    errors, shares = [], []
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        pixels, depths = seen_points(image, model)
        test = np.arange(len(pixels)) % LEFT_OUT == 0
        left_out = depth_map(pixels[~test], depths[~test], (camera.height, camera.width))
        columns, rows = np.round(pixels[test]).astype(int).clip(0, [camera.width - 1, camera.height - 1]).T
        known = left_out[rows, columns] > 0
        errors.append(np.abs(left_out[rows, columns] / depths[test] - 1)[known])
        depth = depth_map(pixels, depths, (camera.height, camera.width))
        shares.append(float((depth > 0).mean()))
        with h5py.File((folder / image.name).with_suffix(".h5"), "w") as file:
            file["depth"] = depth
    error = np.concatenate(errors)
    return {
        "photos": len(shares),
        "share_with_depth": float(np.mean(shares)),
        "left_out_points": len(error),
        "median_relative_error": float(np.median(error)),
        "share_within_5_percent": float(np.mean(error < 0.05)),
    }


def seen_points(image: pycolmap.Image, model: pycolmap.Reconstruction) -> tuple[Floats, Floats]:
    """Pixels (N, 2) of the points that a photo sees, and their depths (N,)."""
    points = [point for point in image.points2D if point.has_point3D()]
    pixels = pixels_from_colmap(np.array([point.xy for point in points]).reshape(-1, 2))
    world = np.array([model.points3D[point.point3D_id].xyz for point in points]).reshape(-1, 3)
    pose = image.cam_from_world().matrix()
    depths = world @ pose[2, :3] + pose[2, 3]
    return pixels[depths > 0], depths[depths > 0]


def depth_map(pixels: Floats, depths: Floats, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W), 0 where not known."""
    result = np.zeros(size, np.float32)
    try:
        triangles = Delaunay(pixels)
    except (QhullError, ValueError):
        return result  # fewer than three points, or all on a line
    columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    places = np.column_stack([columns.ravel(), rows.ravel()]).astype(np.float64)
    number = triangles.find_simplex(places)
    good = (number >= 0) & plausible(triangles, depths, MAX_SIDE * max(size))[number]
    corners = triangles.simplices[number[good]]
    transform = triangles.transform[number[good]]
    weights = np.einsum("nij,nj->ni", transform[:, :2], places[good] - transform[:, 2])
    weights = np.column_stack([weights, 1 - weights.sum(axis=1)])
    result.ravel()[good] = 1 / (weights / depths[corners]).sum(axis=1)
    return result


def plausible(triangles: Delaunay, depths: Floats, max_side: float) -> NDArray[np.bool_]:
    """Which triangles (T,) hold depth."""
    corners = triangles.points[triangles.simplices]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    around = depths[triangles.simplices]
    return (sides <= max_side) & (around.max(axis=1) <= MAX_DEPTH_RATIO * around.min(axis=1))
