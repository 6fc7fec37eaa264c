"""A made-up place whose points, cameras and descriptors are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from d2s.features.base import LocalFeatures
from d2s.geometry.camera import make_camera, project
from d2s.geometry.pose import transform
from processing.pseudo.candidates import Neighbour
from processing.pseudo.labelled_map import LabelledMap

CAMERA = make_camera("SIMPLE_RADIAL", 640, 480, [520, 320, 240, -0.05])
DIM = 64


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass
class Place:
    """`the_map`, and photos of it taken anywhere. Point i looks like `looks[i]`."""

    the_map: LabelledMap
    looks: np.ndarray
    rng: np.random.Generator
    camera = CAMERA

    @staticmethod
    def at(x, yaw_deg=0.0):
        """cam_from_world of a camera at (x, 0, 0), turned about the vertical."""
        a = np.radians(yaw_deg)
        rotation = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        return np.column_stack([rotation, -rotation @ [x, 0, 0]])

    def photo(self, cam_from_world, points, noise=0.3):
        """Features whose row i shows points[i] (-1: something that is not in the map), and the point that each row shows."""
        pixels, _ = project(CAMERA, transform(cam_from_world, self.the_map.xyz[points].astype(float)))
        pixels += self.rng.normal(scale=0.3, size=pixels.shape)
        other = points < 0
        pixels[other] = self.rng.uniform(0, [639, 479], (other.sum(), 2))
        looks = self.looks[points] + noise * unit(self.rng.normal(size=(len(points), DIM)))
        looks[other] = self.rng.normal(size=(other.sum(), DIM))
        return LocalFeatures(pixels.astype(np.float32), np.linspace(1, 0.1, len(points), dtype=np.float32), unit(looks), (640, 480))

    def neighbour(self, name, x, points):
        """A mapping image at x that shows the given points, all of them labelled."""
        points = np.asarray(points)
        return Neighbour(name, self.photo(self.at(x), points), np.where(points >= 0, points, -1))


@pytest.fixture
def place():
    rng = np.random.default_rng(7)
    xyz = rng.uniform([-2, -1.4, 4], [2, 1.4, 8], (400, 3)).astype(np.float32)
    the_map = LabelledMap(xyz, rng.integers(3, 9, 400).astype(np.int32), rng.uniform(0, 2, 400).astype(np.float32), {})
    return Place(the_map, unit(rng.normal(size=(400, DIM))), rng)
