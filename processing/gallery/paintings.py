"""Paintings for the gallery: a handful of styles, every picture different, rich in corners and blobs at all scales."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from processing.gallery.noise import Float32, Image, Rng, colourize, fractal_noise, palette, smooth_noise, to_image

# fmt: off
WORDS = (
    "LIGHT", "ATLAS", "NORD", "1927", "MUSEUM", "RHYTHM", "VERDE", "KLANG", "OPUS", "FORM", "ORBIT",
    "CASA", "BLAU", "ECHO", "TERRA", "NOVA", "61", "ZEBRA", "QUARTZ", "JAZZ", "FUGUE", "VOX",
)
# fmt: on
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_COMPLEX)


def _colour(rng: Rng, colours: Float32) -> tuple[int, int, int]:
    r, g, b = np.clip(colours[rng.integers(len(colours))] + rng.normal(0, 12, 3), 0, 255)
    return int(r), int(g), int(b)


def marble(rng: Rng, height: int, width: int) -> Image:
    """Poured paint: noise whose domain is bent by other noise, in bands of colour."""
    bend = max(height, width) * 0.25
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    base = fractal_noise(rng, height, width, max(height, width) / 3, 6)
    shift = [bend * (fractal_noise(rng, height, width, bend, 4) - 0.5) for _ in range(2)]
    bent = cv2.remap(base, columns + shift[0], rows + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    bands = (bent * rng.uniform(2.5, 4.5)) % 1.0
    return colourize(np.abs(2 * bands - 1), palette(rng, 7))


def shapes(rng: Rng, height: int, width: int) -> Image:
    """Circles, polygons, arcs and lines over a mottled ground."""
    colours = palette(rng, 9)
    image = colourize(0.6 + 0.5 * (fractal_noise(rng, height, width, 40, 4) - 0.5), colours)
    scale = np.sqrt(height * width)
    for i in range(int(rng.integers(60, 90))):
        size = scale * 0.22 * rng.beta(1.0, 4.0) * (1.5 if i < 8 else 1) + 3
        _shape(rng, image, size, _colour(rng, colours), _colour(rng, colours[:3]))
    return image


def _shape(rng: Rng, image: Image, size: float, fill: tuple[int, int, int], edge: tuple[int, int, int]) -> None:
    height, width = image.shape[:2]
    x, y = rng.integers(width), rng.integers(height)
    kind = rng.integers(4)
    if kind == 0:
        cv2.circle(image, (int(x), int(y)), int(size), fill, -1, cv2.LINE_AA)
        cv2.circle(image, (int(x), int(y)), int(size * rng.uniform(0.3, 1)), edge, 2, cv2.LINE_AA)
    elif kind == 1:
        angles = np.sort(rng.random(int(rng.integers(3, 6)))) * 2 * np.pi
        corners = np.stack([x + size * np.cos(angles), y + size * np.sin(angles)], axis=-1).astype(np.int32)
        cv2.fillPoly(image, [corners], fill, cv2.LINE_AA)
        cv2.polylines(image, [corners], True, edge, 1, cv2.LINE_AA)
    elif kind == 2:
        angle = rng.random() * 2 * np.pi
        end = (int(x + 3 * size * np.cos(angle)), int(y + 3 * size * np.sin(angle)))
        cv2.line(image, (int(x), int(y)), end, fill, int(rng.integers(2, 7)), cv2.LINE_AA)
    else:
        axes = (int(size), int(size * rng.uniform(0.3, 1)))
        cv2.ellipse(image, (int(x), int(y)), axes, rng.random() * 360, 0, rng.uniform(120, 360), fill, int(rng.integers(2, 6)), cv2.LINE_AA)


def mosaic(rng: Rng, height: int, width: int) -> Image:
    """Tiles around random centres, coloured by a landscape of noise, with joints."""
    count = int(np.clip(height * width / 260, 60, 1400))
    centres = np.stack([rng.integers(0, height, count), rng.integers(0, width, count)], axis=-1)
    seeds = np.full((height, width), 255, dtype=np.uint8)
    seeds[centres[:, 0], centres[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = fractal_noise(rng, height, width, max(height, width) / 3, 4)[centres[:, 0], centres[:, 1]]
    tones = colourize(np.clip(1.8 * (value - 0.5) + 0.5 + rng.normal(0, 0.12, count), 0, 1).astype(np.float32)[None], palette(rng, 6))[0]
    lookup = np.zeros((int(label.max()) + 1, 3), dtype=np.uint8)
    lookup[label[centres[:, 0], centres[:, 1]]] = tones
    image = lookup[label]
    joints = cv2.morphologyEx(label.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    image[joints] = (image[joints] * 0.45).astype(np.uint8)
    return to_image(image * (1.08 - 0.02 * np.minimum(distance, 10))[..., None])


def strokes(rng: Rng, height: int, width: int) -> Image:
    """Short brush strokes that follow a flow, light over dark."""
    colours = palette(rng, 8)
    tone = fractal_noise(rng, height, width, max(height, width) / 2.5, 3)
    flow = smooth_noise(rng, height, width, max(height, width) / 2) * 4 * np.pi
    image = colourize(tone * 0.6, colours)
    count = int(np.clip(height * width / 45, 300, 5000))
    xs, ys = rng.integers(0, width, count), rng.integers(0, height, count)
    lengths, jitter = rng.uniform(4, 15, count), rng.normal(0, 0.16, count)
    picked = np.clip((1.6 * (tone[ys, xs] - 0.5) + 0.5 + jitter) * len(colours), 0, len(colours) - 1).astype(int)
    for x, y, length, c in zip(xs, ys, lengths, picked, strict=True):
        dx, dy = length * np.cos(flow[y, x]), length * np.sin(flow[y, x])
        cv2.line(
            image, (int(x - dx), int(y - dy)), (int(x + dx), int(y + dy)), [float(v) for v in colours[c]], int(1 + length / 5), cv2.LINE_AA
        )
    return image


def poster(rng: Rng, height: int, width: int) -> Image:
    """Words and numbers in several sizes on coloured bars."""
    colours = palette(rng, 6)
    image = np.full((height, width, 3), colours[-1], dtype=np.uint8)
    y = 0
    while y < height:
        bar = int(min(rng.uniform(0.06, 0.22) * height + 10, height))
        dark = bool(rng.random() < 0.5)
        ground, ink = (
            (_colour(rng, colours[:2]), _colour(rng, colours[-2:])) if dark else (_colour(rng, colours[-3:]), _colour(rng, colours[:2]))
        )
        cv2.rectangle(image, (0, y), (width, y + bar), ground, -1)
        _text_line(rng, image, y, bar, ink)
        y += bar
    for _ in range(6):
        _shape(rng, image, 0.05 * height + 3, _colour(rng, colours), _colour(rng, colours[:2]))
    return image


def _text_line(rng: Rng, image: Image, y: int, bar: int, ink: tuple[int, int, int]) -> None:
    scale = bar / 42
    x = int(rng.integers(2, 14))
    while x < image.shape[1]:
        word = str(rng.choice(WORDS)) if rng.random() < 0.7 else str(rng.integers(10, 9999))
        font = int(rng.choice(FONTS))
        cv2.putText(image, word, (x, int(y + 0.8 * bar)), font, scale, ink, max(1, round(1.6 * scale)), cv2.LINE_AA)
        x += cv2.getTextSize(word, font, scale, 1)[0][0] + int(9 * scale) + 3


def grid(rng: Rng, height: int, width: int) -> Image:
    """Rectangles split again and again, some hatched, some dotted."""
    colours = palette(rng, 8)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    stack = [(0, 0, width, height)]
    while stack:
        x, y, w, h = stack.pop()
        if max(w, h) > 16 and (max(w, h) > 90 or rng.random() < 0.75):
            stack += _split(rng, x, y, w, h)
        else:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), _colour(rng, colours), -1)
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (25, 22, 20), 1)
            if rng.random() < 0.3 and min(w, h) > 8:
                cv2.circle(image, (x + w // 2, y + h // 2), min(w, h) // 3, _colour(rng, colours), -1, cv2.LINE_AA)
    return image


def _split(rng: Rng, x: int, y: int, w: int, h: int) -> list[tuple[int, int, int, int]]:
    share = rng.uniform(0.3, 0.7)
    if w > h:
        cut = int(w * share)
        return [(x, y, cut, h), (x + cut, y, w - cut, h)]
    cut = int(h * share)
    return [(x, y, w, cut), (x, y + cut, w, h - cut)]


def landscape(rng: Rng, height: int, width: int) -> Image:
    """Sky with clouds, ridges one behind the other, trees and houses."""
    sky, land = palette(rng, 5), palette(rng, 6)
    clouds = fractal_noise(rng, height, width, height / 2, 6)
    image = colourize(np.clip(0.35 + 0.9 * (clouds - 0.5) + np.linspace(0.3, 0.6, height, dtype=np.float32)[:, None], 0, 1), sky)
    grain = fractal_noise(rng, height, width, 12, 3)
    for layer in range(5):
        line = height * (0.35 + 0.14 * layer) + height * 0.3 * (fractal_noise(rng, 1, width, width / 3, 6)[0] - 0.5)
        below = np.arange(height)[:, None] > line[None]
        tone = colourize(np.clip(0.15 * layer + 0.7 * grain, 0, 1), land)
        image[below] = tone[below]
        for _ in range(14):
            _tree_or_house(rng, image, line, 5 + 5 * layer, _colour(rng, land), _colour(rng, sky))
    return image


def _tree_or_house(rng: Rng, image: Image, line: Float32, size: int, dark: tuple[int, int, int], light: tuple[int, int, int]) -> None:
    x = int(rng.integers(len(line)))
    y = int(line[x] + rng.uniform(0, 2 * size))
    s = max(2, int(size * rng.uniform(0.5, 1.2)))
    if rng.random() < 0.6:
        corners = np.array([[x - s // 2, y], [x + s // 2, y], [x, y - 2 * s]], dtype=np.int32)
        cv2.fillPoly(image, [corners], dark, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (x - s, y - s), (x + s, y), light, -1)
        cv2.rectangle(image, (x - s // 2, y - s // 2), (x - s // 4, y - s // 5), dark, -1)
        roof = np.array([[x - s - 2, y - s], [x + s + 2, y - s], [x, y - 2 * s]], dtype=np.int32)
        cv2.fillPoly(image, [roof], dark, cv2.LINE_AA)


STYLES: dict[str, Callable[[Rng, int, int], Image]] = {
    "marble": marble,
    "shapes": shapes,
    "mosaic": mosaic,
    "strokes": strokes,
    "poster": poster,
    "grid": grid,
    "landscape": landscape,
}


def painting(rng: Rng, height: int, width: int, style: str | None = None) -> Image:
    """A picture (H, W, 3) in the given style, or in a random one, with a little canvas grain."""
    name = style or str(rng.choice(list(STYLES)))
    image = STYLES[name](rng, height, width).astype(np.float32)
    image += 14 * (fractal_noise(rng, height, width, 6, 3)[..., None] - 0.5)
    return to_image(image)
