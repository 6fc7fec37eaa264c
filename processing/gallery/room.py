"""The gallery's geometry: a room and the furniture in it, made of rectangles, and where rays meet them.

World frame: metres, x along the long wall, y along the short one, z up, origin in a floor corner. Everything is convex: the room seen from
inside, each piece of furniture from outside. The inverse depth at which a ray (x, y, 1) of the camera frame meets a plane is linear in the
ray, so that the nearest surface comes out of minima and maxima of linear functions, with no division and no special cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.geometry import camera as cameras
from d2s.geometry import pose

Array = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

SIZE = (8.0, 6.0, 3.0)


@dataclass(frozen=True)
class Surface:
    """A rectangle that is seen from one side.

    `origin` (3,) is the corner at the top left of its texture, `right` and `down` (3,) are unit vectors along the texture's rows and
    columns, `size` is (width, height) in metres. It is seen from the side to which `normal` points.
    """

    name: str
    material: str
    origin: Array
    right: Array
    down: Array
    size: tuple[float, float]

    @cached_property
    def normal(self) -> Array:
        """Unit normal (3,) towards the viewer."""
        return np.cross(self.down, self.right)


@dataclass(frozen=True)
class Room:
    """`shell`: the six inner sides of the room. `solids`: convex pieces of furniture, each given by its visible sides."""

    shell: tuple[Surface, ...]
    solids: tuple[tuple[Surface, ...], ...]

    @cached_property
    def surfaces(self) -> tuple[Surface, ...]:
        """All surfaces, in the order of the indices that `trace` returns."""
        return self.shell + tuple(surface for solid in self.solids for surface in solid)


def plane(surface: Surface, cam_from_world: Array) -> tuple[Array, float]:
    """(inverse, offset): inverse @ (x, y, 1) is the inverse depth of a ray; offset is negative when the camera sees the surface's front."""
    normal = surface.normal
    offset = float(normal @ (surface.origin - pose.center(cam_from_world)))
    if abs(offset) < 1e-9:
        offset = 1e-9
    return cam_from_world[:, :3] @ normal / offset, offset


