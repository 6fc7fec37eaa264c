"""D2-Net as one of the project's local features, with the scale of each keypoint for those who want it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from d2s.errors import InputError, unknown_choice
from d2s.features.base import LocalFeatures
from d2s.features.d2net import preprocessing, pyramid
from d2s.features.d2net.alignment import ALIGNMENTS
from d2s.features.d2net.network import CHANNELS, MIN_SIDE, D2Net
from d2s.features.d2net.weight_files import load_into
from d2s.features.images import check_image, to_original, to_rgb
from d2s.features.network import NetworkExtractor, equal_sizes


@dataclass(frozen=True)
class ScaledFeatures(LocalFeatures):
    """Local features with `scales` (N,) float32: how many pixels of the network's input a pixel of the keypoint's level covers."""

    scales: NDArray[np.float32]

    def with_scales(self) -> NDArray[np.float32]:
        """Keypoints (N, 3): x, y, scale."""
        return np.column_stack([self.keypoints, self.scales])


class D2NetExtractor(NetworkExtractor):
    """D2-Net; keypoints between pixels, 512-d descriptors. Best first; with `legacy` coordinates and no limit, in the published order.

    Options: `max_side` and `max_sum_edges` (pixels or None), `scales` of the pyramid, `preprocessing`, `use_relu`, `coordinates`, `half`
    (bfloat16 up to the last convolution). `num_keypoints` may be None: all.
    """

    descriptor_dim = CHANNELS

    def __init__(self, name: str, num_keypoints: int | None, device: str, weights: Path | None, **options: Any) -> None:
        options = {**options, "scales": _checked_scales(options["scales"])}
        _check(options)
        super().__init__(name, num_keypoints, device, weights, **options)  # type: ignore[arg-type]
        self.legacy = options["coordinates"] == "legacy"

    def _load(self, path: Path) -> nn.Module:
        network = D2Net("extraction", self.options["use_relu"])
        load_into(network, path)
        network.dense_feature_extraction.half_precision = self.options["half"]
        # A third less memory at equal speed on a CPU, and twice as fast in half precision
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @torch.inference_mode()
    def extract(self, images: Sequence[NDArray[np.uint8]]) -> list[LocalFeatures]:
        """Features (`ScaledFeatures`) of the images; those of equal size go through the network together."""
        sources = [check_image(image) for image in images]
        limits = self.options["max_side"], self.options["max_sum_edges"]
        resized = [preprocessing.limit_size(to_rgb(image), *limits, legacy=self.legacy) for image in sources]
        results: dict[int, LocalFeatures] = {}
        for rows in equal_sizes([image for image, _ in resized], self.batch_size):
            found = self._extract_batch(torch.stack([torch.from_numpy(resized[row][0].transpose(2, 0, 1).copy()) for row in rows]))
            for row, features in zip(rows, found, strict=True):
                height, width = sources[row].shape[:2]
                results[row] = self._in_original(features, resized[row][1], (width, height))
        return [results[row] for row in range(len(sources))]

    def _extract_batch(self, images: Tensor) -> list[pyramid.Found]:
        """Features in pixels of the images (B, 3, H, W) uint8; images too small for the network are padded, which adds no keypoints."""
        scales = self.options["scales"]
        height, width = images.shape[-2:]
        least = math.ceil(MIN_SIDE / min(*scales, 1.0))
        batch = images.to(self.device).float()
        padded = functional.pad(batch, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")
        ready = preprocessing.normalise(padded, self.options["preprocessing"]).contiguous(memory_format=torch.channels_last)
        found = pyramid.extract(self.network, ready, scales, self.options["coordinates"])
        limit = torch.tensor([width - 0.5, height - 0.5], device=self.device)
        return found if padded.shape == batch.shape else [f.where((f.keypoints[:, :2] < limit).all(dim=1)) for f in found]

    def _in_original(self, found: pyramid.Found, scale: NDArray[np.float32], size: tuple[int, int]) -> ScaledFeatures:
        """The best features, in pixels of the image as stored."""
        if self.num_keypoints is not None or not self.legacy:
            found = found.where(torch.argsort(found.scores, descending=True, stable=True)[: self.num_keypoints])
        keypoints = found.keypoints.cpu().numpy()
        points = keypoints[:, :2] * scale if self.legacy else np.clip(to_original(keypoints[:, :2], scale), 0, np.array(size) - 1)
        arrays = points.astype(np.float32), found.scores.cpu().numpy(), found.descriptors.cpu().numpy()
        return ScaledFeatures(*arrays, size, keypoints[:, 2].copy())


def _checked_scales(scales: Sequence[float]) -> list[float]:
    """The scales as they are written to JSON."""
    if not scales or not all(isinstance(scale, int | float) and 0.05 <= scale <= 8 for scale in scales):
        raise InputError(f"The scales of D2-Net must be numbers from 0.05 to 8, not {scales!r}.", "Published: 1, or 0.5 1 2.")
    return [float(scale) for scale in scales]


def _check(options: dict[str, Any]) -> None:
    """Raises InputError for values that are not allowed."""
    for name, allowed in (("preprocessing", preprocessing.PREPROCESSINGS), ("coordinates", ALIGNMENTS)):
        if options[name] not in allowed:
            raise unknown_choice(name, options[name], allowed)
    preprocessing.check_limits(options["max_side"], options["max_sum_edges"])
