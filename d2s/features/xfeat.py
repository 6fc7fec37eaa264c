"""XFeat (Potje et al. 2024) through kornia, with weights that we find ourselves."""

from __future__ import annotations

from typing import Any

from kornia.feature import XFeat
from torch import Tensor, nn

from d2s.features.network import Detections, NetworkExtractor


class XFeatExtractor(NetworkExtractor):
    """XFeat; keypoints at whole pixels of the image, resized to multiples of 32."""

    descriptor_dim = 64

    def build(self, state: dict[str, Any]) -> nn.Module:
        """The network with the tensors of the authors' checkpoint."""
        network = XFeat(top_k=self.num_keypoints, detection_threshold=self.options["score_threshold"])
        network.net.load_state_dict(state)
        return network

    def detect(self, images: Tensor) -> list[Detections]:
        """The best maxima of the keypoint heatmap."""
        sides = images.new_tensor([images.shape[-1], images.shape[-2]])
        stretch = sides / (sides // 32 * 32)
        found = self.network.detectAndCompute(images)  # type: ignore[operator]
        # kornia stretches the corner of the pixel; here the edges of both images coincide.
        return [(f["keypoints"] + (stretch - 1) / 2, f["scores"], f["descriptors"]) for f in found]
