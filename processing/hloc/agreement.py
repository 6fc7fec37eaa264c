"""Whether hloc's files belong to the scene and to each other: sizes, numbers, coordinates, frames of reference, file times."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.geometry import pose
from d2s.geometry.camera import format_camera
from d2s.scene.manifest import Scene
from processing.hloc.formats import HlocFeatures
from processing.hloc.precision import tolerance

logger = logging.getLogger(__name__)

STALE = "They are of different runs: run hloc again with overwrite (it keeps what it finds), or choose with --hloc_features, --hloc_sfm."
OTHER_FRAME = (0.05, 5.0)
"""Distance (of the scene's extent) and degrees from which poses are in another frame, or of other images."""
OTHER_TRUTH = (0.004, 0.25)
"""The same from which they look like another ground truth."""


def require_same_keypoints(name: str, path: Path, keypoints: NDArray[Any], image: pycolmap.Image, model: Path) -> float:
    """Row i of the features is points2D[i] of the model; gives the largest difference in pixels. Raises FormatError naming the image."""
    if image.num_points2D() != len(keypoints):
        raise FormatError(
            f"Image {name} has {len(keypoints)} keypoints in {path} and {image.num_points2D()} in {model}{_times(path, model)}.", STALE
        )
    if len(keypoints) == 0:
        return 0.0
    difference = np.abs(points2d(image) - (keypoints.astype(np.float64) + 0.5))
    wrong = (difference > tolerance(keypoints)).any(axis=1)
    if bool(wrong.any()):
        row = int(np.argmax(difference.max(axis=1) * wrong))
        raise FormatError(
            f"Image {name}: keypoint {row} lies {difference[row].max():.2f} px apart in {path} and {model} ({int(wrong.sum())} of "
            f"{len(keypoints)} keypoints differ){_times(path, model)}.",
            STALE,
        )
    return float(difference.max())


def points2d(image: pycolmap.Image) -> NDArray[np.float64]:
    """Coordinates (N, 2) of an image's keypoints, COLMAP's pixels."""
    return np.array([point.xy for point in image.points2D], dtype=np.float64).reshape(-1, 2)


def _times(path: Path, model: Path) -> str:
    """Which of the two is newer, where that helps."""
    images = next((p for p in (model / "images.bin", model / "images.txt") if p.is_file()), model)
    return " (the feature file is newer than the model)" if path.stat().st_mtime > images.stat().st_mtime else ""


def require_image_sizes(reader: HlocFeatures, scene: Scene, hloc_name: Mapping[str, str]) -> None:
    """Raise FormatError, naming the first image, where features are of images of another size than the scene's."""
    for image in scene.images:
        camera = scene.camera(image)
        if image.name in hloc_name and (size := reader.image_size(hloc_name[image.name])) != (camera.width, camera.height):
            raise FormatError(
                f"{reader.path}: image {hloc_name[image.name]} was {size[0]}x{size[1]}, the scene's is {camera.width}x{camera.height}.",
                "hloc must run on the images of --dataset_dir; extract again with overwrite.",
            )


def warn_of_newer_images(path: Path, scene: Scene) -> None:
    """Say so where image files were written after the features."""
    made = path.stat().st_mtime
    newer = [image.name for image in scene.images if scene.path(image).stat().st_mtime > made]
    if newer:
        logger.warning("%d images are newer than %s (%s, for example): if they changed, extract again.", len(newer), path, newer[0])


def warn_of_other_cameras(scene: Scene, queries: Mapping[str, pycolmap.Camera], where: Path) -> None:
    """Say so where hloc localizes a query with another camera than the scene gives it: by 0.5 % of the focal length, size or model."""
    for image in scene.split("test"):
        ours, theirs = scene.camera(image), queries.get(image.name)
        if theirs is None:
            continue
        same = (ours.width, ours.height, ours.model) == (theirs.width, theirs.height, theirs.model)
        if not same or abs(ours.mean_focal_length() / theirs.mean_focal_length() - 1) > 0.005:
            logger.warning(
                "%s gives query %s the camera %s, the data set %s; the data set's is used.",
                where, image.name, format_camera(theirs), format_camera(ours),
            )  # fmt: skip
            return


def with_sfm_poses(scene: Scene, model: pycolmap.Reconstruction, hloc_name: Mapping[str, str], where: Path) -> Scene:
    """The scene with the model's poses and cameras for the mapping images that it holds: its points agree with those.

    Raises InputError where the model is in another frame than the scene's poses: labels would be in the one, queries judged in the other.
    """
    images = {image.name: image for image in model.images.values() if image.has_pose}
    found = {name: images[other] for name, other in hloc_name.items() if other in images}
    mapping = [image for image in scene.split("train", "val") if image.name in found]
    _require_same_frame([(image.cam_from_world, found[image.name].cam_from_world().matrix()) for image in mapping], where)
    return replace_views(scene, model, {image.name: found[image.name] for image in mapping})


def replace_views(scene: Scene, model: pycolmap.Reconstruction, found: Mapping[str, pycolmap.Image]) -> Scene:
    """The scene with poses and cameras of the given images of a model, by our name."""
    cameras = dict(scene.cameras)
    known = {format_camera(camera): index for index, camera in reversed(cameras.items())}
    changed = []
    for image in scene.images:
        other = found.get(image.name)
        if other is None:
            changed.append(image)
            continue
        camera = model.cameras[other.camera_id]
        _require_camera_size(image.name, scene.camera(image), camera)
        index = known.setdefault(format_camera(camera), max(cameras) + 1)
        cameras.setdefault(index, camera)
        changed.append(replace(image, camera_id=index, cam_from_world=pose.from_matrix(other.cam_from_world().matrix())))
    return replace(scene, cameras=cameras).with_images(changed)


def _require_camera_size(name: str, ours: pycolmap.Camera, theirs: pycolmap.Camera) -> None:
    if (ours.width, ours.height) != (theirs.width, theirs.height):
        raise FormatError(
            f"The model's camera of image {name} is for {theirs.width}x{theirs.height} images, the image has {ours.width}x{ours.height}.",
            "hloc's models must be scaled to the original images, as its Cambridge pipeline does (sfm_sift_scaled).",
        )


def _require_same_frame(poses: Iterable[tuple[NDArray[np.float64] | None, NDArray[np.float64]]], where: Path) -> None:
    known = [(ours, theirs) for ours, theirs in poses if ours is not None]
    if not known:
        return
    errors = np.array([pose.pose_error(theirs, ours) for ours, theirs in known])
    extent = max(float(np.linalg.norm(np.ptp(pose.center(np.stack([ours for ours, _ in known])), axis=0))), 1e-9)
    distance, angle = np.median(errors, axis=0).tolist()
    differ = f"The poses of {where} differ from the data set's by {distance:.3g} (scene {extent:.3g}) and {angle:.2f} deg in the median"
    if distance > OTHER_FRAME[0] * extent or angle > OTHER_FRAME[1]:
        raise InputError(
            f"{differ}: it is a reconstruction in a frame of its own, or of other images.",
            "Triangulate at the data set's poses (hloc.triangulation), or check --gt, --scene and --hloc_sfm.",
        )
    if distance > OTHER_TRUTH[0] * extent or angle > OTHER_TRUTH[1]:
        logger.warning("%s: is it another ground truth than --gt? Mapping images take the model's poses.", differ)
