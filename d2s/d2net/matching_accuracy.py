"""Mean matching accuracy (MMA): which share of mutual nearest neighbours a known homography confirms (D2-Net's paper, section 5.1).

Image 1 of a sequence is matched with each of the others, without ratio test. A match's error is the distance in the other image, in its
pixels, between its keypoint there and where the homography takes its keypoint of image 1. MMA at t pixels is the mean over image pairs of
the share of matches with an error of at most t; a pair without matches counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from d2s.d2net.hpatches import KINDS, PlanarSequence
from d2s.features.base import LocalFeatures

THRESHOLDS = tuple(range(1, 16))
"""Pixels."""
MAX_PRODUCTS = 2**26  # similarities in memory at once: 256 MB


@dataclass(frozen=True)
class SequenceScore:
    """One sequence: `keypoints` per image, `matches` per pair, and per pair the share of them `within` (5, 15) each threshold."""

    name: str
    kind: str
    keypoints: tuple[int, ...]
    matches: tuple[int, ...]
    within: NDArray[np.float64]


def score_sequence(sequence: PlanarSequence, features: Sequence[LocalFeatures], device: str = "cpu") -> SequenceScore:
    """Match the features of the first image with those of each other one, and measure."""
    first, *others = features
    errors = []
    for other, homography in zip(others, sequence.homographies, strict=True):
        rows, columns = mutual_matches(first.descriptors, other.descriptors, device).T
        errors.append(transfer_errors(first.keypoints[rows], other.keypoints[columns], homography))
    within = np.stack([share_within(values) for values in errors])
    return SequenceScore(sequence.name, sequence.kind, tuple(map(len, features)), tuple(map(len, errors)), within)


def mutual_matches(first: ArrayLike, second: ArrayLike, device: str = "cpu") -> NDArray[np.int64]:
    """Rows (K, 2) of unit descriptors (N, D) and (M, D) that are each other's most similar, ordered by the first.

    In float32, unlike `d2s.matching.nearest`, which is made for speed: a benchmark must not depend on the machine's short numbers.
    """
    a, b = (torch.from_numpy(np.array(rows, np.float32)).to(device) for rows in (first, second))
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.int64)
    forth = torch.empty(len(a), dtype=torch.int64, device=device)
    best, back = torch.full((len(b),), -torch.inf, device=device), torch.zeros(len(b), dtype=torch.int64, device=device)
    step = max(1, MAX_PRODUCTS // len(b))
    for start in range(0, len(a), step):
        similarity = a[start : start + step] @ b.T
        forth[start : start + step] = similarity.argmax(dim=1)
        value, row = similarity.max(dim=0)
        back = torch.where(value > best, row + start, back)
        best = torch.maximum(value, best)
    rows = torch.arange(len(a), device=device)
    mutual = back[forth] == rows
    return torch.stack([rows[mutual], forth[mutual]], dim=1).cpu().numpy()


def transfer_errors(points1: NDArray[np.floating[Any]], points2: NDArray[np.floating[Any]], homography: ArrayLike) -> NDArray[np.float64]:
    """Distance (K,) in pixels of image 2 between `points2` (K, 2) and `points1` (K, 2) under the homography; infinite at its horizon."""
    warped = np.column_stack([points1.astype(np.float64), np.ones(len(points1))]) @ np.asarray(homography, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.linalg.norm(warped[:, :2] / warped[:, 2:] - points2, axis=1)
    return np.nan_to_num(distance, nan=np.inf, posinf=np.inf)


def share_within(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of errors (K,) of at most each threshold (15,); 0 where there are none."""
    if not len(errors):
        return np.zeros(len(THRESHOLDS))
    return np.asarray((errors[:, None] <= np.array(THRESHOLDS)).mean(axis=0), np.float64)


def summarise(scores: Sequence[SequenceScore]) -> dict[str, Any]:
    """JSON values: `keypoints` (mean, min, max per image), and mean `matches` per pair and `mma` per threshold of all, and of each kind.

    None for a kind without sequences.
    """
    counts = [count for score in scores for count in score.keypoints]
    groups = {"all": list(scores), **{kind: [score for score in scores if score.kind == kind] for kind in KINDS.values()}}
    return {
        "keypoints": {"mean": float(np.mean(counts)), "min": min(counts), "max": max(counts)},
        "matches": {name: float(np.mean([s.matches for s in group])) if group else None for name, group in groups.items()},
        "mma": {name: _mma(group).tolist() if group else None for name, group in groups.items()},
    }


def _mma(scores: Sequence[SequenceScore]) -> NDArray[np.float64]:
    return np.asarray(np.concatenate([score.within for score in scores]).mean(axis=0), np.float64)
