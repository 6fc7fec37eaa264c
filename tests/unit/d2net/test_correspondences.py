"""Correspondences by depth between random cameras that look at a plane, where everything is known exactly."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from d2s.d2net.correspondences import View, corresponding_cells, depth_at, warp
from d2s.errors import InputError
from d2s.geometry.camera import project, unproject


class Photo:
    """A crop of a photo of the plane n . X = d, through COLMAP's own camera."""

    def __init__(self, seed: int, normal: np.ndarray, distance: float, size: tuple[int, int] = (96, 80)) -> None:
        rng = np.random.default_rng(seed)
        self.camera = pycolmap.Camera(model="PINHOLE", width=200, height=180, params=[170 + 9 * seed, 165, 98, 91.5])
        self.rotation = Rotation.from_euler("xyz", rng.uniform(-12, 12, 3), degrees=True).as_matrix()
        self.translation = rng.uniform(-0.2, 0.2, 3)
        self.corner, self.size = rng.integers(20, 60, 2), size
        columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        self.depth = self.plane_depth(np.column_stack([columns.ravel(), rows.ravel()]), normal, distance).reshape(size[1], size[0])

    def plane_depth(self, pixels: np.ndarray, normal: np.ndarray, distance: float) -> np.ndarray:
        rays = np.column_stack([unproject(self.camera, pixels + self.corner), np.ones(len(pixels))])
        return (distance + normal @ self.rotation.T @ self.translation) / (rays @ self.rotation @ normal)

    def world(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        rays = np.column_stack([unproject(self.camera, pixels + self.corner), np.ones(len(pixels))])
        return (rays * depth[:, None] - self.translation) @ self.rotation

    def pixels(self, points: np.ndarray) -> np.ndarray:
        return project(self.camera, points @ self.rotation.T + self.translation)[0] - self.corner

    def view(self) -> View:
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.translation
        # Depth maps come as float32
        return View(
            *(torch.from_numpy(np.asarray(a)) for a in (self.depth.astype(np.float32), self.camera.calibration_matrix(), pose, self.corner))
        )


NORMAL, DISTANCE = np.array([0.3, -0.2, 1.0]), 3.0


def photos(seed: int) -> tuple[Photo, Photo]:
    return Photo(2 * seed, NORMAL, DISTANCE), Photo(2 * seed + 1, NORMAL, DISTANCE)


def places(count: int = 300) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).uniform([-4, -4], [100, 84], (count, 2)))


@pytest.mark.parametrize("seed", range(4))
def test_warp_finds_the_point_on_the_plane(seed: int) -> None:
    first, second = photos(seed)
    pixels = places()
    there, seen = warp(pixels, first.view(), second.view())
    here = pixels.numpy()
    expected = second.pixels(first.world(here, first.plane_depth(here, NORMAL, DISTANCE)))
    np.testing.assert_allclose(there[seen].numpy(), expected[seen.numpy()], atol=1e-3)
    last = np.array(first.size) - 1
    inside = ((here >= 0) & (here <= last) & (expected >= 0) & (expected <= last)).all(axis=1)
    assert (seen.numpy() == inside).all() and 20 < inside.sum() < len(here)


@pytest.mark.parametrize("seed", range(4))
def test_there_and_back_is_where_it_began(seed: int) -> None:
    first, second = (photo.view() for photo in photos(seed))
    pixels = places()
    there, seen = warp(pixels, first, second)
    back, again = warp(there[seen], second, first)
    assert int(again.sum()) > 20
    assert float((back - pixels[seen])[again].abs().max()) < 1e-3


def test_cells_of_corresponding_pixels() -> None:
    first, second = photos(1)
    cells1, cells2 = corresponding_cells(first.view(), second.view())
    here = cells1.numpy()[:, ::-1] * 8 + 3.5
    expected = second.pixels(first.world(here, first.plane_depth(here, NORMAL, DISTANCE)))
    assert 20 < len(cells1) < 120 and len(np.unique(cells1.numpy(), axis=0)) == len(cells1)
    np.testing.assert_array_equal(cells2.numpy(), np.round((expected[:, ::-1] - 3.5) / 8))
    for cells in (cells1, cells2):
        assert (cells >= 0).all() and (cells < torch.tensor([10, 12])).all()


def test_what_is_hidden_is_not_seen() -> None:
    first, second = (photo.view() for photo in photos(2))
    pixels = places()
    _, seen = warp(pixels, first, second)
    second.depth[:, :48] *= 0.9  # something stands before the left half
    there, still = warp(pixels, first, second)
    assert (still == (seen & (there[:, 0] > 48))).float().mean() > 0.98
    assert not (still & (there[:, 0] < 47)).any()


def test_unknown_depth_around_a_pixel_hides_it() -> None:
    depth = torch.full((6, 8), 2.0)
    depth[3, 4] = 0
    pixels = torch.tensor([[3.5, 2.5], [4.0, 3.0], [5.2, 3.0], [3.0, 3.0], [7.0, 5.0], [7.1, 5.0], [-0.1, 0.0], [torch.nan, 1.0]])
    assert depth_at(depth, pixels)[1].tolist() == [False, False, True, True, True, False, False, False]


def test_only_corrected_does_not_depend_on_the_unit_of_the_scene() -> None:
    pixels = places()
    counts = {}
    for kind in ("corrected", "legacy"):
        for unit in (1.0, 100.0):
            views = []
            for photo in photos(3):
                view = photo.view()
                view.cam_from_world[:3, 3] *= unit
                noise = 1 + 0.004 * torch.randn(view.depth.shape, generator=torch.Generator().manual_seed(1))
                views.append(View((view.depth * unit * noise), view.intrinsics, view.cam_from_world, view.corner))
            counts[kind, unit] = int(warp(pixels, views[0], views[1], kind)[1].sum())
    assert counts["corrected", 1.0] == counts["corrected", 100.0] > 60
    assert counts["legacy", 100.0] < 0.3 * counts["legacy", 1.0]


def test_legacy_is_linear_depth() -> None:
    depth = torch.tensor([[1.0, 3.0]])
    pixels = torch.tensor([[0.5, 0.0]])
    assert float(depth_at(depth, pixels, "legacy")[0]) == 2
    assert float(depth_at(depth, pixels)[0]) == pytest.approx(1.5)


def test_what_lies_behind_the_camera_is_not_seen() -> None:
    first, second = (photo.view() for photo in photos(0))
    second.cam_from_world[:3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0])).double() @ second.cam_from_world[:3]
    assert not warp(places(), first, second)[1].any()


def test_unknown_kind() -> None:
    view = photos(0)[0].view()
    with pytest.raises(InputError, match="corrected, legacy"):
        warp(places(), view, view, "exact")
