"""The network of D2-Net (Dusmanu et al. 2019, section 3): VGG16 up to conv4_3, in two graphs that share one set of weights.

`extraction` (section 3.3, at test time): the third pooling averages 2x2 cells with stride 1, so that cells stay 4 px apart, and conv4 is
dilated by 2 to see as much as it did in training. `training`: plain VGG16, cells 8 px apart, a quarter of the memory.

The average over 2x2 cells moves the centre of what a cell sees: cell k of the extraction graph is at pixel 4 k + 3.5, cell k of the
training graph at 8 k + 3.5.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from d2s.errors import unknown_choice

CHANNELS = 512
GRAPHS = ("extraction", "training")
STRIDE = {"extraction": 4, "training": 8}
CENTRE = 3.5
"""Pixel of the centre of cell 0, in both graphs."""
MIN_SIDE = 8
"""The smallest side of an image that has a cell."""

# Channels of the convolutions between the poolings
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512))

STRIP_PIXELS = 1 << 17
"""Pixels of the strips that the first layers of a large image go through: their full maps would be the largest of all."""


class DenseFeatures(nn.Module):
    """Images (B, 3, H, W), preprocessed, to feature maps (B, 512, h, w).

    Extraction: h = H // 4 - 1, with a ReLU at the end where `use_relu`. Training: h = H // 8, never a ReLU: the loss compares descriptors
    before it.
    """

    num_channels = CHANNELS

    def __init__(self, graph: str = "extraction", use_relu: bool = True) -> None:
        super().__init__()
        if graph not in GRAPHS:
            raise unknown_choice("graph of D2-Net", graph, GRAPHS)
        self.graph, self.use_relu = graph, use_relu and graph == "extraction"
        self.model = nn.Sequential(*_layers(graph))
        self.half_precision = False

    def forward(self, images: Tensor) -> Tensor:
        """Dense features; in strips where the image is large and no gradient is wanted."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half_precision):
            features = self._before_last(images)
        # The last convolution keeps its full precision: maxima are found by comparing its neighbouring values.
        features = self.model[-1](features.float())
        return functional.relu_(features) if self.use_relu else features

    def _before_last(self, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() or images.shape[-2] * images.shape[-1] <= 2 * STRIP_PIXELS:
            return self.model[:-1](images)  # type: ignore[no-any-return]
        layers = list(self.model)
        features = in_strips(layers[5:10], in_strips(layers[:5], images))
        return nn.Sequential(*layers[10:-1])(features)  # type: ignore[no-any-return]


def _layers(graph: str) -> Iterator[nn.Module]:
    """The layers in VGG16's order, which the names in checkpoints follow, without a ReLU after the last."""
    extraction = graph == "extraction"
    before = 3
    for stage, widths in enumerate(STAGES):
        dilation = 2 if extraction and stage == 3 else 1
        for layer, width in enumerate(widths):
            yield nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation)
            if (stage, layer) != (3, 2):
                yield nn.ReLU(inplace=True)
            before = width
        if stage < 3:
            yield nn.AvgPool2d(2, stride=1) if extraction and stage == 2 else nn.MaxPool2d(2)


def in_strips(block: list[nn.Module], images: Tensor) -> Tensor:
    """What two 3x3 convolutions and a 2x2 pooling make of images (B, C, H, W), without ever holding their whole maps before the pooling."""
    height = images.shape[2]
    convolutions, pooling = nn.Sequential(*block[:-1]), block[-1]
    rows = max(1, STRIP_PIXELS // (2 * images.shape[3]))
    strips = []
    for start in range(0, height // 2, rows):
        first, last = 2 * start, 2 * min(start + rows, height // 2)
        top, bottom = max(0, first - 2), min(height, last + 2)  # two rows more than are kept: each convolution looks one further
        strip = convolutions(images[:, :, top:bottom])[:, :, first - top : last - top]
        strips.append(pooling(strip))
    return torch.cat(strips, dim=2)


class D2Net(nn.Module):
    """The network under the names of the published checkpoints: their entry `model` loads strictly."""

    def __init__(self, graph: str = "extraction", use_relu: bool = True) -> None:
        super().__init__()
        self.dense_feature_extraction = DenseFeatures(graph, use_relu)

    def forward(self, images: Tensor) -> Tensor:
        """Dense features (B, 512, h, w) of preprocessed images (B, 3, H, W)."""
        features: Tensor = self.dense_feature_extraction(images)
        return features
