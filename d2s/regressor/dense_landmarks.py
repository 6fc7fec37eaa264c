"""The many landmarks of model 3 that are compared only near where a first pose predicts them: 8-bit descriptors and coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

STEPS = 127


@dataclass(frozen=True)
class LandmarkMap:
    """Unit descriptors (M, D) float32, coordinates (M, 3), and the similarity from which a keypoint may show a landmark."""

    descriptors: NDArray[np.float32]
    xyz: NDArray[np.float64]
    min_similarity: float


class DenseLandmarks(nn.Module):
    """Buffers of M landmarks with D channels: one byte a channel, of unit vectors scaled to their largest entry."""

    codes: Tensor
    xyz: Tensor
    min_similarity: Tensor

    def __init__(self, count: int, descriptor_dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(count, descriptor_dim, dtype=torch.int8))
        self.register_buffer("xyz", torch.zeros(count, 3))
        self.register_buffer("min_similarity", torch.tensor(0.0))

    def __len__(self) -> int:
        return len(self.codes)

    def fill(self, descriptors: Tensor, xyz: Tensor, min_similarity: float) -> None:
        """Take over descriptors (M, D) and coordinates (M, 3)."""
        self.codes.copy_(quantise(descriptors))
        self.xyz.copy_(xyz)
        self.min_similarity.fill_(min_similarity)

    def read(self) -> LandmarkMap:
        """The landmarks as arrays."""
        descriptors = functional.normalize(self.codes.detach().cpu().float(), dim=-1).numpy()
        return LandmarkMap(descriptors, self.xyz.detach().cpu().double().numpy(), float(self.min_similarity))


def quantise(descriptors: Tensor) -> Tensor:
    """Directions (M, D) as int8: the length of a code means nothing."""
    largest = descriptors.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
    return (descriptors / largest * STEPS).round().to(torch.int8)


def count_for(megabytes: float, descriptor_dim: int) -> int:
    """How many landmarks fit into so many MB (10^6 bytes): a byte per channel and three coordinates in single precision."""
    return int(megabytes * 1e6 / (descriptor_dim + 12))
