"""SuperPoint (DeTone, Malisiewicz and Rabinovich 2018, section 3): one encoder, a detector head and a descriptor head.

Our own implementation of the published network, for two published sets of weights: `superpoint` (Magic Leap's, convolutions and ReLU) and
`superpoint-open` (an MIT-licensed training of the same network by Pautrat and Sarlin, with batch normalisation after each ReLU).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2s.errors import InputError, unknown_choice
from d2s.features.network import Detections, NetworkExtractor

CELL = 8  # pixels per cell of both heads: the encoder halves the image three times
DESCRIPTOR_DIM = 256
ENCODER = ((64, 64), (64, 64), (128, 128), (128, 128))
SAMPLINGS = ("exact", "hloc")

# Names in Magic Leap's checkpoint -> ours, which are those of the batch-norm checkpoint.
MAGIC_LEAP_NAMES = {
    **{f"conv{stage + 1}{'ab'[layer]}": f"backbone.{stage}.{layer}.conv" for stage in range(4) for layer in range(2)},
    "convPa": "detector.0.conv",
    "convPb": "detector.1.conv",
    "convDa": "descriptor.0.conv",
    "convDb": "descriptor.1.conv",
}


class SuperPoint(nn.Module):
    """Gray images (B, 1, H, W) in [0, 1] -> score of each pixel (B, 8 h, 8 w) and unit descriptors of cells (B, 256, h, w).

    h = H // 8, w = W // 8: what is left over at the right and at the bottom has no cell.
    """

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        widths = [1, *(channels for stage in ENCODER for channels in stage)]
        layers = [_layer(i, o, 3, batch_norm) for i, o in zip(widths, widths[1:], strict=False)]
        self.backbone = nn.ModuleList(nn.Sequential(*layers[k : k + 2]) for k in range(0, len(layers), 2))
        self.detector = _head(CELL * CELL + 1, batch_norm)
        self.descriptor = _head(DESCRIPTOR_DIM, batch_norm)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Dense scores and descriptors."""
        cells = self.backbone[0](images)
        for stage in list(self.backbone)[1:]:
            cells = stage(functional.max_pool2d(cells, 2))
        descriptors = functional.normalize(self.descriptor(cells).float(), dim=1)
        return pixel_scores(self.detector(cells).float()), descriptors


def _layer(channels_in: int, channels_out: int, kernel: int, batch_norm: bool, relu: bool = True) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2))
    if relu:
        parts["relu"] = nn.ReLU(inplace=True)
    if batch_norm:
        parts["bn"] = nn.BatchNorm2d(channels_out, eps=1e-3)  # the training in TensorFlow used this epsilon
    return nn.Sequential(parts)


def _head(channels_out: int, batch_norm: bool) -> nn.Sequential:
    return nn.Sequential(_layer(ENCODER[-1][-1], 256, 3, batch_norm), _layer(256, channels_out, 1, batch_norm, relu=False))


def pixel_scores(logits: Tensor) -> Tensor:
    """Probability of each pixel (B, 8 h, 8 w) to be the keypoint of its cell, from cell logits (B, 65, h, w); the last one means "none"."""
    return functional.pixel_shuffle(logits.softmax(dim=1)[:, :-1], CELL)[:, 0]


def suppress_neighbours(scores: Tensor, radius: int) -> Tensor:
    """Scores (B, H, W) with everything but local maxima of a (2 radius + 1) window set to zero.

    As in the published code, pixels that only lost to a maximum that was itself suppressed get two more chances.
    """

    def window_maximum(values: Tensor) -> Tensor:
        return functional.max_pool2d(values[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]

    kept = scores == window_maximum(scores)
    for _ in range(2):
        covered = window_maximum(kept.to(scores.dtype)) > 0
        rest = scores.masked_fill(covered, 0.0)
        kept = kept | ((rest == window_maximum(rest)) & ~covered)
    return scores.masked_fill(~kept, 0.0)


def sample_descriptors(descriptors: Tensor, keypoints: Tensor, sampling: str = "exact") -> Tensor:
    """Unit descriptors (N, D) at keypoints (N, 2) in pixels, bilinear between cells (D, h, w).

    `exact`: the centre of cell i is at pixel 8 i + 3.5, whatever the size of the image, so that a shift of the image by whole cells changes
    nothing. `hloc`: as SuperGlue, LightGlue and hloc do, where the cells are stretched so that the last one lies on the last pixel
    (up to 3.5 px off at the right and lower edge); for networks that were trained on such descriptors.
    """
    cells = keypoints.new_tensor([descriptors.shape[2], descriptors.shape[1]])
    places = (keypoints - (CELL - 1) / 2) / CELL
    if sampling == "hloc":
        places = places * CELL * (cells - 1) / (cells * CELL - (CELL + 1) / 2)
    grid = (2 * places + 1) / cells - 1
    found = functional.grid_sample(descriptors[None], grid[None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return functional.normalize(found[0, :, 0].T, dim=1)


class SuperPointExtractor(NetworkExtractor):
    """SuperPoint keypoints at whole pixels, with 256-d descriptors."""

    descriptor_dim = DESCRIPTOR_DIM
    gray = True

    def build(self, state: dict[str, Any]) -> nn.Module:
        """The network with the tensors of the checkpoint format that belongs to the feature's name."""
        if self.options["sampling"] not in SAMPLINGS:
            raise unknown_choice("sampling", self.options["sampling"], SAMPLINGS)
        if self.options["nms_radius"] < 0 or self.options["border"] < 0:
            raise InputError("nms_radius and border of SuperPoint must not be negative.")
        # hloc shrinks float images: rounded to whole gray levels, one keypoint in ten of the best 1024 is another
        self.shrink_in_float = self.options["sampling"] == "hloc"
        network = SuperPoint(batch_norm=self.name == "superpoint-open")
        network.load_state_dict(state if self.name == "superpoint-open" else rename_magic_leap(state))
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # twice as fast on a CPU

    def detect(self, images: Tensor) -> list[Detections]:
        """The best maxima of the scores."""
        scores, descriptors = self.network(images)
        scores = suppress_neighbours(scores, self.options["nms_radius"])
        return [self._detect_one(scores[k], descriptors[k]) for k in range(len(images))]

    def _detect_one(self, scores: Tensor, descriptors: Tensor) -> Detections:
        border = self.options["border"]
        inner = torch.zeros_like(scores, dtype=torch.bool)
        inner[border : scores.shape[0] - border, border : scores.shape[1] - border] = True
        rows, columns = torch.nonzero(inner & (scores > self.options["score_threshold"]), as_tuple=True)
        found = scores[rows, columns]
        best = torch.argsort(found, descending=True, stable=True)[: self.num_keypoints]
        keypoints = torch.stack([columns[best], rows[best]], dim=1).float()
        return keypoints, found[best], sample_descriptors(descriptors, keypoints, self.options["sampling"])


def rename_magic_leap(state: dict[str, Any]) -> dict[str, Any]:
    """Magic Leap's checkpoint under our names. Raises KeyError when it has other names."""
    unknown = sorted({key.rpartition(".")[0] for key in state} - set(MAGIC_LEAP_NAMES))
    if unknown:
        raise KeyError(f"unexpected layers {', '.join(unknown[:3])}")
    return {f"{MAGIC_LEAP_NAMES[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}
