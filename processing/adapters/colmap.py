"""A folder with images and a COLMAP model, binary or text, with or without rigs and frames."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, parse_camera
from processing.adapters.assemble import Frame, assemble, refuse_gt, units_of
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.colmap_folders import Layout, find_layout, model_folders
from processing.adapters.folders import find_files, scene_folder
from processing.adapters.lists import own_lists

logger = logging.getLogger(__name__)

EXPECTED = "images (folder images/ or beside the model) and a COLMAP model (cameras, images and points3D as .bin or .txt) in sparse/0"


def load(options: AdapterOptions) -> SceneSource:
    """Images, cameras and poses of a COLMAP model.

    Units are "arbitrary" unless `options.extra["units"]` says "metres": a reconstruction from images has no scale of its own.
    `options.extra` may also name the model's folder ("model", relative to the scene's), that of the images ("image_dir") and the data set
    ("dataset_name"). Raises InputError and its kind for whatever is wrong with the data.
    """
    refuse_gt(options, "colmap")
    where = options.extra.get("model")
    folder = scene_folder(options, "colmap", lambda path: bool(model_folders(path, where)), EXPECTED)
    layout = _layout(folder, model_folders(folder, where), options)
    model, reconstruction, image_dir = layout.model, layout.reconstruction, layout.image_dir
    names = [image.name for image in reconstruction.images.values()]
    frames, dropped = _frames(reconstruction, image_dir, model)
    if image_dir != folder:
        dropped += [DroppedImage(name, "it is not in the COLMAP model") for name in sorted(set(find_files(image_dir)) - set(names))]
    if not frames:
        raise InputError(f"The model in {model} has no usable image; the first: {dropped[0].name}: {dropped[0].reason}.")
    return assemble(
        str(options.extra.get("dataset_name", "colmap")),
        options.scene or folder.resolve().name,
        image_dir,
        _cameras(reconstruction, model),
        frames,
        options,
        dropped=dropped,
        own_lists=own_lists(folder),
        units=units_of(options, "arbitrary"),
        provenance={"format": "colmap", "poses": f"COLMAP model {model.relative_to(folder)}", "units": _units_note(options)},
    )


def _units_note(options: AdapterOptions) -> str:
    return "as the user said" if options.extra.get("units") else "arbitrary: the scale of a reconstruction from images is unknown"


def _layout(folder: Path, models: list[Path], options: AdapterOptions) -> Layout:
    """The model to take and its images: the given ones, else the first that go together."""
    given = options.extra.get("image_dir")
    camera = None if options.camera is None else parse_camera(options.camera)
    layout = find_layout(folder, models, Path(given) if given else None, camera and (camera.width, camera.height))
    if len(models) > 1 and layout.model != models[0]:
        logger.info("The model in %s goes with the images in %s, not the one in %s.", layout.model, layout.image_dir, models[0])
    return layout


def _frames(reconstruction: pycolmap.Reconstruction, image_dir: Path, model: Path) -> tuple[list[Frame], list[DroppedImage]]:
    frames, dropped = [], []
    for image in reconstruction.images.values():
        if not image.has_pose:
            dropped.append(DroppedImage(image.name, "the model has no pose for it"))
        elif not (image_dir / image.name).is_file():
            dropped.append(DroppedImage(image.name, f"it is in the model, but not in {image_dir}"))
        else:
            frames.append(Frame(image.name, image.camera_id, model_pose(image, model)))
    return frames, dropped


def model_pose(image: pycolmap.Image, model: Path) -> NDArray[np.float64]:
    """cam_from_world (3, 4) of an image of the model in a folder. Raises FormatError naming both when it is not a pose."""
    cam_from_world = image.cam_from_world()
    try:
        if not np.linalg.norm(cam_from_world.rotation.quat) > 0.5:  # pycolmap turns 0 0 0 0 into the identity
            raise FormatError(f"{cam_from_world.rotation.quat.tolist()} is not a rotation quaternion.")
        return pose.from_matrix(cam_from_world.matrix())
    except (FormatError, np.linalg.LinAlgError) as error:
        raise FormatError(f"The pose of {image.name} in {model} is not valid: {error}") from None


def _cameras(reconstruction: pycolmap.Reconstruction, model: Path) -> dict[int, pycolmap.Camera]:
    """Copies of the model's cameras, checked."""
    try:
        return {
            index: make_camera(camera.model.name, camera.width, camera.height, camera.params, index)
            for index, camera in reconstruction.cameras.items()
        }
    except InputError as error:
        raise FormatError(f"A camera of the model in {model} cannot be used: {error}") from None
