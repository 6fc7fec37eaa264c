"""From photos to what the network expects: the size limits of extraction, and the two normalisations that VGG16 was published with."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from d2s.errors import InputError, unknown_choice

PREPROCESSINGS = ("caffe", "torch", "none")
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
TORCH_MEAN, TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: Tensor, kind: str) -> Tensor:
    """Images (B, 3, H, W) RGB, 0 to 255, as the network was trained on.

    `caffe`: blue first, mean subtracted (all published weights of D2-Net). `torch`: scaled to [0, 1], mean and deviation of ImageNet
    (weights of torchvision). `none`: as they are.
    """
    if kind not in PREPROCESSINGS:
        raise unknown_choice("preprocessing", kind, PREPROCESSINGS)
    images = images.float()
    if kind == "caffe":
        return images.flip(1) - images.new_tensor(CAFFE_MEAN)[:, None, None]
    if kind == "torch":
        return (images / 255 - images.new_tensor(TORCH_MEAN)[:, None, None]) / images.new_tensor(TORCH_STD)[:, None, None]
    return images


def to_pictures(images: Tensor, kind: str) -> Tensor:
    """The inverse of `normalise`, rounded: (B, 3, H, W) RGB uint8."""
    if kind not in PREPROCESSINGS:
        raise unknown_choice("preprocessing", kind, PREPROCESSINGS)
    if kind == "caffe":
        images = (images + images.new_tensor(CAFFE_MEAN)[:, None, None]).flip(1)
    elif kind == "torch":
        images = (images * images.new_tensor(TORCH_STD)[:, None, None] + images.new_tensor(TORCH_MEAN)[:, None, None]) * 255
    return images.round().clamp(0, 255).to(torch.uint8)


def limited_sizes(width: int, height: int, max_edge: int | None, max_sum_edges: int | None) -> list[tuple[int, int]]:
    """The sizes (width, height) that an image takes on the way to its limits: none, one, or two, the last of which counts.

    First the longer side to `max_edge`, then the sum of both to `max_sum_edges`; fractions are cut off. Never enlarges.
    """
    sizes = []
    for limit, measure in ((max_edge, max), (max_sum_edges, lambda w, h: w + h)):
        edges = measure(width, height)  # type: ignore[operator]
        if limit is not None and edges > limit:
            width, height = max(1, int(width * (limit / edges))), max(1, int(height * (limit / edges)))
            sizes.append((width, height))
    return sizes


def limit_size(
    image: NDArray[np.uint8], max_edge: int | None, max_sum_edges: int | None, legacy: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The image (H, W, 3) within the limits, and the scale (2,) of x and y back to the original.

    By area averaging in one step, or, as in the published script, by Pillow's bilinear filter in one step per limit.
    """
    height, width = image.shape[:2]
    sizes = limited_sizes(width, height, max_edge, max_sum_edges)
    if not sizes:
        return image, np.ones(2, np.float32)
    for size in sizes if legacy else ():
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    if not legacy:
        image = np.asarray(cv2.resize(image, sizes[-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return image, np.array([width / sizes[-1][0], height / sizes[-1][1]], np.float32)


def check_limits(max_edge: int | None, max_sum_edges: int | None) -> None:
    """Raises InputError for limits that leave nothing of an image."""
    for name, value, least in (("max_edge", max_edge, 16), ("max_sum_edges", max_sum_edges, 32)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise InputError(f"{name} must be a whole number of pixels, at least {least}, or None, not {value!r}.")
