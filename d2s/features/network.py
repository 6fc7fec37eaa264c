"""What all features made by a network share: batches of equal size in, the best keypoints in pixels of the image as stored out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from d2s.errors import InputError, WeightsError
from d2s.features.base import LocalFeatures
from d2s.features.images import check_image, shrink, to_gray, to_original, to_rgb
from d2s.features.weights import load_state_dict, resolve_weights, sha256_of

# Keypoints (N, 2) x y, scores (N,), descriptors (N, D) of one image
Detections = tuple[Tensor, Tensor, Tensor]

MIN_SIDE = 32  # the networks halve the image up to five times; smaller images are padded


class NetworkExtractor:
    """Base of the extractors that run a network. Subclasses say how it is made (`build`) and what it finds (`detect`)."""

    descriptor_dim: int
    gray = False
    shrink_in_float = False  # whether a shrunk image keeps its fractions of a gray level

    def __init__(self, name: str, num_keypoints: int, device: str, weights: Path | None, **options: Any) -> None:
        self.name, self.num_keypoints, self.options = name, num_keypoints, options
        self.device = torch_device(device)
        path = resolve_weights(name, weights)
        self.weights_sha256 = sha256_of(path)
        self.network = self._load(path).eval().to(self.device)
        # On a CPU batches gain nothing, and images one by one give the same bits whatever is left to do after a kill.
        self.batch_size = 1 if self.device.type == "cpu" else 8

    def build(self, state: dict[str, Any]) -> nn.Module:
        """The network with the tensors of a checkpoint. Raises RuntimeError or KeyError when they do not fit."""
        raise NotImplementedError

    def detect(self, images: Tensor) -> list[Detections]:
        """Keypoints in pixels of the images (B, C, H, W) in [0, 1], C = 1 where `gray` is set, else 3; at least the best K of each."""
        raise NotImplementedError

    def _load(self, path: Path) -> nn.Module:
        state = load_state_dict(path)
        try:
            return self.build(state)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(f"Weights {path} do not fit feature {self.name}: {reason}", "Give the right file with --weights.") from None

    def settings(self) -> dict[str, Any]:
        """Everything that decides what comes out."""
        return {"name": self.name, "num_keypoints": self.num_keypoints, **self.options, "weights_sha256": self.weights_sha256}

    @torch.inference_mode()
    def extract(self, images: Sequence[NDArray[np.uint8]]) -> list[LocalFeatures]:
        """Features of the images; those of equal size go through the network together."""
        sources = [check_image(image) for image in images]
        resized = [shrink(self._as_input(image), self.options.get("max_side")) for image in sources]
        results: dict[int, LocalFeatures] = {}
        for rows in equal_sizes([image for image, _ in resized], self.batch_size):
            found = self._detect_padded(torch.stack([_to_tensor(resized[row][0]) for row in rows]))
            for row, detections in zip(rows, found, strict=True):
                height, width = sources[row].shape[:2]
                results[row] = self._best(detections, resized[row][1], (width, height))
        return [results[row] for row in range(len(sources))]

    def _as_input(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        image = (to_gray if self.gray else to_rgb)(image)
        return image.astype(np.float32) if self.shrink_in_float else image

    def _detect_padded(self, images: Tensor) -> list[Detections]:
        height, width = images.shape[-2:]
        batch = images.to(self.device).float() / 255
        small = (0, max(0, MIN_SIDE - width), 0, max(0, MIN_SIDE - height))
        if not any(small):
            return self.detect(batch)
        found = self.detect(functional.pad(batch, small, mode="replicate"))
        limit = torch.tensor([width - 0.5, height - 0.5], device=self.device)
        return [_keep((keypoints < limit).all(dim=1), keypoints, scores, descriptors) for keypoints, scores, descriptors in found]

    def _best(self, detections: Detections, scale: NDArray[np.float32], size: tuple[int, int]) -> LocalFeatures:
        keypoints, scores, descriptors = detections
        order = torch.argsort(scores, descending=True, stable=True)[: self.num_keypoints]
        points = to_original(keypoints[order].float().cpu().numpy(), scale)
        points = np.clip(points, 0, np.array(size, np.float32) - 1)
        unit = functional.normalize(descriptors[order].float(), dim=1)
        return LocalFeatures(points.astype(np.float32), scores[order].float().cpu().numpy(), unit.cpu().numpy(), size)


def torch_device(device: str) -> torch.device:
    """The device of a name such as `cpu` or `cuda:0`. Raises InputError when this machine does not have it."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f"Unknown device {device!r}.", "Write cpu, cuda or cuda:NUMBER.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise InputError(f"Device {device} does not exist; this machine has {torch.cuda.device_count()} GPUs.", "Use cpu.")
    return found


def _to_tensor(image: NDArray[Any]) -> Tensor:
    """(C, H, W) in the image's type."""
    array = image[:, :, None] if image.ndim == 2 else image
    return torch.from_numpy(array.transpose(2, 0, 1).copy())  # ascontiguousarray would leave the negative strides of one turned pixel


def _keep(mask: Tensor, *tensors: Tensor) -> Any:
    return tuple(tensor[mask] for tensor in tensors)


def equal_sizes(images: Sequence[NDArray[Any]], limit: int) -> list[list[int]]:
    """Row numbers in groups of at most `limit` images of one size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(row)
    return [rows[start : start + limit] for rows in by_size.values() for start in range(0, len(rows), limit)]
