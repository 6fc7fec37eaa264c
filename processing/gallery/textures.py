"""What the gallery's surfaces look like: walls with framed pictures, parquet with rugs, a painted ceiling, furniture."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from processing.gallery.noise import Float32, Image, Rng, fractal_noise, smooth_noise, to_image
from processing.gallery.paintings import painting
from processing.gallery.room import Place, Room, Surface

DENSITY = {"floor": 220, "ceiling": 140}  # texels per metre
DEFAULT_DENSITY = 300


def make_textures(place: Room | Place, seed: int) -> list[Image]:
    """An RGB texture for every surface of the room; no two surfaces share one."""
    return [texture for room in place.rooms for texture in _room_textures(room, seed)]


def _room_textures(room: Room, seed: int) -> list[Image]:
    textures = [make_texture(surface, np.random.default_rng([seed, zlib.crc32(surface.name.encode())])) for surface in room.surfaces]
    for i, surface in enumerate(room.shell):
        if surface.material == "floor":
            textures[i] = stand_on(room, surface, textures[i])
    return textures


def stand_on(room: Room, floor: Surface, texture: Image) -> Image:
    """The floor with the soft shadows of what stands on it."""
    shade = np.ones(texture.shape[:2], dtype=np.float32)
    scale = np.array([texture.shape[1], texture.shape[0]]) / floor.size
    for solid in room.solids:
        top = solid[-1]
        (w, h), a, b = top.size, top.right, top.down
        corners = np.array([top.origin, top.origin + w * a, top.origin + w * a + h * b, top.origin + h * b]) - floor.origin
        on_floor = np.stack([corners @ floor.right, corners @ floor.down], axis=-1) * scale
        cv2.fillPoly(shade, [np.rint(on_floor).astype(np.int32)], 0.25)
    return to_image(texture * cv2.GaussianBlur(shade, (0, 0), 0.09 * DENSITY["floor"])[..., None])


def make_texture(surface: Surface, rng: Rng) -> Image:
    """The texture of one surface, at its material's density, lit as a whole (edges a little darker)."""
    density = DENSITY.get(surface.material, DEFAULT_DENSITY)
    width, height = (max(8, round(side * density)) for side in surface.size)
    material = surface.material.removesuffix("-top")
    if material.startswith("wall-"):
        image = hang_pictures(rng, WALLS[material](rng, height, width), density)
    elif material == "floor":
        image = lay_rugs(rng, parquet(rng, height, width, density), density)
    elif material == "ceiling":
        image = ceiling(rng, height, width, density)
    else:
        image = furniture(rng, material, height, width, density)
    return to_image(image.astype(np.float32) * light(surface, rng, height, width))


def light(surface: Surface, rng: Rng, height: int, width: int) -> Float32:
    """Uneven light (H, W, 1): soft spots, darker towards edges, each side of a piece of furniture in its own shade."""
    spots = 0.82 + 0.32 * smooth_noise(rng, height, width, max(height, width, 8) / 4)
    x = np.abs(np.linspace(-1, 1, width, dtype=np.float32))[None] ** 8
    y = np.abs(np.linspace(-1, 1, height, dtype=np.float32))[:, None] ** 8
    side = 1 + 0.10 * surface.normal[2] + 0.06 * surface.normal[0] - 0.05 * surface.normal[1]
    light: Float32 = (spots * (1 - 0.18 * np.maximum(x, y)) * side)[..., None].astype(np.float32)
    return light


def brick(rng: Rng, height: int, width: int) -> Float32:
    """Courses of bricks, every brick of another tone, mortar and stains between."""
    course, length = 24, 72
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:] = (176, 168, 158)
    for row, y in enumerate(range(0, height, course)):
        x = -int(rng.integers(0, length)) - (row % 2) * length // 2
        while x < width:
            w = int(length * rng.uniform(0.75, 1.2))
            tone = np.array([158, 84, 64]) * rng.uniform(0.65, 1.25) + rng.normal(0, 9, 3)
            image[y + 1 : y + course - 1, max(x + 1, 0) : max(x + w - 2, 0)] = tone
            x += w
    grain = fractal_noise(rng, height, width, 30, 5, 0.8)[..., None]
    return image * (0.55 + 0.9 * grain)


