"""The demo's gallery on another day: the sun through a window, a lamp, and furniture that was moved. Poses and cameras stay exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pycolmap
from numpy.typing import NDArray

from processing.gallery.renderer import Exposure, Image, Renderer
from processing.gallery.room import Room, Surface, make_room
from processing.gallery.textures import make_textures

Array = NDArray[np.float64]

MOVED = {
    "partition": (0.25, -0.2, -16.0),
    "plinth-a": (0.5, 0.1, 40.0),
    "plinth-b": (-5.9, -0.6, 30.0),
    "bench": (-3.4, 0.1, 50.0),
    "cabinet": (0.0, -1.6, 0.0),
    "crate-a": (-0.3, 4.7, 35.0),
    "crate-b": (-0.3, 4.7, 10.0),
}
"""Metres along x and y, and degrees about its middle: what stands elsewhere. All of it stays clear of the cameras."""

SUN = np.array([-0.93, 0.3, 0.2])
WINDOW = ((1.0, 5.0), (0.8, 2.8))
"""Towards the sun; where on the west wall (y and z, metres) it comes in."""
LAMP = np.array([6.6, 4.9, 1.9])
AMBIENT, SUNLIGHT, LAMPLIGHT = np.array([0.2, 0.22, 0.28]), np.array([1.1, 1.0, 0.8]), np.array([0.9, 0.6, 0.3])
"""Light in red, green and blue: from everywhere, from the sun, and one metre from the lamp; the demo's own light is 1."""


def render_queries(
    poses: Mapping[str, Array], camera: pycolmap.Camera, moved: Mapping[str, tuple[float, float, float]], lit: bool
) -> Iterator[tuple[str, Image]]:
    """Name and RGB image of the gallery for every cam_from_world (3, 4), with furniture `moved` or in other light (`lit`)."""
    textures = make_textures(make_room(), 0)
    place = rearranged(make_room(), moved)
    if lit:
        textures = [relit(surface, texture) for surface, texture in zip(place.surfaces, textures, strict=True)]
    renderer = Renderer(place, textures, camera)
    for number, (name, cam_from_world) in enumerate(poses.items()):
        yield name, renderer.render(cam_from_world, Exposure(vignetting=0.2, noise=4.0, seed=(5, number)))


def rearranged(room: Room, moved: Mapping[str, tuple[float, float, float]]) -> Room:
    """The room with pieces of furniture elsewhere, see MOVED."""
    return Room(room.shell, tuple(_moved(solid, *moved.get(_name(solid), (0.0, 0.0, 0.0))) for solid in room.solids), room.doors)


def _name(solid: tuple[Surface, ...]) -> str:
    return solid[0].name.removesuffix("-front")


def _moved(solid: tuple[Surface, ...], x: float, y: float, yaw: float) -> tuple[Surface, ...]:
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    turn, top = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), solid[-1]
    middle = top.origin + top.size[0] / 2 * top.right + top.size[1] / 2 * top.down
    place = middle + np.array([x, y, 0])
    return tuple(
        replace(side, origin=turn @ (side.origin - middle) + place, right=turn @ side.right, down=turn @ side.down) for side in solid
    )


def relit(surface: Surface, texture: Image) -> Image:
    """The surface's texture (H, W, 3) in the light of SUN and LAMP; nothing throws a shadow but the wall around the window."""
    height, width = texture.shape[:2]
    across, along = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    points = surface.origin + across[..., None] * surface.size[0] * surface.right + along[..., None] * surface.size[1] * surface.down
    at_wall = points - points[..., :1] / SUN[0] * SUN  # where the way to the sun meets the plane of the west wall
    (y0, y1), (z0, z1) = WINDOW
    comes_in = (at_wall[..., 1] > y0) & (at_wall[..., 1] < y1) & (at_wall[..., 2] > z0) & (at_wall[..., 2] < z1)
    sun = comes_in * max(0.0, float(surface.normal @ SUN)) / np.linalg.norm(SUN)
    to_lamp = LAMP - points
    distance = np.maximum(np.linalg.norm(to_lamp, axis=-1), 0.3)
    lamp = np.maximum(to_lamp @ surface.normal, 0) / distance**3
    light = AMBIENT + sun[..., None] * SUNLIGHT + lamp[..., None] * LAMPLIGHT
    return np.asarray(np.clip(np.rint(texture * light), 0, 255), dtype=np.uint8)
