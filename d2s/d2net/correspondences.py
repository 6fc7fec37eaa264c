"""Which pixels of two photos show the same place, from the depth of both (Dusmanu et al. 2019, section 4.2).

`corrected`, the default, compares depths relative to their size, since a MegaDepth scene has a unit of its own, and interpolates inverse
depth, which is linear on a plane. `legacy` is the published way: linear depth, and an absolute tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d2s.errors import unknown_choice
from d2s.features.d2net.network import CENTRE, STRIDE
from d2s.geometry.camera import colmap_from_pixels, pixels_from_colmap

KINDS = ("corrected", "legacy")
TOLERANCE = 0.05
"""How far depths may differ: a share of the depth (corrected), or units of the scene (legacy)."""
CELL = STRIDE["training"]


@dataclass(frozen=True)
class View:
    """A crop of a photo: depth (H, W) along the optical axis, 0 where unknown; intrinsics (3, 3) of the whole photo in COLMAP's pixels;
    cam_from_world (4, 4); corner (2,) x, y of the crop's first pixel in the photo.
    """

    depth: Tensor
    intrinsics: Tensor
    cam_from_world: Tensor
    corner: Tensor

    def to(self, device: torch.device) -> View:
        """The same on another device."""
        return View(*(part.to(device) for part in (self.depth, self.intrinsics, self.cam_from_world, self.corner)))


def corresponding_cells(first: View, second: View, kind: str = "corrected", tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Cells (N, 2) int64, row and column, of the training graph: those of `first` whose centre is seen in `second`, and where they are."""
    cells = grid_cells((first.depth.shape[0] // CELL, first.depth.shape[1] // CELL), first.depth.device)
    pixels, seen = warp(cells.flip(1).double() * CELL + CENTRE, first, second, kind, tolerance)
    there = ((pixels[seen].flip(1) - CENTRE) / CELL).round().long()
    inside = ((there >= 0) & (there < there.new_tensor(second.depth.shape) // CELL)).all(dim=1)
    return cells[seen][inside], there[inside]


def grid_cells(size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """All cells (h w, 2) of a map of `size` (h, w), row by row."""
    return torch.cartesian_prod(torch.arange(size[0], device=device), torch.arange(size[1], device=device))


def warp(pixels: Tensor, first: View, second: View, kind: str = "corrected", tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Where pixels (N, 2) x, y of the crop `first` are in the crop `second` (N, 2), float64, and which are seen there (N,).

    Seen: the depth is known in both crops, at all pixels around, and that of the second one agrees.
    """
    if kind not in KINDS:
        raise unknown_choice("correspondences", kind, KINDS)
    depth, known = depth_at(first.depth, pixels, kind)
    there, expected = _project(_world_points(pixels, depth, first), second)
    measured, seen = depth_at(second.depth, there, kind)
    allowed = tolerance * (measured if kind == "corrected" else 1.0)
    return there, known & (expected > 0) & seen & ((expected - measured).abs() < allowed)


def depth_at(depth: Tensor, pixels: Tensor, kind: str = "corrected") -> tuple[Tensor, Tensor]:
    """Depth (N,) float64 between the pixels of a map (H, W), and where it is known (N,): inside, and at all four pixels around.

    Where it is not known, the value is 1.
    """
    last = pixels.new_tensor([depth.shape[1] - 1, depth.shape[0] - 1])
    inside = ((pixels >= 0) & (pixels <= last)).all(dim=1)  # false for NaN
    pixels = torch.where(inside[:, None], pixels, torch.zeros_like(pixels)).double()
    low, high = pixels.floor().long(), pixels.ceil().long()
    corners = torch.stack([depth[y, x] for y in (low[:, 1], high[:, 1]) for x in (low[:, 0], high[:, 0])], dim=1).double()
    known = inside & (corners > 0).all(dim=1)
    x, y = (pixels - low).unbind(dim=1)
    weights = torch.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], dim=1)
    corners = torch.where(known[:, None], corners, torch.ones_like(corners))
    return (1 / (weights / corners).sum(dim=1) if kind == "corrected" else (weights * corners).sum(dim=1)), known


def _world_points(pixels: Tensor, depth: Tensor, view: View) -> Tensor:
    """Points (N, 3) of pixels of a crop at their depth."""
    image_points = colmap_from_pixels(pixels.double() + view.corner.double())
    rays = torch.cat([image_points, torch.ones_like(image_points[:, :1])], dim=1) @ torch.linalg.inv(view.intrinsics.double()).T
    pose = view.cam_from_world.double()
    return (rays * depth[:, None] - pose[:3, 3]) @ pose[:3, :3]


def _project(points: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Pixels (N, 2) of the crop and depths (N,) of world points (N, 3)."""
    pose = view.cam_from_world.double()
    in_camera = points @ pose[:3, :3].T + pose[:3, 3]
    image_points = in_camera @ view.intrinsics.double().T
    return pixels_from_colmap(image_points[:, :2] / image_points[:, 2:]) - view.corner.double(), in_camera[:, 2]
