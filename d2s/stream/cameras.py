"""Which camera took a frame: the one that was named, one of the mapping images', or what the photo's header says."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import pycolmap

from d2s.errors import InputError
from d2s.features.exif import read_photo
from d2s.geometry.camera import format_camera, make_camera, parse_camera
from d2s.geometry.image import resize

logger = logging.getLogger(__name__)

Size = tuple[int, int]
SAME_LENS = 0.1
"""Focal lengths in EXIF data are rounded, and cameras breathe: up to this relative difference they are the same lens."""
SAME_EXIF = 0.01
"""Photos of one device whose EXIF data name focal lengths that are this close were taken with the same lens and zoom."""
PHOTO_BY_PHOTO, SAME_DEVICE = 5, 0.05
"""So many cameras, of one size and with focal lengths that differ from the middle one by so little, are one that was calibrated anew with
every photo, as COLMAP does unless it is told otherwise."""


class CameraChooser:
    """Cameras for images of any size. `given`: the one that was named; `known`: those of the mapping images; `exif`: for some of these, the
    focal length in the EXIF data of their photos, which need not be the right one.

    Without a named one: a mapping camera of the image's size, or scaled to it where the ratio of the sides is equal, unless the photo's
    EXIF data names another focal length than theirs; then a camera with that one. Of a camera calibrated photo by photo, the middle one
    is taken. What was chosen is said in one line when it is not obvious.
    """

    def __init__(self, given: pycolmap.Camera | None, known: Iterable[str], exif: Mapping[str, float] | None = None) -> None:
        self.given, self.exif = given, dict(exif or {})
        self.known = [parse_camera(text) for text in sorted(set(known))]
        self._said: set[str] = set()

    def choose(self, size: Size, path: Path | None = None) -> pycolmap.Camera:
        """The camera of an image of `size` (width, height); `path`: its file, whose header may help. Raises InputError when none fits."""
        if self.given is not None:
            return self.given
        focal = None if path is None else read_photo(path).focal
        candidates = self._candidates(size)
        if focal is not None:
            return self._by_focal(candidates, focal, size)
        middle = self._middle(candidates)
        if middle is None:
            raise self._no_choice(candidates, size)
        if len(candidates) == 1:
            return self._say_scaled(middle, size)
        self._say(f"Camera of images of {size[0]}x{size[1]} pixels: the middle one of the {len(candidates)} there: {format_camera(middle)}")
        return middle

    def knows(self, size: Size) -> bool:
        """Whether the mapping images tell the camera of an image of `size` (width, height) that has no EXIF data."""
        return self.given is not None or self._middle(self._candidates(size)) is not None

    def _candidates(self, size: Size) -> list[pycolmap.Camera]:
        """The mapping images' cameras for a size, or theirs that can be scaled to it."""
        exact = [camera for camera in self.known if (camera.width, camera.height) == size]
        return exact or _distinct(scaled(camera, size) for camera in self.known if same_shape(camera, size))

    def _middle(self, candidates: list[pycolmap.Camera]) -> pycolmap.Camera | None:
        """The only candidate, or the one whose focal length is in the middle where all are nearly the same."""
        if len(candidates) == 1:
            return candidates[0]
        ordered = sorted(candidates, key=lambda camera: camera.mean_focal_length())
        if not ordered or len(self.known) < PHOTO_BY_PHOTO:
            return None
        middle = ordered[len(ordered) // 2]
        within = all(abs(camera.mean_focal_length() / middle.mean_focal_length() - 1) <= SAME_DEVICE for camera in ordered)
        return middle if within else None

    def _by_focal(self, candidates: list[pycolmap.Camera], focal: float, size: Size) -> pycolmap.Camera:
        """The mapping camera with this focal length, which knows its distortion too; else a camera that knows nothing but it."""
        same = self._same_exif(focal, size)
        if same is not None:
            return self._say_scaled(same, size)
        fitting = [camera for camera in candidates if abs(camera.mean_focal_length() / focal - 1) <= SAME_LENS]
        if fitting:
            return self._say_scaled(min(fitting, key=lambda camera: abs(camera.mean_focal_length() / focal - 1)), size)
        camera = make_camera("SIMPLE_PINHOLE", *size, [focal, size[0] / 2, size[1] / 2])
        self._say(f"Camera of images of {size[0]}x{size[1]} pixels, from EXIF: {format_camera(camera)}")
        return camera

    def _same_exif(self, focal: float, size: Size) -> pycolmap.Camera | None:
        """The camera of mapping photos whose EXIF data said the same: if that is wrong, it is wrong here, too."""
        named = [(camera, self.exif.get(format_camera(camera), 0.0) * size[0] / camera.width) for camera in self.known]
        same = [camera for camera, value in named if same_shape(camera, size) and abs(value / focal - 1) <= SAME_EXIF]
        fitted = [camera if (camera.width, camera.height) == size else scaled(camera, size) for camera in same]
        return min(fitted, key=lambda camera: abs(camera.mean_focal_length() / focal - 1), default=None)

    def _say_scaled(self, camera: pycolmap.Camera, size: Size) -> pycolmap.Camera:
        if not any((other.width, other.height) == size for other in self.known):
            source = ", ".join(sorted({f"{other.width}x{other.height}" for other in self.known if same_shape(other, size)}))
            self._say(
                f"Camera of images of {size[0]}x{size[1]} pixels: the mapping images' one, scaled from {source}: {format_camera(camera)}"
            )
        return camera

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)

    def _no_choice(self, candidates: list[pycolmap.Camera], size: Size) -> InputError:
        of_size = f"the image of {size[0]}x{size[1]} pixels"
        remedy = f"Say which one took {of_size}, with --camera."
        if candidates:
            problem = f"The mapping images of this model have {len(candidates)} cameras for {size[0]}x{size[1]} pixels."
            return InputError(problem, f"{remedy} One of them: --camera '{format_camera(candidates[0])}'.")
        if not self.known:
            return InputError("The mapping images of this model have no known cameras, and the image has no focal length in EXIF.", remedy)
        shapes = ", ".join(sorted({f"{camera.width}x{camera.height}" for camera in self.known}))
        return InputError(
            f"The image has {size[0]}x{size[1]} pixels, the mapping images {shapes}: another shape, so another camera.", remedy
        )


def same_shape(camera: pycolmap.Camera, size: Size) -> bool:
    """Whether images of this camera, resized, can have this size: sides in the same ratio, up to a pixel."""
    return abs(camera.height * size[0] / camera.width - size[1]) <= 1


def scaled(camera: pycolmap.Camera, size: Size) -> pycolmap.Camera:
    """The camera of its images resized to `size` (width, height)."""
    return resize((camera.width, camera.height), size).apply_camera(camera)


def _distinct(cameras: Iterable[pycolmap.Camera]) -> list[pycolmap.Camera]:
    return list({format_camera(camera): camera for camera in cameras}.values())
