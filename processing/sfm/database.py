"""COLMAP databases and empty models with our images, keypoints and matches in them.

pycolmap 3.13 and later want rigs and frames: one rig per camera, one frame per image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.geometry.camera import colmap_from_pixels
from d2s.scene.manifest import Scene, SceneImage

Pair = tuple[str, str]
Matches = Mapping[Pair, NDArray[np.int32]]


def image_ids(images: Iterable[SceneImage]) -> dict[str, int]:
    """COLMAP's image ids, 1 and up in the scene's order."""
    return {image.name: index for index, image in enumerate(images, start=1)}


def write_database(path: Path, scene: Scene, keypoints: Mapping[str, ArrayLike]) -> None:
    """A new database with the scene's cameras and images; keypoints (N, 2) in our pixels, so that points2D[i] is row i of the features."""
    with _open(path) as database, pycolmap.DatabaseTransaction(database):
        for camera_id, camera in scene.cameras.items():
            database.write_camera(_camera_with_id(camera, camera_id), use_camera_id=True)
            database.write_rig(_rig(camera_id, camera), use_rig_id=True)
        for entry, (name, image_id) in zip(scene.images, image_ids(scene.images).items(), strict=True):
            image = _image(entry, image_id, ())
            database.write_frame(_frame(image), use_frame_id=True)
            image.frame_id = image_id
            database.write_image(image, use_image_id=True)
            points = np.ascontiguousarray(colmap_from_pixels(np.asarray(keypoints[name], dtype=np.float64)), dtype=np.float32)
            database.write_keypoints(image_id, points)


def write_matches(path: Path, scene: Scene, matches: Matches) -> None:
    """Add matches that COLMAP has yet to verify."""
    ids = image_ids(scene.images)
    with _open(path) as database, pycolmap.DatabaseTransaction(database):
        for (name0, name1), rows in matches.items():
            database.write_matches(ids[name0], ids[name1], np.ascontiguousarray(rows, dtype=np.uint32))


def write_verified(path: Path, scene: Scene, matches: Matches) -> None:
    """Add matches that have been verified against known poses.

    The configuration must say CALIBRATED: COLMAP 4 skips a pair whose configuration is UNDEFINED, without a word.
    """
    ids = image_ids(scene.images)
    with _open(path) as database, pycolmap.DatabaseTransaction(database):
        for (name0, name1), rows in matches.items():
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = np.ascontiguousarray(rows, dtype=np.uint32)
            database.write_two_view_geometry(ids[name0], ids[name1], geometry)


def verified_counts(path: Path) -> dict[Pair, int]:
    """Matches of each pair of images that a two-view geometry explains, of the pairs that have some."""
    with _open(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        pair_ids, geometries = database.read_two_view_geometries()
    pairs = (pycolmap.pair_id_to_image_pair(pair_id) for pair_id in pair_ids)
    counts = zip(pairs, (len(geometry.inlier_matches) for geometry in geometries), strict=True)
    return {(names[first], names[second]): count for (first, second), count in counts if count}


def posed_model(scene: Scene, keypoints: Mapping[str, ArrayLike]) -> pycolmap.Reconstruction:
    """A model without points: the scene's cameras and its images at their known poses, ids as in the database."""
    model = pycolmap.Reconstruction()
    for camera_id, camera in scene.cameras.items():
        model.add_camera(_camera_with_id(camera, camera_id))
        model.add_rig(_rig(camera_id, camera))
    for entry, (name, image_id) in zip(scene.images, image_ids(scene.images).items(), strict=True):
        image = _image(entry, image_id, colmap_from_pixels(np.asarray(keypoints[name], dtype=np.float64)))
        frame = _frame(image)
        frame.rig_from_world = pycolmap.Rigid3d(entry.cam_from_world)
        model.add_frame(frame)
        image.frame_id = image_id
        model.add_image(image)
        model.register_frame(image_id)
    return model


@contextmanager
def _open(path: Path) -> Any:
    database = pycolmap.Database.open(str(path))
    try:
        yield database
    finally:
        database.close()


def _camera_with_id(camera: pycolmap.Camera, camera_id: int) -> pycolmap.Camera:
    copy = pycolmap.Camera(camera.todict())
    copy.camera_id = camera_id
    return copy


def _rig(camera_id: int, camera: pycolmap.Camera) -> pycolmap.Rig:
    rig = pycolmap.Rig(rig_id=camera_id)
    rig.add_ref_sensor(_camera_with_id(camera, camera_id).sensor_id)
    return rig


def _image(entry: SceneImage, image_id: int, points: ArrayLike) -> pycolmap.Image:
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return pycolmap.Image(name=entry.name, keypoints=points, camera_id=entry.camera_id, image_id=image_id)


def _frame(image: pycolmap.Image) -> pycolmap.Frame:
    frame = pycolmap.Frame(frame_id=image.image_id, rig_id=image.camera_id)
    frame.add_data_id(image.data_id)
    return frame
