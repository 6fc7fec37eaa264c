"""What every local feature gives and takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError


@dataclass(frozen=True)
class LocalFeatures:
    """The features of one image, best first.

    keypoints (N, 2) float32: x y in pixels of the image as stored, top-left pixel centre at (0, 0).
    scores (N,) float32, descending. descriptors (N, D) float32 or float16, unit length. image_size: (width, height).
    """

    keypoints: NDArray[np.float32]
    scores: NDArray[np.float32]
    descriptors: NDArray[np.floating[Any]]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        if self.keypoints.shape != (n, 2) or self.scores.shape != (n,) or self.descriptors.ndim != 2 or len(self.descriptors) != n:
            raise FormatError(
                f"Features must be keypoints (N,2), scores (N,), descriptors (N,D), not {self.keypoints.shape}, {self.scores.shape}, "
                f"{self.descriptors.shape}."
            )

    def __len__(self) -> int:
        return len(self.keypoints)

    def top(self, count: int) -> LocalFeatures:
        """The `count` features with the highest scores, best first (ties keep their order)."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return LocalFeatures(self.keypoints[order], self.scores[order], self.descriptors[order], self.image_size)


class Extractor(Protocol):
    """One kind of local feature, ready to run."""

    name: str
    descriptor_dim: int

    def settings(self) -> dict[str, Any]:
        """Everything that decides what comes out (JSON values): name, keypoint count, thresholds, resize, weights checksum."""
        ...

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> list[LocalFeatures]:
        """Features of images (H, W) or (H, W, 3) RGB, uint8, of any sizes; each result has at most `num_keypoints` rows."""
        ...


def settings_hash(settings: dict[str, Any]) -> str:
    """A short name for a set of settings; equal settings give equal names on every machine."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
