"""What is minimised: from a batch and a network to weighted loss terms."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from d2s.config import LossConfig, TrainingConfig
from d2s.geometry.torch_camera import TorchCameras
from d2s.regressor import losses
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.network import D2SNet
from d2s.training.data import Batch
from d2s.training.draws import step_generator


class Objective(Protocol):
    """Loss terms of one step, already weighted: "map", "reliability" and, when it applies, "reprojection"."""

    def __call__(self, batch: Batch, mask: Tensor | None, progress: float, stage: int, step: int = 0) -> dict[str, Tensor]:
        """`mask` is the batch's mask, or None when all rows are real; `step` counts all stages' steps; called inside autocast."""
        ...


class RegressionObjective:
    """Losses of models 1 and 2 (paper, section III-C).

    Rows count by their weight in the map and the reliability loss; the reprojection loss, and reliability targets by error, are for images
    with a pose only.
    """

    def __init__(self, config: LossConfig, network: D2SNet, cameras: TorchCameras, scale: Tensor) -> None:
        self.config, self.network, self.cameras, self.scale = config, network, cameras, scale

    def __call__(self, batch: Batch, mask: Tensor | None, progress: float, stage: int, step: int = 0) -> dict[str, Tensor]:
        """Map, reliability and reprojection loss; everything after the network in float32."""
        config = self.config
        xyz, u = self.network(batch.descriptors, mask)
        with torch.autocast(u.device.type, enabled=False):
            terms = {"map": config.coef_map * losses.map_loss(config, xyz, batch.xyz, batch.valid * batch.weight, self.scale)}
            target, posed = batch.valid.float(), batch.has_pose[:, None]
            by_error, reprojects = config.reliability_target == "error", self._reprojects(progress, stage)
            if by_error or reprojects:
                errors, depth = self._reproject(xyz, batch)
            if by_error:
                near = (errors.detach() < config.reliability_px) & (depth.detach() > losses.MIN_DEPTH)
                target = torch.where(posed, near.float(), target)
            reliability = losses.reliability_loss(config, u, self.network.reliability(u), target, batch.mask * batch.weight)
            terms["reliability"] = config.coef_reliability * reliability
            if reprojects:
                coefficient = config.coef_lrepr_unlabel if stage == 3 else config.coef_lrepr
                terms["reprojection"] = coefficient * losses.reprojection_loss(
                    config, errors, depth, batch.valid & posed, batch.mask & posed, progress
                )
        return terms

    def _reprojects(self, progress: float, stage: int) -> bool:
        config = self.config
        if config.reprojection == "none" or stage < config.reprojection_stage:
            return False
        return progress >= config.reprojection_start or stage > config.reprojection_stage

    def _reproject(self, xyz: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Reprojection errors (B, N) in pixels through the images' own cameras, distortion included, and depths (B, N)."""
        rotation, translation = batch.cam_from_world[:, :, :3], batch.cam_from_world[:, None, :, 3]
        points_cam = xyz @ rotation.transpose(1, 2) + translation
        difference = self.cameras.project(batch.camera, points_cam) - batch.keypoints
        return torch.sqrt((difference * difference).sum(dim=-1) + 1e-6), points_cam[..., 2]


class LandmarkObjective:
    """Cross entropy of model 3: keypoints that show a landmark should name it, the others should name none.

    A step compares with `landmarks_per_step` landmarks: those that its keypoints show, and others at random.
    """

    def __init__(self, config: LossConfig, network: LandmarkNet, landmark_of_point: Tensor, training: TrainingConfig) -> None:
        self.config, self.network, self.landmark_of_point, self.training = config, network, landmark_of_point, training

    def __call__(self, batch: Batch, mask: Tensor | None, progress: float, stage: int, step: int = 0) -> dict[str, Tensor]:
        """Both kinds of keypoints count as a weighted mean of their own, whatever their numbers in the batch."""
        landmark = self.landmark_of_point[batch.point.clamp(min=0)]
        shows = batch.valid & (landmark >= 0)
        chosen, place = self._choose(landmark[shows], step)
        target = torch.where(shows, place[landmark.clamp(min=0)], len(chosen))
        scores = self.network.scores(batch.descriptors, chosen, mask)
        entropy = functional.cross_entropy(scores.flatten(0, 1).float(), target.flatten(), reduction="none").view_as(target)
        kinds = {"map": shows * batch.weight, "reliability": (batch.mask & ~shows) * batch.weight}
        coefficients = {"map": self.config.coef_map, "reliability": self.config.coef_reliability}
        return {name: coefficients[name] * (entropy * rows).sum() / rows.sum().clamp(min=1) for name, rows in kinds.items()}

    def _choose(self, shown: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Landmarks (S,) to compare with, all `shown` ones among them, and the place (M,) of each landmark there, -1 for the others."""
        count, generator = self.network.count, step_generator(self.training.seed, "landmarks", step)
        order = torch.randperm(count, generator=generator).to(shown.device)
        first = torch.ones(count, dtype=torch.bool, device=shown.device)
        first[shown] = False
        chosen = order[torch.argsort(first[order], stable=True)][: max(self.training.landmarks_per_step, int((~first).sum()))]
        place = torch.full((count,), -1, dtype=torch.long, device=shown.device)
        place[chosen] = torch.arange(len(chosen), device=shown.device)
        return chosen, place
