"""The last steps that all adapters share: splits, intrinsics given by the user, checks, and the SceneSource."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.geometry.camera import parse_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import image_size
from processing.adapters.lists import ImageList, assign_splits

logger = logging.getLogger(__name__)

UNITS = ("metres", "arbitrary")


@dataclass(frozen=True)
class Frame:
    """An image as an adapter found it: name relative to the image folder, camera, (3, 4) cam_from_world or None."""

    name: str
    camera_id: int
    cam_from_world: NDArray[np.float64] | None


def assemble(
    dataset: str,
    name: str,
    image_dir: Path,
    cameras: Mapping[int, pycolmap.Camera],
    frames: Sequence[Frame],
    options: AdapterOptions,
    *,
    dropped: Sequence[DroppedImage] = (),
    own_lists: Mapping[str, ImageList] | None = None,
    units: str = "metres",
    provenance: Mapping[str, Any] | None = None,
) -> SceneSource:
    """Split the frames, apply `--camera`, check image sizes and give the SceneSource.

    Raises InputError for wrong lists, a camera that does not fit an image, or when no training image is left.
    """
    frames = sorted(frames, key=lambda frame: frame.name)
    cameras, frames = _with_given_camera(cameras, frames, options)
    known = [frame.name for frame in frames] + [image.name for image in dropped]
    splits = assign_splits([frame.name for frame in frames], known, options, own_lists)
    unlisted = tuple(DroppedImage(frame.name, "named by no image list") for frame in frames if frame.name not in splits)
    images = tuple(SceneImage(f.name, f.camera_id, f.cam_from_world, splits[f.name]) for f in frames if f.name in splits)
    scene = Scene(dataset, name, image_dir, dict(cameras), images, units, provenance=dict(provenance or {})).with_images(images)
    _check(scene, len(frames), len(dropped))
    return SceneSource(scene, dropped=(*dropped, *unlisted))


def _with_given_camera(
    cameras: Mapping[int, pycolmap.Camera], frames: Sequence[Frame], options: AdapterOptions
) -> tuple[Mapping[int, pycolmap.Camera], list[Frame]]:
    if options.camera is None:
        return cameras, list(frames)
    return {1: parse_camera(options.camera)}, [replace(frame, camera_id=1) for frame in frames]


def _check(scene: Scene, num_frames: int, num_dropped: int) -> None:
    if not scene.split("train"):
        raise InputError(
            f"No training image is left in {scene.image_dir}: {num_frames} usable images, {num_dropped} dropped.",
            "Give more images, or correct the lists (--list_train, --list_test).",
        )
    if not scene.split("test"):
        logger.warning("%s has no query image: it can be mapped, but not evaluated.", scene.name)
    for image in scene.images:
        check_size(scene.path(image), scene.camera(image))


def check_size(path: Path, camera: pycolmap.Camera) -> None:
    """Raise InputError when an image does not have the size that its camera is for."""
    width, height = image_size(path)
    if (width, height) != (camera.width, camera.height):
        raise InputError(
            f"{path} is {width}x{height}, but its camera is for {camera.width}x{camera.height} images.",
            "Use the images that the camera was calibrated with, or give --camera for these.",
        )


def units_of(options: AdapterOptions, default: str) -> str:
    """The scene's unit: what the user said (`extra["units"]`), else the format's default."""
    units = str(options.extra.get("units") or default)
    if units not in UNITS:
        raise InputError(f"Unknown unit {units!r}.", f"Choose one of: {', '.join(UNITS)}.")
    return units


def refuse_gt(options: AdapterOptions, dataset: str) -> None:
    """Raise InputError when a pseudo ground truth is asked for where the format has one set of poses only."""
    if options.gt != "original" or options.gt_file is not None:
        remedy = "They belong to 7scenes, 12scenes and Cambridge; leave them out."
        raise InputError(f"--gt {options.gt} / --gt_file do not apply to --dataset {dataset}.", remedy)
