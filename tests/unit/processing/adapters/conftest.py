"""Miniature places with known geometry, from which the tests write data sets in every format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
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


@dataclass(frozen=True)
class Radial:
    """A SIMPLE_RADIAL camera as a test writes it: size and f, cx, cy, k, the pixels in COLMAP's convention."""

    size: tuple[int, int]
    params: tuple[float, float, float, float]

    def pixels(self, view: View, points: np.ndarray, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
        """Where the camera sees the points in an image resized by `scale` (x, y); in our convention, top-left pixel centre at 0."""
        f, cx, cy, k = self.params
        rays = points - view.center
        normalised = np.column_stack([rays @ view.right, rays @ view.down]) / (rays @ view.forward)[:, None]
        bent = normalised * (1 + k * (normalised**2).sum(axis=1, keepdims=True))
        return (f * bent + [cx, cy]) * scale - 0.5


@pytest.fixture
def radial() -> type[Radial]:
    """The class, for tests that make cameras."""
    return Radial


@pytest.fixture
def write_sfm_model(miniature) -> Callable[..., None]:
    """Writes a COLMAP model with points and observations: `images` maps name -> (camera id, View), `cameras` id -> Radial.

    Image ids are neither the camera's nor the order. `kind`: "txt", "bin" (with rigs and frames) or "old bin" (without).
    """

    def write(folder: Path, cameras: dict[int, Radial], images: dict[str, tuple[int, View]], kind: str = "bin") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ids = {name: 500 - 7 * index for index, name in enumerate(images)}
        lines = []
        for name, (camera_id, view) in images.items():
            pixels = cameras[camera_id].pixels(view, miniature.points) + 0.5
            lines.append(f"{ids[name]} {view.colmap_fields()} {camera_id} {name}")
            lines.append(" ".join(f"{x} {y} {10 + i}" for i, (x, y) in enumerate(pixels)))
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        sizes = {i: f"{c.size[0]} {c.size[1]} {' '.join(map(repr, c.params))}" for i, c in cameras.items()}
        (folder / "cameras.txt").write_text("".join(f"{i} SIMPLE_RADIAL {text}\n" for i, text in sizes.items()))
        tracks = [" ".join(f"{ids[name]} {i}" for name in images) for i in range(len(miniature.points))]
        points = [f"{10 + i} {x} {y} {z} 9 9 9 0.1 {tracks[i]}" for i, (x, y, z) in enumerate(miniature.points)]
        (folder / "points3D.txt").write_text("\n".join(points) + "\n")
        if kind != "txt":
            pycolmap.Reconstruction(str(folder)).write_binary(str(folder))
            for path in [*folder.glob("*.txt"), *(folder.glob("[rf]*.bin") if kind == "old bin" else [])]:
                path.unlink()

    return write


@pytest.fixture
def assert_radial(miniature) -> Callable[..., None]:
    """Every image of the scene sees the points where its own camera, resized to the image on disk, sees them: to a hundredth of a pixel."""

    def check(scene: Scene, view_of: dict[str, View], camera_of: dict[str, Radial]) -> None:
        assert {image.name for image in scene.images} == set(view_of)
        for image in scene.images:
            found, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, miniature.points))
            with Image.open(scene.path(image)) as file:
                scale = tuple(a / b for a, b in zip(file.size, camera_of[image.name].size, strict=True))
            assert in_front.all(), image.name
            expected = camera_of[image.name].pixels(view_of[image.name], miniature.points, scale)
            np.testing.assert_allclose(found, expected, atol=1e-2, err_msg=image.name)

    return check
