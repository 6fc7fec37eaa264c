"""DISK (Tyszkiewicz et al. 2020) with kornia's network and detection, and descriptors only where there are keypoints.

The last convolution of the U-Net makes 128 descriptor channels and one heatmap channel at every pixel, which is two thirds of the work.
It has no non-linearity after it, so its descriptor part can be evaluated at the keypoints alone, with the same result.
"""

from __future__ import annotations

from typing import Any

from kornia.feature import DISK
from kornia.feature.disk.detector import heatmap_to_keypoints
from torch import Tensor, nn
from torch.nn import functional

from d2s.features.network import Detections, NetworkExtractor

MULTIPLE = 16  # the U-Net halves the image four times


class SparseDisk(nn.Module):
    """The U-Net of DISK without its last convolution, and that convolution in two parts."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        disk = DISK()
        disk.load_state_dict(state)
        self.unet, self.descriptor_dim = disk.unet, disk.desc_dim
        self.last: nn.Conv2d = self.unet.path_up[-1].conv[-1]
        self.unet.path_up[-1].conv[-1] = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Heatmap (B, 1, H, W) and the features (B, C, H, W) that descriptors are made of."""
        height, width = images.shape[-2:]
        features = self.unet(functional.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE)))
        weight, bias = self.last.weight[self.descriptor_dim :], self._bias()[self.descriptor_dim :]
        return functional.conv2d(features, weight, bias, padding="same")[:, :, :height, :width], features

    def describe(self, features: Tensor, pixels: Tensor) -> Tensor:
        """Descriptors (N, D) at whole pixels (N, 2) of one image, from its features (C, H, W)."""
        side = self.last.kernel_size[0]
        patches = functional.pad(features, [side // 2] * 4).unfold(1, side, 1).unfold(2, side, 1)
        rows = patches[:, pixels[:, 1], pixels[:, 0]].transpose(0, 1).flatten(1)
        return functional.linear(rows, self.last.weight[: self.descriptor_dim].flatten(1), self._bias()[: self.descriptor_dim])

    def _bias(self) -> Tensor:
        assert self.last.bias is not None
        return self.last.bias


class DiskExtractor(NetworkExtractor):
    """DISK, depth-supervised weights; keypoints at whole pixels, 128-d descriptors."""

    descriptor_dim = 128

    def build(self, state: dict[str, Any]) -> nn.Module:
        """The network with the tensors of the authors' checkpoint."""
        return SparseDisk(state["extractor"])

    def detect(self, images: Tensor) -> list[Detections]:
        """The strict maxima of the heatmap."""
        heatmap, features = self.network(images)
        window, threshold = self.options["window_size"], self.options["score_threshold"]
        found = heatmap_to_keypoints(heatmap, n=self.num_keypoints, window_size=window, score_threshold=threshold)
        describe = self.network.describe
        return [(f.xys.float(), f.detection_logp, describe(features[k], f.xys)) for k, f in enumerate(found)]  # type: ignore[operator]
