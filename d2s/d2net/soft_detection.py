"""Soft detection of D2-Net (Dusmanu et al. 2019, section 3.2): how much each cell stands out among its channels and its neighbours."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

EPSILON = 1e-6
"""Below this a divisor counts as this: a cell without activations has the score 0, where the published code has NaN."""


def soft_detection(features: Tensor) -> Tensor:
    """Scores (B, h, w) of feature maps (B, C, h, w), each image's adding up to 1.

    As in the published training, the exponents of the soft local maximum are the features over the image's largest one, and cells beyond
    the edge are zeros.
    """
    positive = functional.relu(features)
    largest = positive.amax(dim=(1, 2, 3), keepdim=True).clamp_min(EPSILON)
    exponentials = (positive / largest).exp()
    around = 9 * functional.avg_pool2d(functional.pad(exponentials, (1, 1, 1, 1), value=1.0), 3, stride=1)
    among_channels = positive / positive.amax(dim=1, keepdim=True).clamp_min(EPSILON)
    scores = (exponentials / around * among_channels).amax(dim=1)
    return scores / scores.sum(dim=(1, 2), keepdim=True).clamp_min(EPSILON)
