"""Our model 3: a network that starts as matching and learns from there.

A compact set of landmarks (SfM points with one descriptor each) is the map. Self-attention refines the descriptors of the query in the
context of the whole image, each keypoint is compared with all landmarks, and the best landmark's coordinate comes out with a probability
as reliability. The refinement starts as the identity: before training, the network is mutual-nearest-neighbour matching against the
landmarks, and training can only move it from there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from d2s.config import ModelConfig
from d2s.matching.database import BLOCK
from d2s.regressor.landmark_map import LandmarkCodes, LandmarkMap
from d2s.regressor.network import AttentionBlock

INITIAL_SCALE, INITIAL_THRESHOLD = 30.0, 0.75
"""Sharpness of the scores (logit per unit of cosine similarity) and the similarity at which "no landmark" wins, both learnt."""

NOT_MUTUAL = -60.0
"""Added to the reliability's logit of a keypoint that is not its landmark's best keypoint in the image: less than any other has."""


class LandmarkNet(nn.Module):
    """Descriptors (B, N, D) -> coordinates (B, N, 3) of the best landmark and the logit (B, N) of its probability.

    Landmarks have C = min(D, `landmark_channels`) channels. They lie in an order in which neighbours in space stay together, and are
    compared in blocks: the reliability is the softmax over the best landmark of every block, so that other places compete, and not the
    neighbours of a landmark on the same object.
    """

    projection: Tensor

    def __init__(self, config: ModelConfig, descriptor_dim: int, count: int) -> None:
        super().__init__()
        self.config, self.descriptor_dim, self.count = config, descriptor_dim, count
        self.channels = min(descriptor_dim, config.landmark_channels)
        if self.channels < descriptor_dim:
            self.register_buffer("projection", torch.eye(descriptor_dim, self.channels))
        self.blocks = nn.ModuleList(AttentionBlock(config.width, config.heads, config.norm == "layer") for _ in range(config.blocks))
        if config.blocks:
            self.enter = nn.Linear(self.channels, config.width)
            self.leave = nn.Linear(config.width, self.channels)
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.threshold = nn.Parameter(torch.tensor(INITIAL_THRESHOLD))
        self.landmarks = LandmarkCodes(count, self.channels)

    @property
    def xyz(self) -> Tensor:
        """Coordinates (M, 3) of the landmarks in the scene's unit."""
        return self.landmarks.xyz

    def landmark_map(self) -> LandmarkMap:
        """The landmarks as arrays."""
        return self.landmarks.read(self.projection if self.channels < self.descriptor_dim else None)

    def project(self, descriptors: Tensor) -> Tensor:
        """Descriptors (..., D) as unit vectors (..., C)."""
        return functional.normalize(descriptors @ self.projection if self.channels < self.descriptor_dim else descriptors, dim=-1)

    def refine(self, descriptors: Tensor, mask: Tensor | None = None) -> Tensor:
        """Unit descriptors (B, N, C) of the keypoints in the context of their image; before training, the given ones as projected."""
        descriptors = self.project(descriptors)
        if not self.blocks:
            return descriptors
        x = self.enter(descriptors * self.channels**0.5)  # unit variance per channel
        key_mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, key_mask, self.config.context or None)
        return functional.normalize(descriptors + self.leave(x), dim=-1)

    def scores(self, descriptors: Tensor, chosen: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, N, S + 1) of the landmarks `chosen` (S,) and, last, of "no landmark"; for training."""
        similarity = self.refine(descriptors, mask) @ self.landmarks.directions(chosen).T
        none = self.threshold.expand(*similarity.shape[:-1], 1).to(similarity.dtype)
        return torch.cat([similarity, none], dim=-1) * self.log_scale.exp()

    def forward(self, descriptors: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask (B, N): True for real keypoints. Returns coordinates (B, N, 3) in the scene's unit and reliability logits (B, N).

        Similarities are float32 whatever the network computes in: in bf16 they come in steps of 0.004, and ties would decide the matches.
        """
        refined = self.refine(descriptors, mask).float()
        with torch.autocast(refined.device.type, enabled=False):
            similarity = refined @ self.landmarks.directions().T
            if mask is not None:
                similarity = similarity.masked_fill(~mask[..., None], -torch.inf)
            best = similarity.max(dim=-1).indices
            mutual = similarity.max(dim=1).indices.gather(1, best) == torch.arange(similarity.shape[1], device=similarity.device)
            of_blocks = torch.stack([block.amax(dim=-1) for block in similarity.split(BLOCK, dim=-1)], dim=-1)
            return self.xyz[best], self.logits(of_blocks, mutual)

    def logits(self, similarity: Tensor, mutual: Tensor) -> Tensor:
        """Reliability logits (...,) from the similarity (..., blocks) of the best landmark of every block, and whether the keypoint is the
        best one of its landmark in turn.
        """
        scale = self.log_scale.exp()
        scores = similarity * scale
        others = torch.logaddexp(torch.logsumexp(scores, dim=-1), self.threshold * scale)
        log_probability = (scores.amax(dim=-1) - others).clamp(max=-1e-6)
        logit = log_probability - torch.log(-torch.expm1(log_probability))
        return torch.where(mutual, logit, logit + NOT_MUTUAL)

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
