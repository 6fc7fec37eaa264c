"""What the museum looks like: every room in its own colour, with its own paintings around its doors."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from processing.gallery.noise import Float32, Image, Rng, fractal_noise, to_image
from processing.gallery.room import Door, Place, Room, Surface
from processing.gallery.textures import WALLS, board, ceiling, furniture, hang_pictures, lay_rugs, light, parquet, plaster, stand_on

DENSITY = {"floor": 180, "ceiling": 120, "wall": 220}  # texels per metre
FURNITURE_DENSITY = 260
COLOURS = {
    "crimson": (138, 40, 42),
    "navy": (44, 62, 104),
    "sage": (122, 142, 112),
    "ochre": (190, 146, 70),
    "plum": (104, 60, 92),
    "slate": (84, 94, 102),
}
WHITE, ARCHITRAVE = (222, 216, 204), 0.12  # of skirtings, cornices and the frames of doors; their width in metres


def make_museum_textures(place: Room | Place, seed: int) -> list[Image]:
    """An RGB texture for every surface; no two surfaces share one."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [texture for textures in pool.map(lambda room: _room_textures(room, seed), place.rooms) for texture in textures]


def _room_textures(room: Room, seed: int) -> list[Image]:
    textures = []
    for i, surface in enumerate(room.surfaces):
        doors = [door for door in room.doors if door.side == i]
        textures.append(_texture(surface, doors, np.random.default_rng([seed, zlib.crc32(surface.name.encode())])))
        if surface.material.startswith("floor"):
            textures[i] = stand_on(room, surface, textures[i])
    return textures


def _texture(surface: Surface, doors: list[Door], rng: Rng) -> Image:
    kind, _, look = surface.material.partition("-")
    density = DENSITY.get(kind, FURNITURE_DENSITY)
    width, height = (max(8, round(side * density)) for side in surface.size)
    if kind == "wall":
        image = _wall(rng, look, height, width, doors, density)
    elif kind == "floor":
        image = _floor(rng, look, height, width, density)
    elif kind == "ceiling":
        image = CEILINGS[look](rng, height, width, density)
    elif kind in ("jamb", "threshold"):
        image = _wood(rng, height, width, (150, 112, 76) if kind == "threshold" else (96, 64, 42))
    else:
        image = furniture(rng, surface.material.removesuffix("-top"), height, width, density)
    return to_image(image.astype(np.float32) * light(surface, rng, height, width))


def _wall(rng: Rng, look: str, height: int, width: int, doors: list[Door], density: int) -> Float32:
    """A wall with skirting and cornice, door frames, and pictures on the stretches between the doors."""
    wall = WALLS["wall-" + look](rng, height, width) if "wall-" + look in WALLS else _painted(rng, COLOURS[look], height, width)
    border = round(ARCHITRAVE * density)
    _moulding(rng, wall[:border])
    _moulding(rng, wall[-border:])
    free = [0]
    for door in sorted(doors, key=lambda door: door.left):
        left, right, top = (round(value * density) for value in (door.left, door.left + door.width, door.top))
        _moulding(rng, wall[max(top - border, 0) :, max(left - border, 0) : right + border])
        free += [left - border, right + border]
    free.append(width)
    for start, stop in zip(free[::2], free[1::2], strict=True):
        if stop - start > 0.8 * density:
            hang_pictures(rng, wall[:, start:stop], density)
    return wall


def _moulding(rng: Rng, part: Float32) -> None:
    """Paint a white, ridged and worn strip into a part of a wall."""
    height, width = part.shape[:2]
    grain = fractal_noise(rng, height, width, 24, 5, 0.85)[..., None]
    rows, columns = np.mgrid[:height, :width]
    edge = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    part[:] = np.array(WHITE, dtype=np.float32) * (0.7 + 0.45 * grain) * np.where((edge % 9 < 2) & (edge < 30), 0.6, 1.0)[..., None]


def _painted(rng: Rng, colour: tuple[int, int, int], height: int, width: int) -> Float32:
    """Fabric of one colour with a woven ground and a shimmer."""
    shimmer = fractal_noise(rng, height, width, 160, 7, 0.8)
    weave = fractal_noise(rng, height, width, 5, 2, 0.9)
    return np.array(colour, dtype=np.float32) * (0.35 + 0.9 * shimmer + 0.4 * weave)[..., None]


def _wood(rng: Rng, height: int, width: int, colour: tuple[int, int, int]) -> Float32:
    """One board, its grain along the longer side."""
    wood = board(rng, max(height, width), min(height, width), np.array(colour))
    return wood if height >= width else np.ascontiguousarray(wood.transpose(1, 0, 2))


def _floor(rng: Rng, look: str, height: int, width: int, density: int) -> Float32:
    if look == "marble":
        return _marble_tiles(rng, height, width, density)
    wood = parquet(rng, height, width, density)
    return lay_rugs(rng, wood, density) if look == "rugs" else wood


def _marble_tiles(rng: Rng, height: int, width: int, density: int) -> Float32:
    """Squares of dark and light stone, each cut from another place of the quarry."""
    side = round(0.6 * density)
    rows, columns = np.mgrid[:height, :width]
    veins = np.abs(fractal_noise(rng, height, width, 70, 6, 0.75) - 0.5)
    number = rows // side * 7 + columns // side * 13
    veins = np.roll(veins, 31, axis=1) * (number % 2 == 0) + veins * (number % 2 == 1)
    dark = (rows // side + columns // side) % 2 == 0
    tone = np.where(dark[..., None], np.array([96, 92, 94]), np.array([206, 198, 184])).astype(np.float32)
    image = tone * (0.62 + 2.2 * np.minimum(veins, 0.28) + 0.25 * fractal_noise(rng, height, width, 6, 2))[..., None]
    image[(rows % side < 2) | (columns % side < 2)] *= 0.55
    return image


def _skylight(rng: Rng, height: int, width: int, density: int) -> Float32:
    """A glass roof: panes with clouds above them, between painted beams."""
    sky = fractal_noise(rng, height, width, 260, 6, 0.65)[..., None]
    image = np.array([176, 204, 228], dtype=np.float32) * (1 - sky) * 1.2 + np.array([250, 246, 236], dtype=np.float32) * sky
    rows, columns = np.mgrid[:height, :width]
    pane, beam = round(0.7 * density), round(0.09 * density)
    bars = ((rows % pane < beam) | (columns % pane < beam))[..., None]
    rust = np.array([92, 104, 96], dtype=np.float32) * (0.5 + fractal_noise(rng, height, width, 20, 5, 0.9)[..., None])
    edge = round(0.5 * density)
    image = np.where(bars, rust, image)
    frame = plaster(rng, height, width)
    frame[edge : height - edge, edge : width - edge] = image[edge : height - edge, edge : width - edge]
    return frame


def _plain_ceiling(rng: Rng, height: int, width: int, density: int) -> Float32:
    """Old plaster with a rosette."""
    image = to_image(plaster(rng, height, width) * 0.5 + 110)
    middle = (width // 2, height // 2)
    for i in range(9):
        radius = round((0.9 - 0.095 * i) * density)
        cv2.circle(image, middle, radius, (236, 226, 200) if i % 2 else (164, 140, 96), -1, cv2.LINE_AA)
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        tip = (round(middle[0] + 0.8 * density * np.cos(angle)), round(middle[1] + 0.8 * density * np.sin(angle)))
        cv2.line(image, middle, tip, (120, 96, 60), 2, cv2.LINE_AA)
    return image.astype(np.float32)


CEILINGS = {"coffers": ceiling, "skylight": _skylight, "plain": _plain_ceiling}
