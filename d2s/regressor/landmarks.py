"""Our model 3: a network that starts as matching and learns from there.

A compact set of landmarks (SfM points with one descriptor each) is the map. Self-attention refines the descriptors of the query in the
context of the whole image, each keypoint is scored against all landmarks and against "no landmark", and the best landmark's coordinate
comes out with the probability of the assignment as reliability. The refinement starts as the identity: before training, the network is
mutual-nearest-neighbour matching against the landmarks, and training can only move it from there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from d2s.config import ModelConfig
from d2s.regressor.dense_landmarks import DenseLandmarks
from d2s.regressor.network import AttentionBlock

INITIAL_SCALE, INITIAL_THRESHOLD = 30.0, 0.75
"""Sharpness of the scores (logit per unit of cosine similarity) and the similarity at which "no landmark" wins, both learnt."""

NOT_MUTUAL = -12.0
"""Added to the reliability's logit of a keypoint that is not its landmark's best keypoint in the image."""


class LandmarkNet(nn.Module):
    """Descriptors (B, N, D) -> coordinates (B, N, 3) of the best landmark and the logit (B, N) of its probability."""

    xyz: Tensor

    def __init__(self, config: ModelConfig, descriptor_dim: int, count: int, dense: int = 0) -> None:
        super().__init__()
        self.config, self.descriptor_dim, self.count = config, descriptor_dim, count
        self.enter = nn.Linear(descriptor_dim, config.width)
        self.blocks = nn.ModuleList(AttentionBlock(config.width, config.heads, config.norm == "layer") for _ in range(config.blocks))
        self.leave = nn.Linear(config.width, descriptor_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.landmarks = nn.Parameter(torch.zeros(count, descriptor_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.threshold = nn.Parameter(torch.tensor(INITIAL_THRESHOLD))
        self.register_buffer("xyz", torch.zeros(count, 3))
        self.dense = DenseLandmarks(dense, descriptor_dim) if dense else None

    def refine(self, descriptors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unit descriptors (B, N, D) refined in the context of their image; the same as the input before training."""
        x = self.enter(descriptors * self.descriptor_dim**0.5)  # unit variance per channel
        key_mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, key_mask)
        return functional.normalize(descriptors + self.leave(x), dim=-1)

    def scores(self, descriptors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, N, M + 1) of the M landmarks and, last, of "no landmark"; for training."""
        similarity = self.refine(descriptors, mask) @ functional.normalize(self.landmarks, dim=-1).T
        none = self.threshold.expand(*similarity.shape[:-1], 1).to(similarity.dtype)
        return torch.cat([similarity, none], dim=-1) * self.log_scale.exp()

    def forward(self, descriptors: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask (B, N): True for real keypoints. Returns coordinates (B, N, 3) in the scene's unit and reliability logits (B, N).

        Similarities are float32 whatever the network computes in: in bf16 they come in steps of 0.004, and ties would decide the matches.
        """
        refined = self.refine(descriptors, mask).float()
        with torch.autocast(refined.device.type, enabled=False):
            scores = refined @ (self.log_scale.exp() * functional.normalize(self.landmarks, dim=-1)).T
            if mask is not None:
                scores = scores.masked_fill(~mask[..., None], -torch.inf)
            best = scores.max(dim=-1)
            mutual = scores.max(dim=1).indices.gather(1, best.indices) == torch.arange(scores.shape[1], device=scores.device)
            # The sum over all landmarks costs as much as all the rest, and only keypoints that may be used need it.
            total = best.values.clone()
            total[mutual] = torch.logsumexp(scores[mutual], dim=-1)
            others = torch.logaddexp(total, self.threshold * self.log_scale.exp())
            log_probability = (best.values - others).clamp(max=-1e-6)
            logit = log_probability - torch.log(-torch.expm1(log_probability))
        return self.xyz[best.indices], torch.where(mutual, logit, logit + NOT_MUTUAL)

    def reliability(self, u: Tensor) -> Tensor:
        """Probability that the keypoint shows its landmark."""
        return torch.sigmoid(u)


def select_landmarks(
    visibility_image: NDArray[np.int64], visibility_point: NDArray[np.int64], images: int, points: int, count: int
) -> NDArray[np.int64]:
    """Indices of at most `count` of `points` SfM points, chosen for coverage first, then for track length.

    `visibility_image` and `visibility_point` (V,) list which image sees which point. Points are taken from the longest track down, but a
    point is passed over while every image that sees it has its quota; the quota grows until `count` is reached. Thinly covered images thus
    get their landmarks before well covered ones get more.
    """
    order = np.argsort(visibility_point, kind="stable")
    starts = np.searchsorted(visibility_point[order], np.arange(points + 1))
    seen_by = visibility_image[order]
    track = np.diff(starts)
    by_track = np.argsort(-track, kind="stable")[: np.count_nonzero(track)]
    covered, taken = np.zeros(images, np.int64), np.zeros(points, bool)
    chosen: list[int] = []
    quota = 0
    while len(chosen) < min(count, len(by_track)):
        quota += max(8, count // 100)
        for point in by_track[~taken[by_track]]:
            viewers = seen_by[starts[point] : starts[point + 1]]
            if (covered[viewers] < quota).any():
                covered[viewers] += 1
                taken[point] = True
                chosen.append(int(point))
                if len(chosen) == count:
                    break
    return np.sort(np.array(chosen, dtype=np.int64))
