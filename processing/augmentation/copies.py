"""What the copies of a training image are: which light, which view, which camera and which pose, drawn for each copy by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.features.images import read_image
from d2s.geometry.camera import make_camera
from d2s.geometry.views import CameraView, Homography, View
from d2s.scene.manifest import Scene, SceneImage
from processing.augmentation.light import change_light, generator_of

ROLL_DEG, TILT_DEG, ZOOM = 30.0, 15.0, (0.75, 1.5)
"""Largest turn about the optical axis and away from it, in degrees; factors of the focal length."""

CORNER = 0.2
"""How far a homography moves a corner, at most, as a share of the image's sides (torchvision's distortion 0.4, as published)."""

HOMOGRAPHIES = 0.25
"""Share of the copies with another view that have a general homography, and so no camera."""

LABELS = ("warp", "match")


@dataclass(frozen=True)
class AugmentOptions:
    """What the user can choose. `copies` of each training image; `views`: the share of them that gets another view, not only other light
    (published: 0.4); `labels`: from the exact warp, or by matching with the source image, as published.

    tolerance_px: how far a keypoint of a copy, taken back, may be from the keypoint whose label it gets. max_error_px: how far from the
    label's projection. clear_px: a keypoint with no point of the map within this distance is a negative. All in pixels of the image that
    the features are detected on: the source image, shrunk where the features say so.
    """

    copies: int = 1
    views: float = 0.4
    labels: str = "warp"
    keep_images: bool = False
    seed: int = 0
    tolerance_px: float = 1.5
    max_error_px: float = 4.0
    clear_px: float = 4.0

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 100:
            raise InputError(f"The number of augmented copies of an image must be from 1 to 100, not {self.copies}.")
        if self.labels not in LABELS:
            raise InputError(f"Labels of augmented copies come by {' or '.join(LABELS)}, not {self.labels!r}.")
        if not 0 <= self.views <= 1:
            raise InputError(f"The share of augmented copies with another view must be from 0 to 1, not {self.views}.")


@dataclass(frozen=True)
class Copy:
    """One copy: `view` is None where only the light is another; `camera` and `cam_from_world` are None where there is no exact camera."""

    name: str
    source: SceneImage
    view: View | None
    camera: pycolmap.Camera | None
    cam_from_world: NDArray[np.float64] | None
    seed: int

    @property
    def kind(self) -> str:
        """light, view or homography."""
        return "light" if self.view is None else "view" if isinstance(self.view, CameraView) else "homography"

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The copy's pixels."""
        changed = image if self.view is None else self.view.apply_image(image)
        return change_light(changed, generator_of(self.seed, "light", self.name))


def copies_of(scene: Scene, image: SceneImage, options: AugmentOptions) -> list[Copy]:
    """The copies of one training image: a pure function of its name, its camera and the options."""
    return [_copy(scene, image, index, options) for index in range(options.copies)]


def read_copy(scene: Scene, copy: Copy) -> NDArray[np.uint8]:
    """The pixels of a copy, from the source image's file. Raises InputError naming the file."""
    path = scene.path(copy.source)
    image, camera = read_image(path), scene.camera(copy.source)
    if image.shape[1::-1] != (camera.width, camera.height):
        raise InputError(f"Image {path} has {image.shape[1]}x{image.shape[0]} pixels, its camera {camera.width}x{camera.height}.")
    return copy.apply(image)


def copy_name(name: str, index: int) -> str:
    """`a/b.copy0.jpg` for `a/b.jpg`."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}.copy{index}{path.suffix}"))


def _copy(scene: Scene, image: SceneImage, index: int, options: AugmentOptions) -> Copy:
    name, camera = copy_name(image.name, index), scene.camera(image)
    random = generator_of(options.seed, "view", name)
    if random.random() >= options.views:
        return Copy(name, image, None, camera, image.cam_from_world, options.seed)
    if random.random() < HOMOGRAPHIES:
        return Copy(name, image, _homography(camera, random), None, None, options.seed)
    view = _camera_view(camera, random)
    placed = None if image.cam_from_world is None else view.apply_pose(image.cam_from_world)
    return Copy(name, image, view, view.target, placed, options.seed)


def _camera_view(camera: pycolmap.Camera, random: np.random.Generator) -> CameraView:
    """A camera that rolls, tilts in any direction and zooms, with the lens and the size of the source."""
    roll, direction = np.radians(random.uniform(-ROLL_DEG, ROLL_DEG)), random.uniform(0, 2 * np.pi)
    tilt, zoom = np.radians(random.uniform(0, TILT_DEG)), float(np.exp(random.uniform(*np.log(ZOOM))))
    about_axis = cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
    away = cv2.Rodrigues(tilt * np.array([np.cos(direction), np.sin(direction), 0.0]))[0]
    params = np.array(camera.params)
    params[list(camera.focal_length_idxs())] *= zoom
    target = make_camera(camera.model.name, camera.width, camera.height, params, camera.camera_id)
    return CameraView(camera, target, np.asarray(about_axis @ away, dtype=np.float64))


def _homography(camera: pycolmap.Camera, random: np.random.Generator) -> Homography:
    """A quadrilateral of the source, each corner moved inwards by itself, that fills the copy: no black borders."""
    size = (camera.width, camera.height)
    inwards = random.uniform(0, CORNER, (4, 2)) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    corners = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + inwards) * (np.array(size) - 1.0)
    return Homography.from_corners(size, corners)
