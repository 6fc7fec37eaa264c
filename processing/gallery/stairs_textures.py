"""What the staircase looks like: the same on every storey, but for door numbers, three pictures, a few stickers and scratches."""

from __future__ import annotations

import zlib

import cv2
import numpy as np

from processing.gallery.noise import Float32, Image, Rng, fractal_noise, to_image
from processing.gallery.paintings import painting
from processing.gallery.room import Place, Room, Surface
from processing.gallery.stairs import CLIMB, HEIGHT, WIDTH
from processing.gallery.textures import board, crack, light, picture_frame

DENSITY = 260  # texels per metre
STICKERS, SCRATCHES = 1.0, 5.0  # per metre of wall: what tells one storey from the next, apart from door numbers and pictures
PRINT, PRINTS = (0.7, 0.7), ("shapes", "marble", "mosaic", "grid")  # the picture that each landing has for itself: metres, styles
POSTER, FLIGHT_PRINT = (0.62, 0.9), (0.6, 0.75)
CREAM, GREEN = (214, 204, 178), (88, 118, 104)
RUNNER = 1.3  # metres: width of the carpet


def make_stairs_textures(place: Room | Place, seed: int) -> list[Image]:
    """An RGB texture for every surface; surfaces of one model start from the same, walls of landings get details of their own."""
    models: dict[str, Image] = {}
    textures = []
    for surface in place.surfaces:
        key = surface.model or surface.name
        if key not in models:
            models[key] = _model(surface, _generator(key, seed))
        own = surface.material in DETAILED
        textures.append(_with_details(surface, models[key], _generator(surface.name + "-details", seed)) if own else models[key])
    return textures


def _generator(name: str, seed: int) -> Rng:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _model(surface: Surface, rng: Rng) -> Image:
    width, height = (max(8, round(side * DENSITY)) for side in surface.size)
    paint = PAINTERS.get(surface.material.removesuffix("-top"), _plain)
    image = paint(rng, height, width).astype(np.float32)
    return to_image(image * light(surface, rng, height, width))


def _texels(*metres: float) -> list[int]:
    return [round(value * DENSITY) for value in metres]


def _plain(rng: Rng, height: int, width: int) -> Float32:
    grain = fractal_noise(rng, height, width, 40, 5, 0.8)[..., None]
    return np.array(CREAM, dtype=np.float32) * (0.75 + 0.5 * grain)


def _two_tone(rng: Rng, height: int, width: int) -> Float32:
    """Rough plaster, cream above and green below, with a dark line between; rows from the ceiling down."""
    border = height - round(1.2 * DENSITY)
    image = np.empty((height, width, 3), dtype=np.float32)
    image[:border], image[border:] = CREAM, GREEN
    image[border - 6 : border + 4] = (70, 62, 54)
    rough = fractal_noise(rng, height, width, 60, 6, 0.85)[..., None]
    worn = np.clip((fractal_noise(rng, height, width, 90, 6, 0.8) - 0.62) * 8, 0, 1)[..., None]
    image = image * (0.6 + 0.8 * rough)
    return image * (1 - 0.5 * worn) + np.array([150, 140, 120], dtype=np.float32) * 0.5 * worn


def _paste(wall: Float32, picture: Float32 | Image, left: float, bottom: float) -> None:
    """Hang a picture with a little shadow; `left` and `bottom` (above the floor) in metres."""
    x, lower = round(left * DENSITY), wall.shape[0] - round(bottom * DENSITY)
    h, w = picture.shape[:2]
    wall[max(lower - h, 0) + 3 : lower + 5, x + 2 : x + w + 5] *= 0.6
    wall[lower - h : lower, x : x + w] = picture


