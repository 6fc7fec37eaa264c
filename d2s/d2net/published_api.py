"""D2-Net under the names of its published code, so that programs written for that (hloc, for example) run with this one.

They import `D2Net` from `lib.model_test` and `process_multiscale` from `lib.pyramid`. Two files of one line each make the connection:
docs/d2net.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s.errors import InputError
from d2s.features.d2net import network, pyramid
from d2s.features.d2net.weight_files import load_into

Arrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


class D2Net(network.D2Net):
    """The network with the weights of a file, ready to extract; it can be moved with `.to(device)`."""

    def __init__(self, model_file: str | Path | None = None, use_relu: bool = True, use_cuda: bool = True) -> None:
        super().__init__("extraction", use_relu)
        if model_file is not None:
            load_into(self, Path(model_file))
        self.eval().to("cuda" if use_cuda and torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def process_multiscale(
    image: Tensor, model: network.D2Net, scales: Sequence[float] = pyramid.MULTISCALE, coordinates: str = "corrected"
) -> Arrays:
    """Keypoints (N, 3) row, column, scale, scores (N,) and descriptors (N, 512) of one preprocessed image (1, 3, H, W).

    `coordinates`: `corrected`, or `legacy` for the numbers of the published code.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise InputError(f"An image must be (1, 3, H, W), not {tuple(image.shape)}.")
    (found,) = pyramid.extract(model, image, scales, coordinates)
    return found.keypoints[:, [1, 0, 2]].cpu().numpy(), found.scores.cpu().numpy(), found.descriptors.cpu().numpy()