def plaster(rng: Rng, height: int, width: int) -> Float32:
    """Old plaster: patches of paint, cracks and specks."""
    tone = fractal_noise(rng, height, width, 300, 8, 0.75)[..., None]
    image = np.array([205, 190, 150], dtype=np.float32) * (0.55 + 0.8 * tone)
    flaked = fractal_noise(rng, height, width, 120, 6, 0.7) > 0.62
    image[flaked] = image[flaked] * 0.5 + np.array([40, 55, 62], dtype=np.float32)
    wall = to_image(image)  # cv2 draws smooth edges on 8-bit images only
    for _ in range(width // 22):
        crack(rng, wall)
    return wall.astype(np.float32)


def crack(rng: Rng, image: Image) -> None:
    """A thin dark line that keeps its direction, roughly."""
    height, width = image.shape[:2]
    count = int(rng.integers(8, 26))
    heading = rng.random() * 2 * np.pi + np.cumsum(rng.normal(0, 0.45, count))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * rng.uniform(3, 10, (count, 1))
    points = (np.array([rng.integers(width), rng.integers(height)]) + steps.cumsum(axis=0)).astype(np.int32)
    cv2.polylines(image, [points], False, (84, 72, 60), 1, cv2.LINE_AA)


def panel(rng: Rng, height: int, width: int) -> Float32:
    """Upright boards with grain and knots."""
    image = np.empty((height, width, 3), dtype=np.float32)
    x = 0
    while x < width:
        w = int(min(rng.uniform(28, 62), width - x))
        image[:, x : x + w] = board(rng, height, w, np.array([122, 96, 74]) * rng.uniform(0.7, 1.35))
        image[:, x : x + 2] *= 0.4
        x += max(w, 1)
    return image


def board(rng: Rng, length: int, width: int, colour: np.ndarray) -> Float32:
    """A board of wood (length, width, 3), its grain running down."""
    rows, columns = np.mgrid[:length, :width].astype(np.float32)
    wave = smooth_noise(rng, length, width, 60) * 9
    rings = columns * rng.uniform(0.25, 0.5) + wave
    for _ in range(1 + length // 160):
        cy, cx = rng.uniform(0, length), rng.uniform(0, width)
        rings += 7 * np.exp(-(((rows - cy) / 22) ** 2) - ((columns - cx) / 7) ** 2)
    grain = 0.5 + 0.5 * np.sin(rings * 2.2)
    speck = fractal_noise(rng, length, width, 14, 3, 0.9)
    board: Float32 = colour.astype(np.float32) * (0.62 + 0.3 * grain + 0.42 * (speck - 0.2))[..., None]
    return board


def wallpaper(rng: Rng, height: int, width: int) -> Float32:
    """Painted wallpaper: stripes with leaves and dots strewn by hand, none like the next."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = (72, 104, 108)
    image[:, (np.arange(width) // 45) % 2 == 0] = (90, 124, 122)
    for _ in range(height * width // 900):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        axes = (int(rng.integers(3, 15)), int(rng.integers(2, 6)))
        tone = np.clip(
            np.array([[186, 178, 120], [150, 96, 80], [38, 58, 66], [210, 205, 190]])[rng.integers(4)] + rng.normal(0, 14, 3), 0, 255
        )
        cv2.ellipse(image, (x, y), axes, rng.random() * 360, 0, 360, tone.tolist(), -1, cv2.LINE_AA)
    return image * (0.75 + 0.5 * fractal_noise(rng, height, width, 80, 6, 0.8)[..., None])


WALLS = {"wall-brick": brick, "wall-plaster": plaster, "wall-panel": panel, "wall-paper": wallpaper}


def hang_pictures(rng: Rng, wall: Float32, density: int) -> Float32:
    """Columns of framed pictures along a wall, one or two high."""
    height, width = wall.shape[:2]
    x = rng.uniform(0.1, 0.3) * density
    while True:
        w = min(rng.uniform(0.55, 1.35) * density, width - 0.1 * density - x)
        if w < 0.45 * density:
            return wall
        top, floor = rng.uniform(0.2, 0.4) * density, height - rng.uniform(0.35, 0.6) * density
        if w < 0.95 * density:
            middle = (top + floor) / 2 + rng.uniform(-0.2, 0.2) * density
            hang(rng, wall, x, top, w, middle - top - 0.08 * density)
            hang(rng, wall, x, middle + 0.08 * density, w * rng.uniform(0.8, 1), floor - middle - 0.08 * density)
        else:
            hang(rng, wall, x, top + 0.2 * density, w, floor - top - rng.uniform(0.3, 0.7) * density)
        x += w + rng.uniform(0.12, 0.35) * density


def hang(rng: Rng, wall: Float32, x: float, y: float, w: float, h: float) -> None:
    """Paint one framed picture, with its shadow, into a wall; x, y, w, h in texels, frame included."""
    left, top, width, height = (int(v) for v in (x, y, w, h))
    frame = int(rng.integers(9, 19))
    shadow = wall[top + 4 : top + height + 9, left + 3 : left + width + 7]
    shadow *= 0.55
    wall[top : top + height, left : left + width] = picture_frame(rng, height, width, frame)
    inner = painting(rng, height - 2 * frame, width - 2 * frame)
    wall[top + frame : top + height - frame, left + frame : left + width - frame] = inner


def picture_frame(rng: Rng, height: int, width: int, thickness: int) -> Float32:
    """A moulded frame (H, W, 3): lighter and darker ridges, carved at random."""
    colour = np.array([[168, 132, 62], [66, 44, 30], [198, 190, 176], [34, 34, 38]], dtype=np.float32)[rng.integers(4)]
    rows, columns = np.mgrid[:height, :width]
    edge = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns)).astype(np.float32)
    ridge = 0.85 + 0.3 * np.sin(edge / thickness * 7)
    carving = fractal_noise(rng, height, width, 9, 2)
    return colour * (ridge * (0.7 + 0.6 * carving))[..., None]


def parquet(rng: Rng, height: int, width: int, density: int) -> Float32:
    """Planks in rows, every plank with its own tone and grain."""
    image = np.empty((height, width, 3), dtype=np.float32)
    step = int(0.14 * density)
    for y in range(0, height, step):
        x = -int(rng.integers(0, density))
        while x < width:
            length = int(rng.uniform(0.5, 1.3) * density)
            start, stop, depth = max(x, 0), min(x + length, width), min(step, height - y)
            if stop > start:
                plank = board(rng, stop - start, depth, np.array([176, 128, 80]) * rng.uniform(0.7, 1.2))
                image[y : y + depth, start:stop] = plank.transpose(1, 0, 2)
                image[y : y + depth, start : start + 1] *= 0.4
            x += length
        image[y : y + 1] *= 0.4
    return image


def lay_rugs(rng: Rng, floor: Float32, density: int) -> Float32:
    """Three rugs with borders."""
    height, width = floor.shape[:2]
    for cx, cy, w, h, style in ((0.24, 0.5, 1.7, 2.5, "mosaic"), (0.55, 0.74, 2.4, 1.5, "grid"), (0.8, 0.36, 1.6, 2.0, "shapes")):
        rw, rh = int(w * density), int(h * density)
        left, top = int(cx * width - rw / 2), int(cy * height - rh / 2)
        rug = painting(rng, rh, rw, style).astype(np.float32) * 0.8
        border = int(0.1 * density)
        rug[:border], rug[-border:], rug[:, :border], rug[:, -border:] = (
            painting(rng, *size, "poster") * np.float32(0.7) for size in ((border, rw), (border, rw), (rh, border), (rh, border))
        )
        floor[top : top + rh, left : left + rw] = rug * (0.85 + 0.3 * fractal_noise(rng, rh, rw, 5, 2)[..., None])
    return floor


def ceiling(rng: Rng, height: int, width: int, density: int) -> Float32:
    """Coffers between beams, each with a painted panel."""
    image = plaster(rng, height, width)
    cell = density * 1.0
    for j in range(int(height / cell)):
        for i in range(int(width / cell)):
            side = int(cell * 0.74)
            top, left = int((j + 0.13) * cell), int((i + 0.13) * cell)
            fresco = painting(rng, side, side).astype(np.float32)
            image[top : top + side, left : left + side] = 60 + 0.7 * fresco
            cv2.rectangle(image, (left - 3, top - 3), (left + side + 2, top + side + 2), (112, 84, 58), 4)
    return image


def furniture(rng: Rng, material: str, height: int, width: int, density: int) -> Float32:
    """Wood, small pictures on plaster, or one painting all over; edges marked."""
    if material == "wood":
        image = board(rng, width, height, np.array([140, 92, 60])).transpose(1, 0, 2).copy()
    elif material == "pictures":
        image = plaster(rng, height, width)
        if width > density and height > density:
            return hang_pictures(rng, image, density)
    else:
        image = painting(rng, height, width, None if material == "abstract" else material).astype(np.float32)
    edge = max(2, int(0.012 * density))
    cv2.rectangle(image, (0, 0), (width - 1, height - 1), (60, 52, 44), edge)
    return image
