"""Losses of the D2S network (paper, section III-C), as published and in our balanced form.

Shapes: B images, N keypoints. xyz and target (B, N, 3) in the scene's unit; valid (B, N) True where a keypoint has a label; mask (B, N)
True for real keypoints. The map and the reliability loss also take weights of rows there (float, 0 where valid or mask is False).
errors (B, N) reprojection errors in pixels; depth (B, N).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from d2s.config import LossConfig

MIN_DEPTH, MAX_DEPTH, MAX_ERROR = 0.1, 1000.0, 1000.0
"""Reprojection errors count only for points this far in front of the camera (metres) and for errors up to this (pixels)."""


def map_loss(config: LossConfig, xyz: Tensor, target: Tensor, valid: Tensor, scale: Tensor) -> Tensor:
    """Distance between predicted and labelled scene coordinates (paper, eq. 6).

    "sum": (1/B) sum over labelled keypoints of the distance in the scene's unit, as published. "mean": mean over labelled keypoints,
    divided by the scene's scale. "robust": mean of c log(1 + d/c) / c with c = map_scale times the scene's scale, which keeps keypoints
    whose label or descriptor is hopeless from ruling the gradient.
    """
    distance = _norm(xyz - target)
    if config.map_loss == "sum":
        return (distance * valid).sum() / len(xyz)
    distance = distance / scale
    if config.map_loss == "robust":
        distance = torch.log1p(distance / config.map_scale)
    return (distance * valid).sum() / valid.sum().clamp(min=1)


def reliability_loss(config: LossConfig, u: Tensor, reliability: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Distance between predicted reliability and its target in {0, 1} (paper, eq. 7); padding takes no part.

    "batch": (1/B) times the norm over the whole batch; "image": mean of the norms per image; "bce": binary cross entropy per keypoint.
    """
    if config.reliability_loss == "bce":
        loss = functional.binary_cross_entropy_with_logits(u, target, reduction="none")
        return (loss * mask).sum() / mask.sum().clamp(min=1)
    difference = (target - reliability) * mask.float().sqrt()  # a weight counts once in the squares
    if config.reliability_loss == "batch":
        return _norm(difference.reshape(1, -1)).sum() / len(u)
    return _norm(difference).mean()


def reprojection_loss(config: LossConfig, errors: Tensor, depth: Tensor, valid: Tensor, mask: Tensor, progress: float) -> Tensor:
    """Robust mean of reprojection errors (paper, eq. 8) in pixels; `progress` in [0, 1] drives the dynamic clamp.

    Keypoints behind the camera, farther than MAX_DEPTH or off by more than MAX_ERROR take no part; "mean" divides by all keypoints of the
    image, as published, the others by those that take part ("l1" kinds are sums, as published). An image without any keypoint in `mask`
    (its pose is unknown) takes no part.
    """
    keep = {"labelled": valid, "unlabelled": mask & ~valid, "all": mask}[config.reprojection_mask]
    keep = keep & (depth >= MIN_DEPTH) & (depth <= MAX_DEPTH) & (errors <= MAX_ERROR)
    errors = torch.where(keep, errors, torch.zeros_like(errors))  # no NaN of a dropped keypoint may reach the graph
    count = keep.sum().clamp(min=1)
    clamp = config.soft_clamp
    if config.reprojection == "mean":
        return (errors.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / mask.any(dim=1).sum().clamp(min=1)
    if config.reprojection == "tanh":
        return clamp * torch.tanh(errors / clamp).sum() / count
    if config.reprojection == "dyntanh":
        width = dynamic_clamp(config, progress)
        return width * torch.tanh(errors / width).sum() / count
    beyond = errors > clamp
    if config.reprojection == "l1":
        return torch.where(beyond, torch.zeros_like(errors), errors).sum()
    flat = torch.sqrt(clamp * errors.clamp(min=clamp)) if config.reprojection == "l1+sqrt" else torch.log1p(clamp * errors)
    return torch.where(beyond, flat, errors).sum()


def dynamic_clamp(config: LossConfig, progress: float) -> float:
    """Width in pixels of dyntanh at `progress` in [0, 1]: from soft_clamp + soft_clamp_min down to soft_clamp_min."""
    progress = min(max(progress, 0.0), 1.0)
    share = 1 - math.sqrt(1 - progress**2) if config.clamp_schedule == "circle" else progress
    return (1 - share) * config.soft_clamp + config.soft_clamp_min


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis with a finite gradient at 0 (torch's is NaN there once it is multiplied by 0)."""
    return torch.sqrt((x * x).sum(dim=-1) + 1e-12)
