"""What another day does to a photo: pure functions of its pixels, its camera and a generator seeded by its name.

They are simulations, each as strong as what telephones bring home: a photo stays one that a person recognises at a glance.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.features.images import decode_image
from d2s.geometry.image import crop, resize
from processing.augmentation.light import generator_of

Image = NDArray[np.uint8]
Random = np.random.Generator

GAMMA = 2.2
TELE = 0.6
"""Share of each side that a longer lens sees."""


def change(name: str, image: Image, camera: pycolmap.Camera, photo: str) -> tuple[Image, pycolmap.Camera]:
    """The RGB image (H, W, 3) after the change of that name, and its camera; `photo` names the photo, and alone decides what is drawn."""
    random = generator_of("other day", name, photo)
    if name == "tele":
        return tele(image, camera)
    return PIXELS[name](image, random), camera


def night(image: Image, random: Random) -> Image:
    """Lamp light, little of it: a warm white balance, few photons a pixel, the noise of the sensor, what denoising leaves of it."""
    light = (image / 255.0) ** GAMMA * np.array([1.0, 0.72, 0.42]) * random.uniform(0.8, 1.2, 3)
    photons = 30 * random.uniform(0.7, 1.4)  # of a white pixel
    counted = random.poisson(light * photons) + random.normal(0, 1.5, image.shape)
    seen = cv2.GaussianBlur(counted / photons * random.uniform(0.15, 0.4), (0, 0), 0.7)
    return to_image(255 * np.clip(seen, 0, 1) ** (1 / GAMMA))


def blur(image: Image, random: Random) -> Image:
    """The camera moved in a straight line while the shutter was open, by 1 to 2 % of the longer side."""
    length = max(image.shape[:2]) * random.uniform(0.01, 0.02)
    angle, size = random.uniform(0, np.pi), 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((size, size), np.float32)
    for step in np.linspace(-length / 2, length / 2, 8 * size):
        x, y = size // 2 + step * np.cos(angle), size // 2 + step * np.sin(angle)
        kernel[round(y), round(x)] += 1
    return to_image(cv2.filter2D(image.astype(np.float32), -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT))


def rain(image: Image, random: Random) -> Image:
    """Streaks of drops, less contrast, a grey sky over everything."""
    height, width = image.shape[:2]
    streaks, slant = np.zeros((height, width), np.float32), random.uniform(-0.25, 0.25)
    for _ in range(700):
        x, y, length = random.uniform(0, width), random.uniform(-0.05, 1) * height, random.uniform(0.02, 0.07) * height
        end = (round(x + slant * length), round(y + length))
        cv2.line(streaks, (round(x), round(y)), end, random.uniform(0.25, 0.7), max(1, round(height / 700)), cv2.LINE_AA)
    streaks = cv2.GaussianBlur(streaks, (0, 0), height / 1000)[..., None]
    hazy = 0.75 * image + 0.25 * 150
    return to_image(hazy + streaks * (215 - hazy))


def jpeg(image: Image, random: Random) -> Image:
    """Saved at JPEG quality 20."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 20])
    return decode_image(data.tobytes(), "saved again")


def people(image: Image, random: Random) -> Image:
    """Four people side by side, in clothes that have a pattern; they hide about a quarter of the photo."""
    height, width = image.shape[:2]
    changed, side = image.copy(), np.sqrt(0.75 * width * height)  # the height of a 4:3 photo with as many pixels
    for place, tall in zip(random.permutation(4), np.sort(random.uniform(0.5, 0.8, 4)) * side, strict=True):
        x, broad = round(width * (place + random.uniform(0.2, 0.8)) / 4), round(0.13 * tall)
        body, shoulders = np.zeros((height, width), np.uint8), round(height - 0.7 * tall)
        cv2.rectangle(body, (x - broad, shoulders), (x + broad, height), 1, -1)
        cv2.ellipse(body, (x, shoulders), (broad, round(0.1 * tall)), 0, 0, 360, 1, -1)
        cv2.ellipse(body, (x, round(height - 0.9 * tall)), (round(0.07 * tall), round(0.1 * tall)), 0, 0, 360, 2, -1)
        coarse = random.uniform(0, 255, 3) + random.normal(0, 40, (24, 18, 3))
        cloth = cv2.resize(np.clip(coarse, 0, 255), (width, height), interpolation=cv2.INTER_CUBIC)
        changed[body == 1] = to_image(cloth)[body == 1]
        changed[body == 2] = to_image(np.array([224, 172, 140]) * random.uniform(0.4, 1.05))
    return changed


def tele(image: Image, camera: pycolmap.Camera) -> tuple[Image, pycolmap.Camera]:
    """The middle of the photo at its full size: a longer lens, whose true camera comes with it."""
    size = (camera.width, camera.height)
    inner = (round(TELE * size[0]), round(TELE * size[1]))
    warp = crop(size, (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2, inner).then(resize(inner, size))
    return to_image(warp.apply_image(image)), warp.apply_camera(camera)


def to_image(values: NDArray[np.floating] | Image) -> Image:  # type: ignore[type-arg]
    """Rounded and clipped to uint8."""
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


PIXELS: dict[str, Callable[[Image, Random], Image]] = {"night": night, "blur": blur, "rain": rain, "jpeg": jpeg, "people": people}
"""Changes that leave the camera as it is."""
CHANGES = (*PIXELS, "tele")
