"""A frame with what localizing made of it: keypoints, pose, confidence, speed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from d2s.features.images import to_rgb
from d2s.localization.result import LocalizationResult

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

LONGEST, SMALLEST = 1280, 640
"""Longer side of the picture in pixels: larger frames are shrunk, smaller ones enlarged, so that the text has room."""
GREEN, RED, AMBER, WHITE, GRAY = (44, 214, 88), (240, 60, 44), (255, 176, 32), (255, 255, 255), (190, 190, 190)


def draw_overlay(image: Picture, result: LocalizationResult, name: str, units: str, fps: float | None = None) -> Picture:
    """The frame (H, W) or (H, W, 3) RGB as RGB with even sides, as video codecs want them.

    Green dots: inliers of the pose. Small red dots: keypoints that were rejected, by the network or by the pose. A band at the bottom says
    where the camera is, how sure that is, and how fast it went.
    """
    canvas, scale = _canvas(image)
    unit = max(canvas.shape[:2]) / 640
    _dots(canvas, result.keypoints[~result.inliers], scale, 1.3 * unit, RED)
    _dots(canvas, result.keypoints[result.inliers], scale, 2.2 * unit, GREEN)
    return _with_band(canvas, result, name, units, fps, unit)


def _canvas(image: Picture) -> tuple[Picture, float]:
    """The frame at the size of the picture, a little darker so that dots stand out, and its scale."""
    rgb = to_rgb(image)
    longest = max(rgb.shape[:2])
    scale = min(max(longest, SMALLEST), LONGEST) / longest
    size = tuple(max(2, 2 * round(side * scale / 2)) for side in rgb.shape[1::-1])
    resized = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(cv2.convertScaleAbs(resized, alpha=0.85), dtype=np.uint8), scale


def _dots(canvas: Picture, keypoints: NDArray[np.float32], scale: float, radius: float, color: Color) -> None:
    """Round dots, blended pixel by pixel: circles of this size that OpenCV fills are diamonds."""
    places = (keypoints + 0.5) * scale - 0.5
    corners, reach = np.floor(places).astype(int), int(np.ceil(radius)) + 1
    for dy in range(-reach, reach + 2):
        for dx in range(-reach, reach + 2):
            x, y = corners[:, 0] + dx, corners[:, 1] + dy
            share = np.clip(radius + 0.5 - np.hypot(x - places[:, 0], y - places[:, 1]), 0, 1)
            hit = (share > 0) & (x >= 0) & (y >= 0) & (x < canvas.shape[1]) & (y < canvas.shape[0])
            part = share[hit, None]
            canvas[y[hit], x[hit]] = ((1 - part) * canvas[y[hit], x[hit]] + part * np.array(color)).astype(np.uint8)


def _with_band(canvas: Picture, result: LocalizationResult, name: str, units: str, fps: float | None, unit: float) -> Picture:
    """Two lines of text on a darkened band: state and confidence, then position and counts; name and speed on the right."""
    large, small = _font(round(13 * unit), True), _font(round(11 * unit), False)
    pad, height, width = round(7 * unit), round(45 * unit), canvas.shape[1]
    band = canvas[-height:]
    band[:] = band // 4
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    top, second = canvas.shape[0] - height + pad, canvas.shape[0] - pad - round(12 * unit)
    right = width - pad
    speed = "" if fps is None else f"{fps:.1f} frames/s"
    state, color, detail = words(result, units)
    draw.text((pad, top), state, color, large)
    name = _cut(draw, name, small, right - 3 * pad - draw.textlength(state, large))
    draw.text((right, top), name, GRAY, small, anchor="ra")
    draw.text((right, second), speed, GRAY, small, anchor="ra")
    room = right - pad - draw.textlength(speed, small) - 2 * pad
    draw.text((pad, second), _cut(draw, detail, small, room), WHITE, small)
    return np.asarray(picture, dtype=np.uint8)


def words(result: LocalizationResult, units: str) -> tuple[str, Color, str]:
    """What the band says: state, its colour, and details."""
    counts = f"{result.num_inliers} inliers of {result.extracted}"
    if result.center is None:
        return "not localized", RED, result.reason
    x, y, z = result.center
    place = f"x {x:.2f}  y {y:.2f}  z {z:.2f}{' m' if units == 'metres' else ''}   {counts}"
    if result.rival is not None:
        return f"two places fit, confidence {result.confidence:.2f}", AMBER, place
    return f"localized, confidence {result.confidence:.2f}", GREEN, place


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, shortened to the room that it has."""
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "…", font) > room:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), max(size, 6))
