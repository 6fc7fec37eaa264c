"""Undistorted photos and cameras of MegaDepth: the data set has depth maps of undistorted photos, but not their cameras.

COLMAP undistorts each scene again, with the largest side of the data set's own photos as limit; then sizes agree with the depth maps'.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pycolmap

from d2s.d2net.megadepth import MegaDepthScene
from d2s.errors import FormatError, InputError, MissingFileError, ReconstructionError
from d2s.features.images import IMAGE_SUFFIXES, image_size
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.atomic import atomic_path, remove_leftovers_of

log = logging.getLogger(__name__)


def undistort_scene(scene: MegaDepthScene, colmap: Path | None = None) -> str:
    """Make `Undistorted_SfM/SCENE`, whole or not at all; gives what was done: "undistorted", "present", or why the scene is left out.

    `colmap`: COLMAP's program; None: pycolmap, which does the same.
    """
    if (scene.undistorted / "sparse-txt" / "images.txt").is_file():
        return "present"
    photos = _photos(scene.dense / "imgs")
    for path, there in ((scene.source_model, scene.source_model.is_dir()), (scene.dense / "imgs", bool(photos))):
        if not there:
            return f"no {path}"
    remove_leftovers_of(scene.undistorted)
    largest = max(max(image_size(path)) for path in photos.values())
    with atomic_path(scene.undistorted) as temporary:
        temporary.mkdir()
        (_with_pycolmap if colmap is None else _with_program)(scene, temporary, largest, colmap)
    _report_sizes(scene, photos)
    return "undistorted"


def find_program(path: Path | None) -> Path | None:
    """COLMAP's program from --colmap_path: the program or its folder. Raises MissingFileError when there is none."""
    if path is None:
        return None
    program = path / "colmap" if path.is_dir() else path
    if not program.is_file():
        raise MissingFileError(f"--colmap_path: {program} does not exist.", "Leave the option out: pycolmap undistorts as well.")
    return program.resolve()


def _photos(folder: Path) -> dict[str, Path]:
    """Photos of the data set by name."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path for path in found if path.suffix.lower() in IMAGE_SUFFIXES}


def _with_pycolmap(scene: MegaDepthScene, target: Path, largest: int, _: Path | None) -> None:
    model = read_model(scene.source_model)
    names = [image.name for image in model.images.values() if (scene.source_images / image.name).is_file()]
    if len(names) < model.num_images():
        log.warning("Scene %s: %d of %d photos are missing.", scene.name, model.num_images() - len(names), model.num_images())
    if not names:
        raise MissingFileError(f"{scene.source_images} has none of the photos of {scene.source_model}.", "Unpack MegaDepth_v1_SfM whole.")
    options = pycolmap.UndistortCameraOptions()
    options.max_image_size = largest
    try:
        with quiet_colmap():
            pycolmap.undistort_images(target, scene.source_model, scene.source_images, names, undistort_options=options)
    except (ValueError, RuntimeError, LookupError) as error:
        raise ReconstructionError(f"COLMAP cannot undistort {scene.source_model}: {' '.join(str(error).split())[-200:]}") from None
    (target / "sparse-txt").mkdir()
    read_model(target / "sparse").write_text(target / "sparse-txt")


def _with_program(scene: MegaDepthScene, target: Path, largest: int, program: Path | None) -> None:
    paths = ["--image_path", scene.source_images, "--input_path", scene.source_model, "--output_path", target]
    _run([program, "image_undistorter", *paths, "--max_image_size", largest])
    (target / "sparse-txt").mkdir()
    paths = ["--input_path", target / "sparse", "--output_path", target / "sparse-txt"]
    _run([program, "model_converter", *paths, "--output_type", "TXT"])


def _run(command: list[object]) -> None:
    words = [str(word) for word in command]
    try:
        result = subprocess.run(words, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise InputError(f"{words[0]} cannot be started ({error.strerror}).", "Leave --colmap_path out: pycolmap undistorts too.") from None
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise ReconstructionError(f"{words[0]} {words[1]} failed ({result.returncode}): {lines[-1][:200]}")


def _report_sizes(scene: MegaDepthScene, photos: dict[str, Path]) -> None:
    """One line where undistorted photos have another size than the data set's: their depth maps cannot be used."""
    model = read_model(scene.undistorted / "sparse")
    common = [image for image in model.images.values() if image.name in photos]
    cameras = {image.name: model.cameras[image.camera_id] for image in common}
    others = [name for name, camera in cameras.items() if image_size(photos[name]) != (camera.width, camera.height)]
    if others:
        example = f"{others[0]}: {image_size(photos[others[0]])} there, ({cameras[others[0]].width}, {cameras[others[0]].height}) here"
        log.warning("Scene %s: %d of %d photos have another size than in MegaDepth (%s).", scene.name, len(others), len(common), example)


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """A COLMAP model, binary or text. Raises FormatError when it cannot be read."""
    try:
        with quiet_colmap():
            return pycolmap.Reconstruction(folder)
    except (ValueError, RuntimeError, LookupError) as error:
        raise FormatError(f"{folder} is no COLMAP model that can be read: {' '.join(str(error).split())[-200:]}") from None
