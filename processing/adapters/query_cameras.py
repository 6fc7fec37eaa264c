"""Cameras that a data set states apart from its model: hloc's query lists, and the model that was made for training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, InputError
from d2s.geometry.camera import CAMERA_MODELS, format_camera, make_camera, parse_camera
from processing.adapters.base import DroppedImage
from processing.adapters.colmap_folders import read_model
from processing.adapters.folders import image_size
from processing.adapters.lists import ImageList, normal_name
from processing.adapters.sfm_layout import ModelFrames, scale_camera


def read_query_cameras(path: Path) -> dict[str, pycolmap.Camera]:
    """Image name -> camera of a list of lines `name MODEL W H p0 p1 ...`; lines with a name alone say nothing. Raises FormatError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise FormatError(f"Image list {path} is not a text file.", "Give a text file with one image name per line.") from None
    cameras = {}
    for number, line in enumerate(lines, start=1):
        name, *fields = line.split() or [""]
        if not fields or name.startswith("#") or fields[0] not in CAMERA_MODELS:
            continue
        try:
            cameras[normal_name(name)] = parse_camera(" ".join(fields))
        except InputError as error:
            raise FormatError(f"{path}:{number}: {error}") from None
    return cameras


def read_model_cameras(model: Path) -> dict[str, pycolmap.Camera]:
    """Image name -> camera of a COLMAP model."""
    reconstruction = read_model(model)
    return {image.name: reconstruction.cameras[image.camera_id] for image in reconstruction.images.values()}


def with_cameras(found: ModelFrames, cameras: Mapping[str, pycolmap.Camera]) -> ModelFrames:
    """The frames with other cameras for the images that `cameras` names (as the model or the disk does), scaled to the images' sizes."""
    of_file = dict(zip(found.renamed(cameras), cameras.values(), strict=True))
    made = dict(found.cameras)
    ids: dict[str, int] = {}
    frames = []
    for frame in found.frames:
        camera = of_file.get(frame.name)
        if camera is not None:
            path = found.image_dir / frame.name
            scaled = scale_camera(camera, image_size(path), path)
            index = ids.setdefault(format_camera(scaled), max(made) + 1)
            made[index] = make_camera(scaled.model.name, scaled.width, scaled.height, scaled.params, index)
            frame = replace(frame, camera_id=index)
        frames.append(frame)
    return replace(found, cameras=made, frames=tuple(frames))


def listed_but_missing(found: ModelFrames, lists: Iterable[ImageList]) -> list[DroppedImage]:
    """Names of the data set's own lists that neither the model nor the disk has: the lists were made before the model.

    A list of which no name is known is spelled otherwise, and left to the matching of names.
    """
    known = {frame.name for frame in found.frames} | {image.name for image in found.dropped}
    missing: dict[str, DroppedImage] = {}
    for listed in lists:
        if any(name in known for name in listed.names):
            reason = f"{Path(listed.source).name} names it, but the COLMAP model does not have it"
            missing |= {name: DroppedImage(name, reason) for name in listed.names if name not in known}
    return list(missing.values())
