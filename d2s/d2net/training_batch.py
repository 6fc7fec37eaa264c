"""What one batch of training comes to: score maps, corresponding cells, losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d2s.d2net.correspondences import corresponding_cells
from d2s.d2net.megadepth_data import SamplePair
from d2s.d2net.soft_detection import soft_detection
from d2s.d2net.training_options import TrainingOptions
from d2s.d2net.triplet_loss import pair_loss
from d2s.features.d2net.network import D2Net
from d2s.features.d2net.preprocessing import normalise


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: its pairs, their score maps (2 B, h, w) (all first images, then all second ones), the corresponding cells
    of each pair, and the losses of those pairs that have enough of them.
    """

    batch: Sequence[SamplePair]
    scores: Tensor
    cells: list[tuple[Tensor, Tensor]]
    losses: list[Tensor]


Watch = Callable[[str, int, int, Outcome], None]
"""Told of a batch now and then: "train" or "valid", the epoch, the number of the batch, what became of it."""


def batch_outcome(network: D2Net, batch: Sequence[SamplePair], options: TrainingOptions, device: torch.device) -> Outcome:
    """Run the pairs through the network, all images at once."""
    images = torch.stack([pair[side].image for side in (0, 1) for pair in batch]).to(device)
    features = network(normalise(images, options.preprocessing))
    scores = soft_detection(features)
    cells, losses = [], []
    for k, (one, two) in enumerate(batch):
        views = one.view.to(device), two.view.to(device)
        cells.append(corresponding_cells(*views, options.correspondences, options.depth_tolerance))
        if len(cells[-1][0]) >= options.min_correspondences:
            sides = (k, k + len(batch))
            maps, weights = (features[sides[0]], features[sides[1]]), (scores[sides[0]], scores[sides[1]])
            losses.append(pair_loss(maps, weights, cells[-1], options.margin, options.safe_radius))
    return Outcome(batch, scores, cells, losses)
