"""Geometry: rooms and the furniture in them, made of rectangles, doors from room to room, and where rays meet all that.

World frame: metres, x along the long wall, y along the short one, z up, origin in a floor corner. Everything is convex: a room seen from
inside, each piece of furniture from outside. The inverse depth at which a ray (x, y, 1) of the camera frame meets a plane is linear in the
ray, so that the nearest surface comes out of minima and maxima of linear functions, with no division and no special cases. A ray that
meets a wall inside a door goes on in the room behind it, so that rooms that no door shows cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    columns, `size` is (width, height) in metres. It is seen from the side to which `normal` points. Surfaces of one `model` have the same
    texture (and the same size); without it a surface has its own.
    """

    name: str
    material: str
    origin: Array
    right: Array
    down: Array
    size: tuple[float, float]
    model: str = ""

    @cached_property
    def normal(self) -> Array:
        """Unit normal (3,) towards the viewer."""
        return np.cross(self.down, self.right)


@dataclass(frozen=True)
class Door:
    """An opening in a side of a room's shell, through which one sees the room with the number `room`.

    `side` is the index of the side; `left`, `top`, `width` and `height` are metres from the origin of that surface.
    """

    side: int
    left: float
    top: float
    width: float
    height: float
    room: int


@dataclass(frozen=True)
class Room:
    """`shell`: the inner sides of a convex room. `solids`: convex pieces of furniture, each given by its visible sides."""

    shell: tuple[Surface, ...]
    solids: tuple[tuple[Surface, ...], ...]
    doors: tuple[Door, ...] = ()

    @cached_property
    def surfaces(self) -> tuple[Surface, ...]:
        """All surfaces, in the order of the indices that `trace` returns."""
        return self.shell + tuple(surface for solid in self.solids for surface in solid)

    @cached_property
    def normals(self) -> Array:
        """Normals (n, 3) of all surfaces."""
        return np.stack([surface.normal for surface in self.surfaces])

    @cached_property
    def origins(self) -> Array:
        """Origins (n, 3) of all surfaces."""
        return np.stack([surface.origin for surface in self.surfaces])

    @property
    def rooms(self) -> tuple[Room, ...]:
        """This room alone, as a place of one room."""
        return (self,)


@dataclass(frozen=True)
class Place:
    """Rooms that doors connect. The rooms do not overlap; what one sees through a door is a room that touches it."""

    rooms: tuple[Room, ...]

    @cached_property
    def surfaces(self) -> tuple[Surface, ...]:
        """All surfaces, room after room, in the order of the indices that `trace` returns."""
        return tuple(surface for room in self.rooms for surface in room.surfaces)


def planes(room: Room, cam_from_world: Array) -> tuple[Array, Array]:
    """(inverse, offset) of all n surfaces of a room.

    inverse (n, 3): inverse @ (x, y, 1) is the inverse depth of a ray; offset (n,), metres, is negative where the camera sees the front.
    """
    offset = ((room.origins - pose.center(cam_from_world)) * room.normals).sum(axis=1)
    offset[np.abs(offset) < 1e-9] = 1e-9
    return room.normals @ cam_from_world[:, :3].T / offset[:, None], offset


def room_of(place: Room | Place, center: Array) -> int:
    """Number of the room in which a point (3,) lies, or of the one whose walls it is least far behind."""
    sides = [slice(len(room.shell)) for room in place.rooms]
    depths = [((center - room.origins[own]) * room.normals[own]).sum(axis=1).min() for room, own in zip(place.rooms, sides, strict=True)]
    return int(np.argmax(depths))


def trace(place: Room | Place, cam_from_world: Array, x: Floats, y: Floats) -> tuple[Floats, NDArray[np.uint16]]:
    """Inverse depth and index of the nearest surface for rays (x, y, 1) of the camera frame; x and y of any equal shape."""
    start = room_of(place, pose.center(cam_from_world))
    if not place.rooms[start].doors:
        inverse, index = _trace_room(place.rooms[start], cam_from_world, x, y)
        return inverse, index + np.uint16(_first_surface(place, start))
    inverse, index = np.empty(x.size, dtype=x.dtype), np.empty(x.size, dtype=np.uint16)
    x_flat, y_flat = x.ravel(), y.ravel()
    waiting = [(start, np.arange(x.size))]
    while waiting:
        number, rays = waiting.pop()
        room = place.rooms[number]
        inverse[rays], hit = _trace_room(room, cam_from_world, x_flat[rays], y_flat[rays])
        index[rays] = hit + np.uint16(_first_surface(place, number))
        for door in room.doors:
            at_side = rays[hit == door.side]
            through = at_side[_passes(room, door, cam_from_world, x_flat[at_side], y_flat[at_side], 1 / inverse[at_side])]
            if len(through):
                waiting.append((door.room, through))
    return inverse.reshape(x.shape), index.reshape(x.shape)


def _first_surface(place: Room | Place, number: int) -> int:
    return sum(len(room.surfaces) for room in place.rooms[:number])


def _passes(room: Room, door: Door, cam_from_world: Array, x: Floats, y: Floats, depth: Floats) -> NDArray[np.bool_]:
    """Which rays, which all meet the door's side at the given depths, meet it inside the door."""
    u, v = texture_position(room.shell[door.side], cam_from_world, x, y, depth)
    width, height = room.shell[door.side].size
    u, v = u * width - door.left, v * height - door.top
    inside: NDArray[np.bool_] = (u >= 0) & (u <= door.width) & (v >= 0) & (v <= door.height)
    return inside


