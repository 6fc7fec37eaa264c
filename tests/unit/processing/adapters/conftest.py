"""Miniature places with known geometry, from which the tests write data sets in every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.scene.manifest import Scene


@dataclass(frozen=True)
class View:
    """A camera in the world: its centre and its axes, which is all that the expected pixels are computed from."""

    center: np.ndarray
    right: np.ndarray
    down: np.ndarray
    forward: np.ndarray

    @property
    def world_from_cam(self) -> np.ndarray:
        """4x4, axes right, down, forward."""
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([self.right, self.down, self.forward, self.center])
        return matrix

    @property
    def world_from_gl(self) -> np.ndarray:
        """4x4, OpenGL axes right, up, backward."""
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([self.right, -self.down, -self.forward, self.center])
        return matrix

    def colmap_fields(self) -> str:
        """`qw qx qy qz tx ty tz`, world to camera."""
        qvec, tvec = pose.to_qvec_tvec(np.linalg.inv(self.world_from_cam)[:3])
        return " ".join(repr(float(v)) for v in (*qvec, *tvec))

    def pixels(self, points: np.ndarray, fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
        """Where a pinhole camera sees the points; (cx, cy) in COLMAP's convention, the result in ours (top-left pixel centre at 0)."""
        rays = points - self.center
        depth = rays @ self.forward
        return np.column_stack([fx * (rays @ self.right) / depth + cx - 0.5, fy * (rays @ self.down) / depth + cy - 0.5])


@dataclass(frozen=True)
class Miniature:
    """Points around the origin and cameras that look at them from all sides."""

    points: np.ndarray
    views: tuple[View, ...]

    def assert_reprojects(
        self, scene: Scene, view_of: dict[str, View], intrinsics_of: Callable[[str], tuple[float, float, float, float]]
    ) -> None:
        """Every image of the scene sees the points where its view says, to a hundredth of a pixel."""
        assert {image.name for image in scene.images} == set(view_of)
        for image in scene.images:
            found, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, self.points))
            expected = view_of[image.name].pixels(self.points, *intrinsics_of(image.name))
            assert in_front.all(), image.name
            np.testing.assert_allclose(found, expected, atol=1e-2, err_msg=image.name)


def look_at(center: np.ndarray, target: np.ndarray) -> View:
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.1, 0.2, 1.0])
    right /= np.linalg.norm(right)
    return View(center, right, np.cross(forward, right), forward)


@pytest.fixture
def miniature() -> Miniature:
    random = np.random.default_rng(3)
    angles = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    centers = np.column_stack([4 * np.cos(angles), 5 * np.sin(angles), random.uniform(-1, 1, len(angles))])
    views = tuple(look_at(center, random.uniform(-0.3, 0.3, 3)) for center in centers)
    return Miniature(random.uniform(-1, 1, (20, 3)), views)


@pytest.fixture
def write_image() -> Callable[..., None]:
    def write(path: Path, size: tuple[int, int] = (64, 48), **options) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 60)).save(path, **options)

    return write


@pytest.fixture
def write_seven_scenes(miniature, write_image) -> Callable[..., dict[str, View]]:
    """Writes SCENE with seq-01 (6 frames) and seq-02 (4 frames); gives the view of every image."""

    def write(folder: Path, suffix: str = "png") -> dict[str, View]:
        view_of = {}
        for index, view in enumerate(miniature.views):
            stem = f"seq-{1 + index // 6:02d}/frame-{index % 6:06d}"
            write_image(folder / f"{stem}.color.{suffix}", (640, 480))
            np.savetxt(folder / f"{stem}.pose.txt", view.world_from_cam, delimiter="\t")
            view_of[f"{stem}.color.{suffix}"] = view
        return view_of

    return write
