"""Which camera took a photo: the one that was named, one of the mapping images', or what the photo's header says; else nobody knows.

An unknown camera is no error: its focal length is then estimated with the pose (`d2s.localization.focal`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping

import numpy as np
import pycolmap

from d2s.features.exif import read_focal
from d2s.geometry.camera import format_camera, make_camera, parse_camera
from d2s.geometry.image import TWO_FOCALS, resize

logger = logging.getLogger(__name__)

Size = tuple[int, int]
SAME_LENS = 0.1
"""Focal lengths in EXIF data are rounded, and cameras breathe: up to this relative difference they are the same lens."""
SAME_EXIF = 0.01
"""Photos of one device whose EXIF data name focal lengths that are this close were taken with the same lens and zoom."""
PHOTO_BY_PHOTO, SAME_DEVICE = 5, 0.05
"""So many cameras, of one size and with focal lengths that differ from the middle one by so little, are one that was calibrated anew with
every photo, as COLMAP does unless it is told otherwise. So many that differ by more, or in size, are anybody's: they say nothing about the
next photo."""
MOST_SAID = 100
"""Lines that are said at most: a service sees images of any size."""


class CameraChooser:
    """Cameras for images of any size. `given`: the one that was named; `known`: those of the mapping images; `exif`: for some of these, the
    focal length in the EXIF data of their photos, which need not be the right one.

    Without a named one: a mapping camera of the image's size, or scaled to it or turned by a quarter where the sides fit so, unless the
    photo's EXIF data names another focal length than theirs; then a camera with that one. Of a camera calibrated photo by photo, the
    middle one is taken. What was chosen is said in one line when it is not obvious.
    """

    def __init__(self, given: pycolmap.Camera | None, known: Iterable[str], exif: Mapping[str, float] | None = None) -> None:
        self.given, self.exif = given, dict(exif or {})
        self.known = [parse_camera(text) for text in sorted(set(known))]
        self._said: set[str] = set()

    def choose(self, size: Size, photo: str | os.PathLike[str] | bytes | None = None) -> pycolmap.Camera | None:
        """The camera of an image of `size` (width, height), None where it is unknown; `photo`: its file or bytes, whose header may help."""
        if self.given is not None:
            return self.given
        focal = None if photo is None else read_focal(photo, size)
        candidates = self._candidates(size)
        if focal is not None:
            return self._by_focal(candidates, focal, size)
        middle = self._middle(candidates)
        if middle is None:
            self._say(f"Camera of images of {size[0]}x{size[1]} pixels: unknown; its focal length is estimated with each pose")
            return None
        if len(candidates) == 1:
            return self._say_scaled(middle, size)
        self._say(f"Camera of images of {size[0]}x{size[1]} pixels: the middle one of the {len(candidates)} there: {format_camera(middle)}")
        return middle

    def _candidates(self, size: Size) -> list[pycolmap.Camera]:
        """The mapping images' cameras for a size, or theirs that can be scaled to it."""
        exact = [camera for camera in self.known if (camera.width, camera.height) == size]
        alike = exact or _distinct(scaled(camera, size) for camera in self.known if same_shape(camera, size))
        return alike or _distinct(scaled(turned(camera), size) for camera in self.known if same_shape(turned(camera), size))

    def _middle(self, candidates: list[pycolmap.Camera]) -> pycolmap.Camera | None:
        """The only candidate, or the one whose focal length is in the middle where all are nearly the same."""
        if len(candidates) == 1 and not self._mixed():
            return candidates[0]
        ordered = sorted(candidates, key=lambda camera: camera.mean_focal_length())
        if len(ordered) < PHOTO_BY_PHOTO or _spread(camera.mean_focal_length() for camera in ordered) > SAME_DEVICE:
            return None
        return ordered[len(ordered) // 2]

    def _mixed(self) -> bool:
        """Whether the mapping images are a collection of many devices."""
        focals: dict[Size, list[float]] = {}
        for camera in self.known:
            focals.setdefault((camera.width, camera.height), []).append(camera.mean_focal_length())
        return sum(1 if _spread(same) <= SAME_DEVICE else len(same) for same in focals.values()) >= PHOTO_BY_PHOTO

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
            alike = [other for other in self.known if same_shape(other, size)]
            how, of = ("scaled", alike) if alike else ("turned", [other for other in self.known if same_shape(turned(other), size)])
            source = ", ".join(sorted({f"{other.width}x{other.height}" for other in of}))
            self._say(
                f"Camera of images of {size[0]}x{size[1]} pixels: the mapping images' one, {how} from {source}: {format_camera(camera)}"
            )
        return camera

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < MOST_SAID:
            self._said.add(text)
            logger.warning("%s", text)


def same_shape(camera: pycolmap.Camera, size: Size) -> bool:
    """Whether images of this camera, resized, can have this size: sides in the same ratio, up to a pixel."""
    return abs(camera.height * size[0] / camera.width - size[1]) <= 1


def scaled(camera: pycolmap.Camera, size: Size) -> pycolmap.Camera:
    """The camera of its images resized to `size` (width, height)."""
    return resize((camera.width, camera.height), size).apply_camera(camera)


def turned(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The camera of its images turned by a quarter, to whichever side: what differs between the two is left in the middle.

    That are the principal point and tangential distortion. Models with coefficients beside those of radial distortion lose them.
    """
    size, focals = (camera.height, camera.width), np.array(camera.params)[list(camera.focal_length_idxs())][::-1]
    extra = np.array(camera.params)[list(camera.extra_params_idxs())]
    if camera.model.name == "OPENCV":
        extra[2:] = 0.0
    elif camera.model.name not in ("OPENCV_FISHEYE", "PINHOLE", "FISHEYE", "DIVISION", *TWO_FOCALS):
        return make_camera("PINHOLE", *size, [*np.resize(focals, 2), size[0] / 2, size[1] / 2])
    return make_camera(camera.model.name, *size, [*focals, size[0] / 2, size[1] / 2, *extra])


def _spread(values: Iterable[float]) -> float:
    """Largest relative distance from the middle one."""
    ordered = sorted(values)
    return max(abs(value / ordered[len(ordered) // 2] - 1) for value in ordered)


def _distinct(cameras: Iterable[pycolmap.Camera]) -> list[pycolmap.Camera]:
    return list({format_camera(camera): camera for camera in cameras}.values())