def texture_position(surface: Surface, cam_from_world: Array, x: Floats, y: Floats, depth: Floats) -> tuple[Floats, Floats]:
    """Where rays meet the surface at the given depths: shares 0..1 of its width and of its height."""
    from_origin = pose.center(cam_from_world) - surface.origin
    position = []
    for axis, length in ((surface.right, surface.size[0]), (surface.down, surface.size[1])):
        a, b, c = (cam_from_world[:, :3] @ axis / length).astype(x.dtype)
        position.append(x.dtype.type(from_origin @ axis / length) + depth * (a * x + (b * y + c)))
    return position[0], position[1]


def _trace_room(room: Room, cam_from_world: Array, x: Floats, y: Floats) -> tuple[Floats, NDArray[np.uint16]]:
    """`trace` in one room, for a camera inside it or rays that enter it: they leave it at the first of the sides that face the camera.

    Planes that cannot matter within the bounds of x and y are left out: a linear function has its extremes at the corners.
    """
    if not x.size:
        return np.empty_like(x), np.empty(x.shape, dtype=np.uint16)
    corners = np.array([[u, v, 1.0] for u in (x.min(), x.max()) for v in (y.min(), y.max())])
    coefficients, offset = planes(room, cam_from_world)
    bounds = coefficients @ corners.T
    low, high = bounds.min(axis=1), bounds.max(axis=1)
    inverse, index = np.full_like(x, -np.inf), np.zeros(x.shape, dtype=np.uint16)
    facing = [i for i in range(len(room.shell)) if offset[i] < 0]
    surely = max(low[i] for i in facing)
    for i in facing:
        if high[i] >= surely:
            value = _linear(coefficients[i], x, y)
            index[value > inverse] = i
            np.maximum(inverse, value, out=inverse)
    first = len(room.shell)
    for solid in room.solids:
        sides = range(first, first + len(solid))
        front, back = [i for i in sides if offset[i] < 0], [i for i in sides if offset[i] >= 0]
        first += len(solid)
        nearest_exit = max((low[i] for i in back), default=0.0)
        if min(high[i] for i in front) > max(nearest_exit, surely, 0.0):
            _trace_solid({i: coefficients[i] for i in front}, [coefficients[i] for i in back], x, y, inverse, index)
    return inverse, index


def _trace_solid(front: dict[int, Array], back: list[Array], x: Floats, y: Floats, inverse: Floats, index: NDArray[np.uint16]) -> None:
    """A ray enters a convex solid at the last of its front planes and leaves it at the first of its back planes."""
    enter, leave = np.full_like(x, np.inf), np.zeros_like(x)
    side = np.zeros(x.shape, dtype=np.uint16)
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


def scene_coordinates(place: Room | Place, cam_from_world: ArrayLike, camera: pycolmap.Camera, pixels: ArrayLike) -> Array:
    """World points (N, 3), metres, that the pixels (N, 2) of a view show. Exact to float64."""
    cam_from_world = np.asarray(cam_from_world, dtype=np.float64)
    rays = cameras.unproject(camera, pixels)
    inverse, _ = trace(place, cam_from_world, rays[:, 0], rays[:, 1])
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
    return Room(shell(), solids)


GALLERY_SIDES = ("wall-brick", "wall-plaster", "wall-panel", "wall-paper", "floor", "ceiling")


def shell(
    size: tuple[float, float, float] = SIZE, at: ArrayLike = (0, 0, 0), name: str = "", materials: Sequence[str] = GALLERY_SIDES
) -> tuple[Surface, ...]:
    """The inner sides of a room: south, west, north and east wall, floor, ceiling. `at` (3,): its south-west corner on the floor."""
    a, b, h = size
    x, y, z = np.eye(3)
    corner = {(i, j): np.asarray(at) + np.array([i * a, j * b, h]) for i in (0, 1) for j in (0, 1)}
    sides: tuple[tuple[str, Array, Array, Array, tuple[float, float]], ...] = (
        ("wall-south", corner[1, 0], -x, -z, (a, h)),
        ("wall-west", corner[0, 0], y, -z, (b, h)),
        ("wall-north", corner[0, 1], x, -z, (a, h)),
        ("wall-east", corner[1, 1], -y, -z, (b, h)),
        ("floor", np.asarray(at) + np.array([0.0, b, 0.0]), x, -y, (a, b)),
        ("ceiling", corner[0, 0], x, y, (a, b)),
    )
    return tuple(
        Surface(name + side, material, origin, right, down, extent)
        for (side, origin, right, down, extent), material in zip(sides, materials, strict=True)
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


def hanging(solid: tuple[Surface, ...]) -> tuple[Surface, ...]:
    """A box with its bottom, for one that hangs on a wall."""
    front, top = solid[0], solid[-1]
    bottom = replace(
        top, name=front.name.removesuffix("-front") + "-bottom", origin=front.origin + front.size[1] * front.down, down=-top.down
    )
    return (bottom, *solid)


def bar(name: str, material: str, start: ArrayLike, end: ArrayLike, width: float, height: float) -> tuple[Surface, ...]:
    """A straight bar from `start` to `end` (3,), the middles of its end faces; `width` is level, all six sides are visible."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    side = np.cross((0.0, 0.0, 1.0), along)
    side /= np.linalg.norm(side)
    up = np.cross(along, side)

    def face(number: int, right: Array, down: Array, size: tuple[float, float], out: float) -> Surface:
        corner = (start + end) / 2 + out / 2 * np.cross(down, right) - size[0] / 2 * right - size[1] / 2 * down
        return Surface(f"{name}-{number}", material, corner, right, down, size)

    return (
        face(0, along, -up, (length, height), width),
        face(1, -along, -up, (length, height), width),
        face(2, along, -side, (length, width), height),
        face(3, along, side, (length, width), height),
        face(4, side, -up, (width, height), length),
        face(5, -side, -up, (width, height), length),
    )
