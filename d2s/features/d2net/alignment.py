"""Where the cells of a level of the pyramid lie: as they do (`Corrected`), or as the published code has it (`Legacy`).

Both have the same methods. Sizes are (height, width) in pixels or cells; `ratios` are those of two levels' image sizes, for rows and
columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from d2s.features.d2net.network import CENTRE, STRIDE

CHUNK = 64
"""Channels that are interpolated at once, so that the sum of two maps needs no third."""

CELL = STRIDE["extraction"]
Pair = tuple[float, float]


class Corrected:
    """The true geometry: cell k is centred on pixel 4 k + 3.5 of its level, and the edges of all levels lie on each other.

    Coarser maps are interpolated smoothly, so that they do not draw keypoints to their cells. Cells at the edge of a map are no
    detections, since derivatives see zeros beyond it, and only peaks that became keypoints keep finer levels from detecting in the same
    place.
    """

    border = 1
    rejected_peaks_ban = False
    sums_empty_levels = True

    def resize_images(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (B, 3, H, W) at another size; smoothed before they are made smaller."""
        smaller = size[0] < images.shape[-2]
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=smaller)

    def add_coarser(self, features: Tensor, coarser: Tensor, ratios: Pair) -> None:
        """Add a coarser level's map (C, h', w') to this level's (C, h, w), in place. `ratios`: coarser size by this level's."""
        rows, columns = (_places_in_coarser(features.shape[k + 1], coarser.shape[k + 1], ratios[k], features) for k in (0, 1))
        for part, low in zip(features.split(CHUNK), coarser.split(CHUNK), strict=True):
            part += _between(_between(low, rows, 1), columns, 2)

    def resize_mask(self, mask: Tensor, size: tuple[int, int], ratios: Pair) -> Tensor:
        """The mask (h', w') of a coarser level for the cells (h, w) of this one: the nearest cell decides."""
        rows, columns = (_places_in_coarser(size[k], mask.shape[k], ratios[k], mask).round().long() for k in (0, 1))
        return mask[rows][:, columns]

    def pixels(self, places: Tensor, ratios: Pair) -> Tensor:
        """Pixels (N, 2) of the network's input for places (N, 2) between cells, both row first. `ratios`: input size by this level's."""
        return (CELL * places + CENTRE + 0.5) * places.new_tensor(ratios) - 0.5


class Legacy:
    """The published numbers: cells at 4 k + 1.5, which is 2 px too far left and up on every level; corner pixels of all levels on each
    other; coordinates multiplied by ratios of sizes.
    """

    border = 0
    rejected_peaks_ban = True
    sums_empty_levels = False
    centre = 1.5

    def resize_images(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (B, 3, H, W) at another size, without smoothing."""
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=True)

    def add_coarser(self, features: Tensor, coarser: Tensor, ratios: Pair) -> None:
        """As in `Corrected`, whatever the ratios."""
        size = (features.shape[1], features.shape[2])
        for part, low in zip(features.split(CHUNK), coarser.split(CHUNK), strict=True):
            part += functional.interpolate(low[None], size=size, mode="bilinear", align_corners=True)[0]

    def resize_mask(self, mask: Tensor, size: tuple[int, int], ratios: Pair) -> Tensor:
        """As in `Corrected`, whatever the ratios."""
        return functional.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0].bool()

    def pixels(self, places: Tensor, ratios: Pair) -> Tensor:
        """As in `Corrected`."""
        return (CELL * places + self.centre) * places.new_tensor(ratios)


ALIGNMENTS: dict[str, Corrected | Legacy] = {"corrected": Corrected(), "legacy": Legacy()}


def _places_in_coarser(count: int, coarser_count: int, ratio: float, like: Tensor) -> Tensor:
    """Where the centres of a level's cells (count,) lie among those of a coarser level.

    The centre of cell k is 4 (k + 1) px from the edge, on every level.
    """
    cells = torch.arange(1, count + 1, device=like.device, dtype=torch.float32)
    return (cells * ratio - 1).clamp(0, coarser_count - 1)


def _between(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """A map (C, h, w) along its rows (1) or columns (2) at places between its cells, by cubic B-splines.

    Linear interpolation has all its maxima at the coarser cells, so that those of the sum of two maps are drawn there.
    """
    before = places.floor()
    t = places - before
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3)
    total = torch.zeros((), device=values.device)
    for step, weight in zip((-1, 0, 1, 2), weights, strict=True):
        cells = (before.long() + step).clamp(0, values.shape[dim] - 1)
        total = total + values.index_select(dim, cells) * (weight[:, None] if dim == 1 else weight) / 6
    return total