def _door(rng: Rng) -> Float32:
    """A wooden door with four panels and a frosted pane, in its frame."""
    width, height, jamb = _texels(0.98, 2.1, 0.07)
    image = board(rng, height, width, np.array([128, 84, 52]))
    image[:, :jamb] *= 0.55
    image[:, -jamb:] *= 0.55
    image[:jamb] *= 0.55
    for top, bottom in ((0.95, 1.3), (1.42, 2.0)):
        for left, right in ((0.16, 0.46), (0.54, 0.84)):
            a, b, c, d = _texels(top, bottom, left, right)
            image[a:b, c:d] *= 0.72
            image[a + 8 : b - 8, c + 8 : d - 8] = board(rng, b - a - 16, d - c - 16, np.array([146, 98, 62]))
    a, b, c, d = _texels(0.2, 0.82, 0.2, 0.8)
    glass = np.array([150, 172, 168], dtype=np.float32) * (0.6 + 0.8 * fractal_noise(rng, b - a, d - c, 12, 4, 0.9))[..., None]
    image[a - 5 : b + 5, c - 5 : d + 5] *= 0.4
    image[a:b, c:d] = glass
    image[a:b, (c + d) // 2 - 3 : (c + d) // 2 + 3] = (96, 66, 44)
    knob = to_image(image)
    cv2.circle(knob, tuple(_texels(0.87, 1.18)), 9, (196, 164, 90), -1, cv2.LINE_AA)
    cv2.circle(knob, tuple(_texels(0.87, 1.25)), 4, (40, 34, 26), -1, cv2.LINE_AA)
    return knob.astype(np.float32)


def _framed(rng: Rng, width: float, height: float, style: str) -> Float32:
    w, h = _texels(width, height)
    picture = picture_frame(rng, h, w, 10)
    picture[10:-10, 10:-10] = painting(rng, h - 20, w - 20, style)
    return picture


def _landing_south(rng: Rng, height: int, width: int) -> Float32:
    """Two doors."""
    wall = _two_tone(rng, height, width)
    door = _door(rng)
    _paste(wall, door, 0.35, 0)
    _paste(wall, door, 2.85, 0)
    _switch(wall, 1.5, 1.15)
    _switch(wall, 2.7, 1.15)
    return wall


def _landing_north(rng: Rng, height: int, width: int) -> Float32:
    """A door and a window onto the yard."""
    wall = _two_tone(rng, height, width)
    _paste(wall, _door(rng), 0.55, 0)
    _paste(wall, _window(rng, 0.95, 1.25), 1.7, 1.05)
    _switch(wall, 1.58, 1.15)
    return wall


def _switch(wall: Float32, left: float, bottom: float) -> None:
    size = _texels(0.08)[0]
    picture = np.full((size, size, 3), 226, dtype=np.float32)
    picture[:2] = picture[-2:] = picture[:, :2] = picture[:, -2:] = 120
    picture[5:-5, size // 2 - 1 : size // 2 + 1] = 90
    _paste(wall, picture, left, bottom)


def _window(rng: Rng, width: float, height: float) -> Float32:
    """The same yard on every storey, through six panes."""
    w, h = _texels(width, height)
    view = painting(rng, h, w, "landscape").astype(np.float32) * 0.6 + 100
    for x in np.linspace(0, w, 3).astype(int):
        view[:, max(x - 7, 0) : x + 7] = (232, 228, 218)
    for y in np.linspace(0, h, 4).astype(int):
        view[max(y - 7, 0) : y + 7] = (232, 228, 218)
    return np.minimum(view, 255)


def _end_wall(rng: Rng, height: int, width: int) -> Float32:
    """The foot and the top of the stairs: a large picture."""
    wall = _two_tone(rng, height, width)
    _paste(wall, _framed(rng, 1.5, 1.3, "landscape"), 0.45, 1.0)
    return wall


def _flight_side(rng: Rng, height: int, width: int, up: int) -> Float32:
    """A wall along a flight: its dado follows the steps, two prints hang along it. `up`: +1 when the steps rise to the right."""
    flat = _two_tone(rng, round(HEIGHT * DENSITY), width)
    climb = height - flat.shape[0]
    lower = np.linspace(float(up > 0), float(up < 0), width, dtype=np.float32)[None]  # share of the climb by which the wall lies lower
    rows = np.arange(height, dtype=np.float32)[:, None] - climb * lower
    columns = np.broadcast_to(np.arange(width, dtype=np.float32)[None], rows.shape)
    wall = np.asarray(cv2.remap(flat, np.ascontiguousarray(columns), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
    prints = ((0, "grid"),) if up > 0 else ((0, "grid"), (1, "strokes"))
    for number, style in prints:
        _paste(wall, _framed(rng, *FLIGHT_PRINT, style), *_print_place(number, width / DENSITY, climb / DENSITY, up))
    return wall


def _print_place(number: int, width: float, climb: float, up: int) -> tuple[float, float]:
    """Where the first or second print on the wall of a flight hangs, metres from the left and above the wall's lower end."""
    left = (0.3, 1.35)[number]
    share = (left + FLIGHT_PRINT[0] / 2) / width
    return left, 1.35 + climb * (share if up > 0 else 1 - share)


def _tiles(rng: Rng, height: int, width: int) -> Float32:
    """Tiles of two colours with flecks."""
    side = _texels(0.3)[0]
    rows, columns = np.mgrid[:height, :width]
    dark = ((rows // side + columns // side) % 2 == 0)[..., None]
    image = np.where(dark, np.array([112, 104, 96]), np.array([188, 180, 164])).astype(np.float32)
    image *= (0.55 + 0.9 * fractal_noise(rng, height, width, 7, 3, 0.9))[..., None]
    image[(rows % side < 2) | (columns % side < 2)] *= 0.5
    return image


def _carpet(rng: Rng, length: int, width: int) -> Float32:
    """A red runner (length, width, 3) with an ornament that repeats, and borders."""
    period = _texels(0.29)[0]
    piece = painting(rng, period, width // 2 + 1, "mosaic").astype(np.float32) * 0.35
    piece = np.concatenate([piece, piece[:, ::-1]], axis=1)[:, :width] + np.array([120, 22, 28])
    image = np.tile(piece, (length // period + 1, 1, 1))[:length]
    for edge in (10, 22):
        image[:, edge : edge + 5] = image[:, width - edge - 5 : width - edge] = (196, 158, 84)
    return image * (0.8 + 0.4 * fractal_noise(rng, length, width, 4, 2))[..., None]


def _landing_floor(rng: Rng, height: int, width: int) -> Float32:
    """Tiles, and the runner along the middle."""
    floor = _tiles(rng, height, width)
    runner = _texels(RUNNER)[0]
    top = (height - runner) // 2
    floor[top : top + runner] = _carpet(rng, width, runner).transpose(1, 0, 2)
    return floor


def _step(rng: Rng, height: int, width: int) -> Float32:
    """A riser or a tread: stone, with the runner over its middle; the longer side runs across the stairs. Its other sides nobody sees."""
    if max(height, width) < round(WIDTH * DENSITY):
        return _plain(rng, height, width)
    if height > width:
        return np.ascontiguousarray(_step(rng, width, height).transpose(1, 0, 2)[:, ::-1])
    grain = fractal_noise(rng, height, width, 10, 3, 0.9)[..., None]
    image = np.array([172, 162, 146], dtype=np.float32) * (0.6 + 0.8 * grain)
    runner = _texels(RUNNER)[0]
    left = (width - runner) // 2
    image[:, left : left + runner] = _carpet(rng, height, runner)
    image[:3] *= 0.5
    image[3:9] = image[3:9] * 0.6 + 60
    return image


def _ceiling(rng: Rng, height: int, width: int) -> Float32:
    """Plaster, and a lamp in the middle."""
    image = to_image(_plain(rng, height, width) * 1.05)
    middle = (width // 2, height // 2)
    for radius, tone in ((0.3, (150, 130, 96)), (0.27, (255, 246, 220)), (0.1, (236, 214, 160)), (0.03, (90, 76, 54))):
        cv2.circle(image, middle, _texels(radius)[0], tone, -1, cv2.LINE_AA)
    return image.astype(np.float32)


def _radiator(rng: Rng, height: int, width: int) -> Float32:
    """Ribs of cast iron."""
    rib = np.abs(np.sin(np.arange(width) / DENSITY * np.pi / 0.06))[None, :, None].astype(np.float32)
    grain = fractal_noise(rng, height, width, 9, 3)[..., None]
    return np.array([206, 202, 190], dtype=np.float32) * (0.35 + 0.6 * rib) * (0.8 + 0.4 * grain)


def _planter(rng: Rng, height: int, width: int) -> Float32:
    """A clay pot below, leaves above."""
    image = np.full((height, width, 3), (158, 90, 60), dtype=np.uint8)
    for _ in range(height * width // 60):
        x, y = int(rng.integers(width)), int(rng.integers(max(1, round(0.6 * height))))
        green = np.clip(np.array([60, 120, 50]) * rng.uniform(0.4, 1.5) + rng.normal(0, 8, 3), 0, 255)
        cv2.ellipse(image, (x, y), (int(rng.integers(4, 14)), 3), rng.random() * 360, 0, 360, green.tolist(), -1, cv2.LINE_AA)
    return image * (0.75 + 0.5 * fractal_noise(rng, height, width, 10, 3)[..., None])


def _rail(rng: Rng, height: int, width: int) -> Float32:
    return board(rng, max(height, width), min(height, width), np.array([104, 62, 38])).reshape(height, width, 3)


def _with_details(surface: Surface, model: Image, rng: Rng) -> Image:
    """What only this storey has: numbers on the doors, a drawing, stickers, scratches."""
    wall = model.copy()
    for _ in range(round(SCRATCHES * surface.size[0])):
        crack(rng, wall)
    paper = wall.astype(np.float32)
    for _ in range(round(STICKERS * surface.size[0])):
        size = rng.uniform(0.07, 0.13)
        w, h = _texels(size, size * rng.uniform(0.6, 1.3))
        _paste(paper, painting(rng, h, w), rng.uniform(0.1, surface.size[0] - 0.3), rng.uniform(0.4, surface.size[1] - 0.8))
    if surface.name.startswith("landing"):
        _add_signs(surface, paper, rng)
    elif surface.material == "flight-north":
        _paste(paper, _framed(rng, *FLIGHT_PRINT, "strokes"), *_print_place(1, surface.size[0], CLIMB, 1))
    return to_image(paper)


def _add_signs(surface: Surface, wall: Float32, rng: Rng) -> None:
    """Numbers on the doors, and a poster and a print of its own for every storey."""
    storey = int(surface.name.removeprefix("landing").split("-")[0]) + 1
    for number, left in enumerate(DETAILED[surface.material]):
        _paste(wall, _number_plate(f"{storey}{number + (1 if 'south' in surface.name else 3):02d}"), left, 1.75)
    if surface.material == "landing-south":
        _paste(wall, _framed(rng, *POSTER, "poster"), 1.75, 1.15)
    else:
        _paste(wall, _framed(rng, *PRINT, PRINTS[storey % len(PRINTS)]), 3.1, 1.3)


def _number_plate(text: str) -> Image:
    height, width = _texels(0.09, 0.16)
    plate = np.full((height, width, 3), (206, 184, 120), dtype=np.uint8)
    cv2.rectangle(plate, (0, 0), (width - 1, height - 1), (70, 56, 34), 1)
    cv2.putText(plate, text, (4, height - 7), cv2.FONT_HERSHEY_DUPLEX, 0.52, (34, 28, 22), 1, cv2.LINE_AA)
    return plate


DETAILED: dict[str, tuple[float, ...]] = {"landing-south": (0.76, 3.26), "landing-north": (0.96,), "flight-south": (), "flight-north": ()}
"""Materials that carry details, with the places (metres from the left) of the number plates on their doors."""

PAINTERS = {
    "landing-south": _landing_south,
    "landing-north": _landing_north,
    "landing-west": _end_wall,
    "landing-east": _end_wall,
    "landing-floor": _landing_floor,
    "landing-ceiling": _ceiling,
    "flight-south": lambda rng, height, width: _flight_side(rng, height, width, -1),
    "flight-north": lambda rng, height, width: _flight_side(rng, height, width, 1),
    "flight-ceiling": _ceiling,
    "step": _step,
    "radiator": _radiator,
    "planter": _planter,
    "rail": _rail,
}
