"""The landmarks of model 3 as they are kept and as they are used: 8-bit directions of at most some channels, and coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

STEPS = 127


@dataclass(frozen=True)
class LandmarkMap:
    """Unit descriptors (M, C) float32, coordinates (M, 3), and the similarity from which a keypoint may show a landmark.

    `projection` (D, C) takes an image's descriptors to the channels of the landmarks; None where both have the same.
    """

    descriptors: NDArray[np.float32]
    xyz: NDArray[np.float64]
    min_similarity: float
    projection: NDArray[np.float32] | None = None

    def describe(self, descriptors: ArrayLike) -> NDArray[np.float32]:
        """Descriptors (N, D) of an image as unit vectors (N, C) that can be compared with those of the landmarks."""
        given: NDArray[Any] = np.asarray(descriptors, dtype=np.float32)
        vectors = given if self.projection is None else given @ self.projection
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


class LandmarkCodes(nn.Module):
    """Buffers of M landmarks with C channels: one byte a channel, of unit vectors scaled to their largest entry."""

    codes: Tensor
    xyz: Tensor
    min_similarity: Tensor

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(count, channels, dtype=torch.int8))
        self.register_buffer("xyz", torch.zeros(count, 3))
        self.register_buffer("min_similarity", torch.tensor(0.0))

    def __len__(self) -> int:
        return len(self.codes)

    def fill(self, descriptors: Tensor, xyz: Tensor, min_similarity: float = 0.0) -> None:
        """Take over descriptors (M, C) and coordinates (M, 3)."""
        self.codes.copy_(quantise(descriptors))
        self.xyz.copy_(xyz)
        self.min_similarity.fill_(min_similarity)

    def directions(self, rows: Tensor | None = None) -> Tensor:
        """Unit descriptors (M, C) of all landmarks, or of some."""
        return functional.normalize((self.codes if rows is None else self.codes[rows]).float(), dim=-1)

    def read(self, projection: Tensor | None = None) -> LandmarkMap:
        """The landmarks as arrays."""
        directions, xyz = self.directions().cpu().numpy(), self.xyz.cpu().double().numpy()
        return LandmarkMap(directions, xyz, float(self.min_similarity), None if projection is None else projection.cpu().numpy())


def quantise(descriptors: Tensor) -> Tensor:
    """Directions (M, C) as int8: the length of a code means nothing."""
    largest = descriptors.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12)
    return (descriptors / largest * STEPS).round().to(torch.int8)


def principal_directions(descriptors: Tensor, channels: int) -> Tensor:
    """The orthonormal directions (D, channels) that keep most of descriptors (M, D) in the sense of least squares."""
    _, vectors = torch.linalg.eigh((descriptors.T @ descriptors).double())
    return vectors[:, -channels:].flip(1).float()


def spatial_order(xyz: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order (M,) of points (M, 3) in which neighbours stay together: by the interleaved bits of their coordinates (Morton 1966)."""
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    cells = ((xyz - low) / max(float((high - low).max()), 1e-12) * 1023).astype(np.int64)
    code = np.zeros(len(xyz), dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")
