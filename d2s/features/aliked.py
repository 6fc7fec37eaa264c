"""ALIKED (Zhao et al. 2023) with kornia's weights, detection and blocks, but without the dense feature map.

kornia's forward pass upsamples all features to a map of 128 channels at full resolution (157 MB for a VGA image), normalises it, and then
reads a few percent of it; on a CPU that takes two thirds of the time. Two identities avoid the map and change nothing but rounding:

- The first layer of the score head is linear and acts on single pixels, so it commutes with bilinear upsampling: eight channels are
  upsampled instead of 128.
- The descriptor head needs features only near keypoints; they are interpolated there from the maps of lower resolution.
"""

from __future__ import annotations

from typing import Any

import torch
from kornia.feature.aliked import ALIKED
from kornia.feature.aliked.aliked import DeformableConv2d
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from d2s.features.network import Detections, NetworkExtractor

# Features at 1, 1/2, 1/8 and 1/32 of the resolution, each (h, w, C) for one image
Levels = list[Tensor]


class SparseAliked(ALIKED):
    """kornia's ALIKED with a forward pass that forms features only where descriptors need them."""

    def prepare(self) -> SparseAliked:
        """Fold batch normalisations into the convolutions before them; call once, after the weights are loaded and `eval()`."""
        for block in (self.block1, self.block2, self.block3, self.block4):
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
                layer = getattr(block, conv)
                if isinstance(layer, DeformableConv2d):
                    layer.regular_conv = fuse_conv_bn_eval(layer.regular_conv, getattr(block, norm))
                    setattr(block, conv, DeformableConvolution(layer))
                else:
                    setattr(block, conv, fuse_conv_bn_eval(layer, getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def detect(self, images: Tensor) -> list[Detections]:
        """Keypoints (N, 2) in pixels, scores and descriptors (N, 128) of images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        left, top = (-width % 32) // 2, (-height % 32) // 2
        padding = (left, -width % 32 - left, top, -height % 32 - top)
        padded = functional.pad(images, padding, mode="replicate").contiguous(memory_format=torch.channels_last)
        levels = self._levels(padded)
        scores = self._scores(levels)[:, :, top : top + height, left : left + width]
        keypoints, keypoint_scores, _ = self.dkd(scores.contiguous())
        found = []
        for k in range(len(images)):
            pixels = (keypoints[k] / 2 + 0.5) * pixels_like(keypoints[k], width - 1, height - 1)
            features = SparseFeatures([level[k] for level in levels], (left, top), (width, height))
            found.append((pixels, keypoint_scores[k], self._describe(features, pixels)))
        return found

    def _levels(self, images: Tensor) -> Levels:
        """Gated features of the four blocks, (B, h, w, 32) each."""
        x1 = self.block1(images)
        x2 = self.block2(self.pool2(x1))
        x3 = self.block3(self.pool4(x2))
        x4 = self.block4(self.pool4(x3))
        pairs = ((x1, self.conv1), (x2, self.conv2), (x3, self.conv3), (x4, self.conv4))
        return [self.gate(functional.linear(x.permute(0, 2, 3, 1), conv.weight[:, :, 0, 0])) for x, conv in pairs]

    def _scores(self, levels: Levels) -> Tensor:
        """Score map (B, 1, H, W) in (0, 1)."""
        first, *rest = self.score_head
        size = levels[0].shape[1:3]
        parts = []
        for level, weight in zip(levels, first.weight[:, :, 0, 0].split([level.shape[-1] for level in levels], dim=1), strict=True):
            part = functional.linear(level, weight).permute(0, 3, 1, 2)
            same = part.shape[-2:] == size
            parts.append(part if same else functional.interpolate(part, size, mode="bilinear", align_corners=True))
        total = parts[0].add_(parts[1]).add_(parts[2]).add_(parts[3])
        for layer in rest:
            total = layer(total)
        return total.sigmoid_()

    def _describe(self, features: SparseFeatures, keypoints: Tensor) -> Tensor:
        """Descriptors from deformable positions around the keypoints (section III-B: sparse deformable descriptor head)."""
        head, count = self.desc_head, len(keypoints)
        if count == 0:
            return keypoints.new_zeros(0, self.conv1.weight.shape[0] * 4)
        width, height = features.size
        limit = max(height, width) / 4.0
        patches = features.at_pixels(patch_pixels(keypoints, head.kernel_size, width, height)).transpose(1, 2)
        patches = patches.reshape(count, -1, head.kernel_size, head.kernel_size)
        offsets = head.offset_conv(patches).clamp(-limit, limit).reshape(count, 2, head.n_pos).transpose(1, 2)
        samples = features.between_pixels((keypoints[:, None] + offsets).reshape(-1, 2))
        samples = functional.selu(functional.linear(samples, head.sf_conv.weight[:, :, 0, 0]))
        return functional.normalize(samples.reshape(count, -1) @ head.agg_weights.flatten(0, 1), dim=1)


class SparseFeatures:
    """The normalised 128-channel feature map of one image, computed only at the pixels that are asked for."""

    def __init__(self, levels: Levels, origin: tuple[int, int], size: tuple[int, int]) -> None:
        """`levels`: (h, w, C) each, of the padded image. `origin`: its pixel that is (0, 0) of the image of `size` (width, height)."""
        self.levels, self.origin, self.size = levels, origin, size

    def at_pixels(self, pixels: Tensor) -> Tensor:
        """Features (..., 128) at whole pixels (..., 2) inside the image."""
        parts, gain = self._parts(pixels.reshape(-1, 2))
        return (torch.cat(parts, dim=1) * gain[:, None]).reshape(*pixels.shape[:-1], -1)

    def between_pixels(self, points: Tensor) -> Tensor:
        """Features (N, 128) at any points (N, 2): bilinear between the four pixels around each; pixels outside the image count as zero."""
        width, height = self.size
        index, weights = corners(points, width, height)
        needed = torch.zeros(height * width, dtype=torch.bool, device=points.device)
        needed[index.flatten()] = True  # neighbouring samples share most of their pixels
        pixels = torch.nonzero(needed)[:, 0]
        parts, gain = self._parts(torch.stack([pixels % width, torch.div(pixels, width, rounding_mode="floor")], dim=1))
        rows = (needed.cumsum(0) - 1)[index]
        weights = weights * gain[rows]
        return torch.cat([functional.embedding_bag(rows, part, per_sample_weights=weights, mode="sum") for part in parts], dim=1)

    def _parts(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of each level (N, C) at whole pixels (N, 2), and the factor (N,) that makes all of them together a unit vector."""
        height, width = self.levels[0].shape[:2]
        places = pixels + pixels_like(pixels, *self.origin)
        parts = [self.levels[0].flatten(0, 1)[places[:, 1] * width + places[:, 0]]]
        for level in self.levels[1:]:
            scale = [(level.shape[1] - 1) / (width - 1), (level.shape[0] - 1) / (height - 1)]
            parts.append(interpolate(level, places * places.new_tensor(scale, dtype=torch.float32)))
        norm = torch.stack([part.square().sum(dim=1) for part in parts]).sum(dim=0).sqrt()
        return parts, 1 / norm.clamp(min=1e-12)


class DeformableConvolution(nn.Module):
    """Deformable 3 x 3 convolution (Dai et al. 2017) as interpolation and one matrix product, on channels that lie together in memory."""

    def __init__(self, layer: DeformableConv2d) -> None:
        super().__init__()
        self.offset_conv, self.regular_conv = layer.offset_conv, layer.regular_conv

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C_out, H, W)."""
        weight = self.regular_conv.weight
        offsets = self.offset_conv(images).clamp(-max(images.shape[-2:]) / 4.0, max(images.shape[-2:]) / 4.0)
        matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        rows = [functional.linear(self._taps(*pair), matrix, self.regular_conv.bias) for pair in zip(images, offsets, strict=True)]
        return torch.stack(rows).permute(0, 3, 1, 2)

    def _taps(self, image: Tensor, offset: Tensor) -> Tensor:
        """What the nine taps of each pixel read, (H, W, 9 C). `offset` (18, H, W): dy, dx of tap after tap, row by row."""
        height, width = image.shape[-2:]
        dy, dx = offset.permute(1, 2, 0).unflatten(-1, (9, 2)).unbind(-1)
        step = torch.arange(3, device=image.device) - 1
        y = dy + torch.arange(height, device=image.device)[:, None, None] + step.repeat_interleave(3)
        x = dx + torch.arange(width, device=image.device)[None, :, None] + step.repeat(3)
        taps = interpolate(image.permute(1, 2, 0), torch.stack([x, y], dim=-1).reshape(-1, 2))
        return taps.reshape(height, width, -1)


def pixels_like(like: Tensor, x: int, y: int) -> Tensor:
    """The pair (x, y) with the type and device of another tensor."""
    return like.new_tensor([x, y])


def corners(points: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The four pixels around points (N, 2), as row-major indices (N, 4), and their bilinear weights (N, 4), zero outside the image."""
    x, x_weight = _neighbours(points[:, 0], width)
    y, y_weight = _neighbours(points[:, 1], height)
    index = y[:, :, None] * width + x[:, None, :]
    return index.flatten(1), (y_weight[:, :, None] * x_weight[:, None, :]).flatten(1)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two whole numbers (N, 2) around positions (N,), clamped to 0 … size - 1, and their weights, zero where they were outside."""
    low = position.floor()
    high = low + 1
    upper = position - low
    lower_weight = (1 - upper) * ((low >= 0) & (low < size))
    upper_weight = upper * ((high >= 0) & (high < size))
    return torch.stack([low, high], dim=1).clamp(0, size - 1).long(), torch.stack([lower_weight, upper_weight], dim=1)


def interpolate(features: Tensor, points: Tensor) -> Tensor:
    """Features (N, C) at points (N, 2) of a map (h, w, C): bilinear, zero outside."""
    index, weights = corners(points, features.shape[1], features.shape[0])
    return functional.embedding_bag(index, features.flatten(0, 1), per_sample_weights=weights, mode="sum")


def patch_pixels(keypoints: Tensor, side: int, width: int, height: int) -> Tensor:
    """The pixels (N, side * side, 2) of square patches around the pixels that keypoints (N, 2) lie in, moved to lie inside the image."""
    corner = (keypoints.long() - side / 2 + 1).long()
    corner = torch.minimum(corner.clamp(min=0), pixels_like(corner, width - 1 - side, height - 1 - side))
    step = torch.arange(side, device=keypoints.device)
    grid = torch.stack([step.repeat(side), step.repeat_interleave(side)], dim=1)
    return corner[:, None] + grid


class AlikedExtractor(NetworkExtractor):
    """ALIKED-N16; keypoints with sub-pixel refinement, 128-d descriptors."""

    descriptor_dim = 128

    def build(self, state: dict[str, Any]) -> nn.Module:
        """The network with the tensors of the authors' checkpoint, which lacks one constant that kornia makes itself."""
        network = SparseAliked("aliked-n16", max_num_keypoints=self.num_keypoints, detection_threshold=0.0)
        missing, unexpected = network.load_state_dict(state, strict=False)
        if set(missing) - {"dkd.hw_grid"} or unexpected:
            raise KeyError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
        return network.eval().prepare()

    def detect(self, images: Tensor) -> list[Detections]:
        """The best maxima of the score map."""
        found: list[Detections] = self.network.detect(images)  # type: ignore[operator]
        return found
