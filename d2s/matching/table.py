"""The matchers by name, and the ratio that suits each local feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import unknown_choice
from d2s.features.base import LocalFeatures
from d2s.matching.nearest import mutual_nearest_neighbors

Matcher = Callable[[LocalFeatures, LocalFeatures], NDArray[np.int32]]
"""Takes the features of two images, gives matching rows (K, 2)."""

MATCHERS = ("nn", "lightglue")

RATIOS = {"sift": 0.85}
"""Lowe's ratio by feature; learned features separate less and take DEFAULT_RATIO."""
DEFAULT_RATIO = 0.95


@dataclass(frozen=True)
class NearestNeighborMatcher:
    """Mutual nearest neighbours with a ratio test."""

    ratio: float | None
    min_similarity: float | None = None
    device: str = "cpu"

    def __call__(self, features0: LocalFeatures, features1: LocalFeatures) -> NDArray[np.int32]:
        """Matching rows (K, 2)."""
        return mutual_nearest_neighbors(features0.descriptors, features1.descriptors, self.ratio, self.min_similarity, self.device)


def make_matcher(name: str, feature: str, device: str = "cpu") -> Matcher:
    """The matcher `name` for the local feature `feature`. Raises InputError when there is none, WeightsError without its weights."""
    if name == "nn":
        return NearestNeighborMatcher(RATIOS.get(feature, DEFAULT_RATIO), device=device)
    if name == "lightglue":
        from d2s.matching.lightglue import LightGlueMatcher

        return LightGlueMatcher(feature, device)
    raise unknown_choice("matcher", name, MATCHERS)


def matcher_settings(name: str, feature: str) -> dict[str, Any]:
    """What decides the matches, as JSON values."""
    if name == "nn":
        matcher = NearestNeighborMatcher(RATIOS.get(feature, DEFAULT_RATIO))
        return {"name": name, "ratio": matcher.ratio, "min_similarity": matcher.min_similarity}
    return {"name": name, "feature": feature}
