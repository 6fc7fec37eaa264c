"""Detection at several scales (Dusmanu et al. 2019, section 3.3).

The feature map of each level is added to those of the coarser ones, and what a coarser level has detected is not detected again. What lies
where is decided by an alignment, `corrected` or `legacy`. In `legacy`, too, a level without keypoints is no error, as it is in the
published code when it is not the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from d2s.features.d2net.alignment import ALIGNMENTS, Corrected, Legacy
from d2s.features.d2net.detection import Peaks, describe, detect, refinable
from d2s.features.d2net.network import CHANNELS, MIN_SIDE

MULTISCALE = (0.5, 1.0, 2.0)

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """Keypoints of one image, coarse level first, within a level by channel, row and column.

    keypoints (N, 3): x, y in pixels of the network's input (top-left pixel centre at (0, 0)), and the size of the level's pixel in those.
    scores (N,): the feature at the cell, divided by the number of the level. descriptors (N, C), unit length.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor

    def where(self, rows: Tensor) -> Found:
        """Those of a mask, or at row numbers in their order."""
        return Found(self.keypoints[rows], self.scores[rows], self.descriptors[rows])


@dataclass(frozen=True)
class Level:
    """One level: its number from 1, its scale, and the size (height, width) of its images and of those that came in."""

    number: int
    scale: float
    size: tuple[int, int]
    input_size: tuple[int, int]

    def ratios_of(self, other: tuple[int, int]) -> tuple[float, float]:
        """Another size by this level's."""
        return other[0] / self.size[0], other[1] / self.size[1]


@dataclass
class _Image:
    """What the levels of one image have found, and what they hand on. `size`: of the images of the level that `features` are from."""

    levels: list[Found] = field(default_factory=list)
    banned: Tensor | None = None
    features: Tensor | None = None
    size: tuple[int, int] = (0, 0)


def extract(network: Network, images: Tensor, scales: Sequence[float] = (1.0,), coordinates: str = "corrected") -> list[Found]:
    """Features of preprocessed images (B, 3, H, W), detected at the given scales in their order.

    `network` gives (B, C, h, w) with cells 4 px apart. `coordinates`: a name in ALIGNMENTS. A level that would have no cell is left out.
    """
    alignment = ALIGNMENTS[coordinates]
    input_size = (images.shape[-2], images.shape[-1])
    states = [_Image() for _ in images]
    for number, scale in enumerate(scales, start=1):
        level = Level(number, scale, (int(input_size[0] * scale), int(input_size[1] * scale)), input_size)
        if min(level.size) < MIN_SIDE:
            continue
        dense = network(images if level.size == input_size else alignment.resize_images(images, level.size))
        for state, features in zip(states, dense, strict=True):
            _add_level(state, features, level, alignment)
    return [_joined(state.levels, images) for state in states]


def _joined(levels: list[Found], images: Tensor) -> Found:
    if not levels:
        return Found(images.new_zeros(0, 3), images.new_zeros(0), images.new_zeros(0, CHANNELS))
    return Found(*(torch.cat([getattr(level, part) for level in levels]) for part in ("keypoints", "scores", "descriptors")))


def _add_level(state: _Image, features: Tensor, level: Level, alignment: Corrected | Legacy) -> None:
    """Sum, detect, describe, and leave in `state` what the next level needs."""
    size = (features.shape[1], features.shape[2])
    if state.features is not None:
        alignment.add_coarser(features, state.features, level.ratios_of(state.size))
    if state.banned is None:
        banned = torch.zeros(size, dtype=torch.bool, device=features.device)
    else:
        banned = alignment.resize_mask(state.banned, size, level.ratios_of(state.size))
    peaks = detect(features, ~banned, alignment.border)
    kept = peaks.where(refinable(peaks, size))
    state.banned = _with_cells(banned, peaks if alignment.rejected_peaks_ban else kept)
    if len(kept):
        state.levels.append(_keypoints(features, kept, level, alignment))
    if len(kept) or alignment.sums_empty_levels:
        state.features = features
    state.size = level.size


def _with_cells(mask: Tensor, peaks: Peaks) -> Tensor:
    """The mask (h, w) with the cells of the peaks added to it."""
    mask[peaks.cells[:, 0], peaks.cells[:, 1]] = True
    return mask


def _keypoints(features: Tensor, peaks: Peaks, level: Level, alignment: Corrected | Legacy) -> Found:
    places = peaks.cells + peaks.step
    pixels = alignment.pixels(places, level.ratios_of(level.input_size))
    keypoints = torch.cat([pixels.flip(1), torch.full_like(pixels[:, :1], 1 / level.scale)], dim=1)
    return Found(keypoints, peaks.scores / level.number, describe(features, places))