def trace(room: Room, cam_from_world: Array, x: Floats, y: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Inverse depth and index of the nearest surface for rays (x, y, 1) of the camera frame; x and y of any equal shape.

    Planes that cannot matter within the bounds of x and y are left out: a linear function has its extremes at the corners.
    """
    if not x.size:
        return np.empty_like(x), np.empty(x.shape, dtype=np.uint8)
    corners = np.array([[u, v, 1.0] for u in (x.min(), x.max()) for v in (y.min(), y.max())])
    planes = [plane(surface, cam_from_world) for surface in room.surfaces]
    bounds = np.array([coefficients for coefficients, _ in planes]) @ corners.T
    low, high = bounds.min(axis=1), bounds.max(axis=1)
    inverse, index = np.full_like(x, -np.inf), np.zeros(x.shape, dtype=np.uint8)
    shell = range(len(room.shell))
    for i in shell:
        if high[i] >= low[: len(shell)].max():
            value = _linear(planes[i][0], x, y)
            index[value > inverse] = i
            np.maximum(inverse, value, out=inverse)
    first = len(shell)
    for solid in room.solids:
        sides = range(first, first + len(solid))
        front, back = [i for i in sides if planes[i][1] < 0], [i for i in sides if planes[i][1] >= 0]
        first += len(solid)
        nearest_exit = max((low[i] for i in back), default=0.0)
        if min(high[i] for i in front) > max(nearest_exit, low[: len(shell)].max(), 0.0):
            _trace_solid({i: planes[i][0] for i in front}, [planes[i][0] for i in back], x, y, inverse, index)
    return inverse, index


def _trace_solid(front: dict[int, Array], back: list[Array], x: Floats, y: Floats, inverse: Floats, index: NDArray[np.uint8]) -> None:
    """A ray enters a convex solid at the last of its front planes and leaves it at the first of its back planes."""
    enter, leave = np.full_like(x, np.inf), np.zeros_like(x)
    side = np.zeros(x.shape, dtype=np.uint8)
    for i, coefficients in front.items():
        value = _linear(coefficients, x, y)
        side[value < enter] = i
        np.minimum(enter, value, out=enter)
    for coefficients in back:
        np.maximum(leave, _linear(coefficients, x, y), out=leave)
    hit = (enter > leave) & (enter > inverse)
    inverse[hit], index[hit] = enter[hit], side[hit]


def _linear(coefficients: Array, x: Floats, y: Floats) -> Floats:
    a, b, c = coefficients.astype(x.dtype)
    value: Floats = a * x
    value += b * y
    value += c
    return value


def scene_coordinates(room: Room, cam_from_world: ArrayLike, camera: pycolmap.Camera, pixels: ArrayLike) -> Array:
    """World points (N, 3), metres, that the pixels (N, 2) of a view show. Exact to float64."""
    cam_from_world = np.asarray(cam_from_world, dtype=np.float64)
    rays = cameras.unproject(camera, pixels)
    inverse, _ = trace(room, cam_from_world, rays[:, 0], rays[:, 1])
    points_cam = np.column_stack([rays, np.ones(len(rays))]) / inverse[:, None]
    return pose.transform(pose.inverse(cam_from_world), points_cam)


def make_room() -> Room:
    """The gallery: four walls with pictures, floor and ceiling; a partition, plinths, a bench, crates and a cabinet."""
    solids = (
        box("partition", "pictures", (4.1, 3.0), (2.6, 0.22), 2.2, yaw=8),
        box("plinth-a", "mosaic", (1.45, 1.1), (0.5, 0.5), 1.05, yaw=25),
        box("plinth-b", "strokes", (6.75, 5.0), (0.45, 0.45), 1.2, yaw=-15),
        box("bench", "wood", (6.0, 1.75), (1.4, 0.45), 0.45, yaw=-12),
        box("cabinet", "shapes", (0.3, 4.3), (0.45, 1.3), 0.95),
        box("crate-a", "poster", (7.45, 0.55), (0.75, 0.75), 0.6, yaw=20),
        box("crate-b", "poster", (7.5, 0.5), (0.45, 0.45), 0.45, yaw=-10, base=0.6),
        box("column", "abstract", (1.5, 5.05), (0.35, 0.35), 3.0, yaw=45),
    )
    return Room(_shell(), solids)


def _shell() -> tuple[Surface, ...]:
    a, b, h = SIZE
    x, y, z = np.eye(3)
    corner = {(i, j): np.array([i * a, j * b, h]) for i in (0, 1) for j in (0, 1)}
    return (
        Surface("wall-south", "wall-brick", corner[1, 0], -x, -z, (a, h)),
        Surface("wall-west", "wall-plaster", corner[0, 0], y, -z, (b, h)),
        Surface("wall-north", "wall-panel", corner[0, 1], x, -z, (a, h)),
        Surface("wall-east", "wall-paper", corner[1, 1], -y, -z, (b, h)),
        Surface("floor", "floor", np.array([0.0, b, 0.0]), x, -y, (a, b)),
        Surface("ceiling", "ceiling", corner[0, 0], x, y, (a, b)),
    )


def box(
    name: str, material: str, centre: tuple[float, float], size: tuple[float, float], height: float, yaw: float = 0, base: float = 0
) -> tuple[Surface, ...]:
    """An upright box of `size` (width, depth) and `height`, turned by `yaw` degrees, its bottom (left out: it stands on it) at `base`."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    right, back, up = np.array([c, s, 0.0]), np.array([-s, c, 0.0]), np.array([0.0, 0.0, 1.0])
    middle = np.array([*centre, base + height])
    (w, d), corner = size, lambda i, j: middle + i * size[0] / 2 * right + j * size[1] / 2 * back
    return (
        Surface(f"{name}-front", material, corner(-1, -1), right, -up, (w, height)),
        Surface(f"{name}-right", material, corner(1, -1), back, -up, (d, height)),
        Surface(f"{name}-back", material, corner(1, 1), -right, -up, (w, height)),
        Surface(f"{name}-left", material, corner(-1, 1), -back, -up, (d, height)),
        Surface(f"{name}-top", f"{material}-top", corner(-1, 1), right, -back, (w, d)),
    )
