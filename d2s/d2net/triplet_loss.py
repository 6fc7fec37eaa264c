"""The loss of D2-Net (Dusmanu et al. 2019, section 4.1): a triplet margin loss on descriptors, weighted by the detection scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MARGIN = 1.0
SAFE_RADIUS = 4
"""Cells around the true one, in rows and in columns, that are no negatives."""
SMALLEST_WEIGHT = 1e-12


def pair_loss(
    features: tuple[Tensor, Tensor],
    scores: tuple[Tensor, Tensor],
    cells: tuple[Tensor, Tensor],
    margin: float = MARGIN,
    safe_radius: int = SAFE_RADIUS,
) -> Tensor:
    """The loss of two images, a scalar: the mean of the triplet losses of their correspondences, each weighted by its two scores.

    features: two maps (C, h, w), before the last ReLU. scores: two maps (h, w). cells: two (N, 2) int64, row and column of what
    corresponds. The negative of a correspondence is the closest descriptor, in either image, outside the safe radius.
    """
    descriptors = [functional.normalize(part.flatten(1), dim=0) for part in features]
    index = [where[:, 0] * part.shape[2] + where[:, 1] for where, part in zip(cells, features, strict=True)]
    first, second = (found[:, rows] for found, rows in zip(descriptors, index, strict=True))
    positive = 2 - 2 * (first * second).sum(dim=0)
    in_second = _closest_negative(first, descriptors[1], cells[1], features[1], safe_radius)
    in_first = _closest_negative(second, descriptors[0], cells[0], features[0], safe_radius)
    losses = functional.relu(margin + positive - torch.minimum(in_first, in_second))
    weights = scores[0].flatten()[index[0]] * scores[1].flatten()[index[1]]
    return (weights * losses).sum() / weights.sum().clamp_min(SMALLEST_WEIGHT)


def _closest_negative(queries: Tensor, descriptors: Tensor, true_cells: Tensor, features: Tensor, safe_radius: int) -> Tensor:
    """Squared distances (N,) from queries (C, N) to the closest of all descriptors (C, h w) farther than the radius from the true cell."""
    height, width = features.shape[1:]
    rows = torch.arange(height, device=features.device).repeat_interleave(width)
    columns = torch.arange(width, device=features.device).repeat(height)
    near = (rows - true_cells[:, :1]).abs().maximum((columns - true_cells[:, 1:]).abs()) <= safe_radius
    distances = 2 - 2 * queries.T @ descriptors
    return distances.masked_fill(near, torch.inf).amin(dim=1)
