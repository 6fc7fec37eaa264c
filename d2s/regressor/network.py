"""The D2S network (paper, section III-B): descriptors of one image -> scene coordinates and reliabilities.

Model 2 refines the descriptors by self-attention among the keypoints of the image and regresses from them with an MLP; model 1 is the MLP
alone. Published widths give 5,519,108 and 2,233,348 weights for 256-d descriptors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2s.config import ModelConfig

OUTPUTS = 4  # x, y, z and the reliability's pre-activation u


def _mlp(widths: list[int], norm: bool) -> nn.Sequential:
    """Linear layers with ReLU between, none after the last; LayerNorm before each ReLU when `norm`."""
    layers: list[nn.Module] = []
    for index, (inner, outer) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        layers.append(nn.Linear(inner, outer))
        if index < len(widths) - 2:
            layers += [nn.LayerNorm(outer), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers)


class AttentionBlock(nn.Module):
    """x + MLP([x; attention(x)]): the residual self-attention block of the paper (eq. 2 to 4)."""

    def __init__(self, width: int, heads: int, norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.mlp = _mlp([2 * width, 2 * width, width], norm)
        for projection in (self.query, self.key, self.value):  # as published: all three start as copies of the output projection
            projection.load_state_dict(self.merge.state_dict())
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, key_mask: Tensor | None, context: int | None = None) -> Tensor:
        """X (B, N, C); key_mask (B, 1, 1, N) True where a keypoint is real, or None when all are. All attend to the first `context`."""
        batch, count, width = x.shape
        seen = x[:, :context]
        q, k, v = (
            layer(of).view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for layer, of in ((self.query, x), (self.key, seen), (self.value, seen))
        )
        key_mask = None if key_mask is None else key_mask[..., :context]
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        message = self.merge(attended.transpose(1, 2).reshape(batch, count, width))
        return x + self.mlp(torch.cat([x, message], dim=-1))


class D2SNet(nn.Module):
    """Descriptors (B, N, D) -> coordinates (B, N, 3) in the scene's unit and reliabilities (B, N).

    `center` (3,) and `scale` () map the network's own coordinates to the scene's: they are 0 and 1 in the published recipe and the scene's
    statistics where targets are normalised.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig, descriptor_dim: int) -> None:
        super().__init__()
        self.config, self.descriptor_dim = config, descriptor_dim
        norm = config.norm == "layer"
        attention = config.model == 2
        width = config.width if attention else descriptor_dim
        # Published descriptors have the network's width; others are projected to it.
        self.project = nn.Linear(descriptor_dim, width) if descriptor_dim != width else nn.Identity()
        self.blocks = nn.ModuleList(AttentionBlock(width, config.heads, norm) for _ in range(config.blocks if attention else 0))
        # Channels of a unit descriptor are tiny; networks with normalisation get them at unit variance, which speeds up learning.
        self.input_gain = descriptor_dim**0.5 if norm else 1.0
        self.head = _mlp([width, *config.head_widths, OUTPUTS], norm)
        self.register_buffer("center", torch.zeros(3))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, descriptors: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mask (B, N): True for real keypoints, False for padding; padding influences no other keypoint. None: all are real.

        Returns coordinates (B, N, 3) float32 in the scene's unit and the pre-activation u (B, N) float32 of the reliability.
        """
        x = self.project(descriptors * self.input_gain)
        key_mask = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, key_mask)
        output = self.head(x).float()
        return output[..., :3] * self.scale + self.center, output[..., 3]

    def reliability(self, u: Tensor) -> Tensor:
        """Reliability in [0, 1] of the pre-activation u."""
        return torch.sigmoid(u) if self.config.reliability == "sigmoid" else 1 / (1 + 100 * u.abs())
