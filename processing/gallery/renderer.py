"""Images of a place: per-pixel rays, mip-mapped textures, two by two samples per pixel, and what a camera does to light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import camera as cameras
from d2s.geometry import pose
from processing.gallery.room import Place, Room, texture_position, trace

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]

SAMPLES = 2  # per pixel and axis
TILE = 160  # pixels: an image is rendered in tiles, which fit the cache and see few surfaces each
ROW = 512  # length of the rows in which scattered texture look-ups are packed for cv2.remap


@dataclass(frozen=True)
class Exposure:
    """How a picture was taken: `gain` per channel (3,), `vignetting` (share of light lost in the corners), `noise` (grey levels)."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    vignetting: float = 0.0
    noise: float = 0.0
    seed: tuple[int, ...] = (0,)


def pyramid(texture: Image) -> list[Image]:
    """The texture and its halves, down to a few pixels."""
    levels = [texture]
    while min(levels[-1].shape[:2]) > 4:
        height, width = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA))
    return levels


class Renderer:
    """Renders one place with one camera. `textures`: an RGB image for every surface, in the order of `place.surfaces`; may be shared."""

    def __init__(self, place: Room | Place, textures: list[Image], camera: pycolmap.Camera) -> None:
        self.place, self.camera = place, camera
        pyramids = {id(texture): pyramid(texture) for texture in textures}
        self.pyramids = [pyramids[id(texture)] for texture in textures]
        self.width, self.height = camera.width, camera.height
        rays = cameras.unproject(camera, self._sample_positions()).astype(np.float32)
        self._x, self._y = (rays[:, i].reshape(SAMPLES * self.height, SAMPLES * self.width) for i in (0, 1))
        self._sample_size = 1.0 / (SAMPLES * float(camera.mean_focal_length()))

    def _sample_positions(self) -> NDArray[np.float64]:
        x = (np.arange(SAMPLES * self.width) + 0.5) / SAMPLES - 0.5
        y = (np.arange(SAMPLES * self.height) + 0.5) / SAMPLES - 0.5
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    def render(self, cam_from_world: NDArray[np.float64], exposure: Exposure) -> Image:
        """The RGB image (H, W, 3) that the camera takes."""
        light = np.empty((self.height, self.width, 3), dtype=np.float32)
        for top in range(0, self.height, TILE):
            for left in range(0, self.width, TILE):
                tile = (slice(top, min(top + TILE, self.height)), slice(left, min(left + TILE, self.width)))
                light[tile] = self._render_tile(cam_from_world, *tile)
        return self._develop(light, exposure)

    def _render_tile(self, cam_from_world: NDArray[np.float64], rows: slice, columns: slice) -> Float32:
        size = (columns.stop - columns.start, rows.stop - rows.start)
        samples = tuple(slice(SAMPLES * s.start, SAMPLES * s.stop) for s in (rows, columns))
        x, y = (np.ascontiguousarray(rays[samples]) for rays in (self._x, self._y))
        inverse, index = trace(self.place, cam_from_world, x, y)
        x, y, index = x.ravel(), y.ravel(), index.ravel()
        depth = np.asarray(1 / inverse.ravel(), dtype=np.float32)
        colour = np.empty((x.size, 3), dtype=np.float32)
        order = np.argsort(index, kind="stable")
        counts = np.bincount(index)
        for i, chosen in enumerate(np.split(order, np.cumsum(counts)[:-1])):
            if len(chosen):
                colour[chosen] = self._look_up(i, cam_from_world, x[chosen], y[chosen], depth[chosen])
        fine = colour.reshape(SAMPLES * size[1], SAMPLES * size[0], 3)
        return np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), dtype=np.float32)

    def _look_up(self, i: int, cam_from_world: NDArray[np.float64], x: Float32, y: Float32, depth: Float32) -> Float32:
        """Colours (N, 3) of rays that meet surface i at the given depths, from the two nearest levels of its pyramid."""
        surface, levels = self.place.surfaces[i], self.pyramids[i]
        u, v = texture_position(surface, cam_from_world, x, y, depth)
        # One sample's area on the plane is depth^3 / distance times its area on the image plane z = 1.
        density = np.sqrt(levels[0].shape[0] * levels[0].shape[1] / (surface.size[0] * surface.size[1]))
        distance = max(abs(float(surface.normal @ (surface.origin - pose.center(cam_from_world)))), 1e-9)
        texels = density * self._sample_size / np.sqrt(distance)
        level = np.clip(np.log2(texels * depth * np.sqrt(depth)), 0, len(levels) - 1.001)
        whole = level.astype(np.uint8)
        colour = np.empty((len(u), 3), dtype=np.float32)
        for low in range(whole.min(), whole.max() + 1):
            chosen = np.flatnonzero(whole == low)
            if not len(chosen):
                continue
            near = _sample(levels[low], u[chosen], v[chosen])
            far = _sample(levels[low + 1], u[chosen], v[chosen])
            colour[chosen] = near + (far - near) * (level[chosen] - low)[:, None]
        return colour

    def _develop(self, light: Float32, exposure: Exposure) -> Image:
        random = np.random.default_rng(exposure.seed)
        x = (np.arange(self.width, dtype=np.float32) / max(self.width - 1, 1) * 2 - 1) ** 2
        y = (np.arange(self.height, dtype=np.float32) / max(self.height - 1, 1) * 2 - 1) ** 2
        falloff = 1 - np.float32(exposure.vignetting) * (x[None, :] + y[:, None]) / 2
        value = light * falloff[..., None] * np.array(exposure.gain, dtype=np.float32)
        if exposure.noise > 0:
            value += np.float32(exposure.noise) * random.standard_normal(value.shape, dtype=np.float32)
        return np.clip(np.rint(value), 0, 255).astype(np.uint8)


def _sample(level: Image, u: Float32, v: Float32) -> Float32:
    """Bilinear look-up (N, 3) at positions 0..1 of one pyramid level."""
    height, width = level.shape[:2]
    rows = -(-len(u) // ROW)
    x, y = np.zeros((rows, ROW), dtype=np.float32), np.zeros((rows, ROW), dtype=np.float32)
    x.reshape(-1)[: len(u)] = u * width - 0.5
    y.reshape(-1)[: len(v)] = v * height - 0.5
    colour = cv2.remap(level, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return colour.reshape(-1, 3)[: len(u)].astype(np.float32)
