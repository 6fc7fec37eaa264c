"""Hard detection of D2-Net (Dusmanu et al. 2019, sections 3.1 and 3.3), on the strongest channel of each cell alone.

A detection must be the maximum over all channels of its cell. So only that channel has to be looked at: its nine values around the cell
decide whether it is a local maximum, whether it is an edge, and where the maximum lies between cells. Instead of a dozen maps of 512
channels this takes one pass over the features and a few maps of one. Of channels that are exactly equal in a cell, one counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

EDGE_RATIO = 5.0
MAX_CURVATURE_RATIO = (EDGE_RATIO + 1) ** 2 / EDGE_RATIO
MAX_STEP = 0.5
"""Cells that the maximum may lie beside its own."""


@dataclass(frozen=True)
class Peaks:
    """Detections of one feature map, sorted by channel, row and column.

    cells (N, 2) int64: row, column. channels (N,). step (N, 2): from the cell to the maximum, in cells, row first. scores (N,).
    """

    cells: Tensor
    channels: Tensor
    step: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.cells)

    def where(self, mask: Tensor) -> Peaks:
        """Those of the mask (N,)."""
        return Peaks(self.cells[mask], self.channels[mask], self.step[mask], self.scores[mask])


def detect(features: Tensor, allowed: Tensor | None = None, border: int = 0) -> Peaks:
    """Peaks of a feature map (C, h, w) in cells that `allowed` (h, w) permits, none of them nearer than `border` cells to the edge.

    Beyond the edge there is no higher neighbour, and derivatives see zeros.
    """
    best, channel = features.max(dim=0)
    candidate = torch.ones_like(best, dtype=torch.bool) if allowed is None else allowed.clone()
    if border:
        inner = torch.zeros_like(candidate)
        inner[border : max(border, inner.shape[0] - border), border : max(border, inner.shape[1] - border)] = True
        candidate &= inner
    cells = torch.nonzero(candidate)
    channels = channel[cells[:, 0], cells[:, 1]]
    around, inside = _neighbourhoods(features, cells, channels)
    peak = (around[:, 4:5] >= around.masked_fill(~inside, -torch.inf)).all(dim=1)
    cells, channels, around = cells[peak], channels[peak], around[peak]
    gradient, curvature = _derivatives(around)
    determinant = curvature[:, 0] * curvature[:, 1] - curvature[:, 2] ** 2
    trace = curvature[:, 0] + curvature[:, 1]
    blob = (determinant > 0) & (trace**2 / determinant <= MAX_CURVATURE_RATIO)
    found = Peaks(cells, channels, _newton_step(gradient, curvature, determinant), around[:, 4]).where(blob)
    height, width = best.shape
    order = torch.argsort((found.channels * height + found.cells[:, 0]) * width + found.cells[:, 1])
    return found.where(order)


def _neighbourhoods(features: Tensor, cells: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, 9) of a channel around cells, row by row, zero outside the map, and which of them are inside (N, 9)."""
    height, width = features.shape[1:]
    step = torch.arange(-1, 2, device=features.device)
    rows = cells[:, :1] + step.repeat_interleave(3)
    columns = cells[:, 1:] + step.repeat(3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    values = features[channels[:, None], rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return values.masked_fill(~inside, 0.0), inside


def _derivatives(around: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (N, 2) along rows and columns, and second derivatives (N, 3): ii, jj, ij; by differences of neighbouring cells."""
    a = around.unbind(dim=1)
    gradient = torch.stack([(a[7] - a[1]) / 2, (a[5] - a[3]) / 2], dim=1)
    mixed = (a[8] - a[6] - a[2] + a[0]) / 4
    return gradient, torch.stack([a[7] - 2 * a[4] + a[1], a[5] - 2 * a[4] + a[3], mixed], dim=1)


def _newton_step(gradient: Tensor, curvature: Tensor, determinant: Tensor) -> Tensor:
    """Where the quadratic through the neighbours has its maximum (N, 2); meaningless where the determinant is not positive."""
    (gi, gj), (ii, jj, ij) = gradient.unbind(dim=1), curvature.unbind(dim=1)
    return torch.stack([ij * gj - jj * gi, ij * gi - ii * gj], dim=1) / determinant[:, None]


def refinable(peaks: Peaks, size: tuple[int, int]) -> Tensor:
    """Which peaks (N,) have their maximum within half a cell and inside a map of `size` (h, w)."""
    place = peaks.cells + peaks.step
    last = place.new_tensor([size[0] - 1, size[1] - 1])
    return (peaks.step.abs() < MAX_STEP).all(dim=1) & ((place >= 0) & (place <= last)).all(dim=1)


def describe(features: Tensor, places: Tensor) -> Tensor:
    """Unit descriptors (N, C) of a map (C, h, w) at places (N, 2), row and column inside the map: bilinear between its cells."""
    low = places.floor()
    high, part = places.ceil().long(), places - low
    low = low.long()
    rows = ((low[:, 0], 1 - part[:, 0]), (high[:, 0], part[:, 0]))
    columns = ((low[:, 1], 1 - part[:, 1]), (high[:, 1], part[:, 1]))
    by_cell = features.permute(1, 2, 0)
    total = features.new_zeros(len(places), features.shape[0])
    for i, row_weight in rows:
        for j, column_weight in columns:
            total += by_cell[i, j] * (row_weight * column_weight)[:, None]
    return functional.normalize(total, dim=1)
