"""LightGlue (Lindenberger et al., ICCV 2023) through kornia, for the features that there are weights for."""

from __future__ import annotations

import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from d2s.errors import InputError, MissingPackageError, WeightsError
from d2s.features.base import LocalFeatures
from d2s.features.weights import WEIGHTS, load_state_dict, resolve_weights

PREFIX = "lightglue-"
# XFeat's authors run theirs through all of its layers, however certain it is.
STOPPING = {"lightglue-xfeat": {"depth_confidence": -1.0, "width_confidence": 0.95}}


class LightGlueMatcher:
    """Attention between the features of two images; slower than nearest neighbours by two orders of magnitude on a CPU, and more robust."""

    def __init__(self, feature: str, device: str = "cpu", min_score: float = 0.1) -> None:
        self.weights = PREFIX + feature
        if self.weights not in WEIGHTS:
            known = [name.removeprefix(PREFIX) for name in WEIGHTS if name.startswith(PREFIX)]
            raise InputError(f"There are no LightGlue weights for {feature} features.", f"Use {' or '.join(known)}, or --matcher nn.")
        self.device, self.min_score = device, min_score
        self._network = _load(self.weights).to(device)

    def __call__(self, features0: LocalFeatures, features1: LocalFeatures) -> NDArray[np.int32]:
        """Matching rows (K, 2)."""
        if not len(features0) or not len(features1):
            return np.zeros((0, 2), np.int32)
        with torch.inference_mode():
            found = self._network({"image0": self._input(features0), "image1": self._input(features1)})
        matches, scores = found["matches"][0], found["scores"][0]
        return np.asarray(matches[scores >= self.min_score].cpu(), dtype=np.int32).reshape(-1, 2)

    def _input(self, features: LocalFeatures) -> dict[str, Tensor]:
        size = torch.tensor([features.image_size], dtype=torch.float32)
        keypoints = torch.from_numpy(np.clip(features.keypoints, 0, np.array(features.image_size) - 1).astype(np.float32))
        descriptors = torch.from_numpy(np.asarray(features.descriptors, dtype=np.float32))
        batch = {"keypoints": keypoints[None], "descriptors": descriptors[None], "image_size": size}
        return {name: value.to(self.device) for name, value in batch.items()}


def _load(weights: str) -> torch.nn.Module:
    try:
        from kornia.feature import LightGlue
    except ImportError:
        raise MissingPackageError("--matcher lightglue needs the package kornia.", "Install it: pip install kornia.") from None
    path = resolve_weights(weights)
    state = {_new_name(name): value for name, value in load_state_dict(path).items()}
    try:
        network = LightGlue(features=None, **_shape(state), **STOPPING.get(weights, {}))
    except KeyError as error:
        raise WeightsError(f"{path} is no LightGlue checkpoint: it lacks {error.args[0]}.") from None
    missing = set(network.load_state_dict(state, strict=False).missing_keys) - {"confidence_thresholds"}
    if missing:
        raise WeightsError(f"{path} is no LightGlue checkpoint: it lacks {', '.join(sorted(missing)[:3])}.")
    return network.eval()


def _shape(state: dict[str, Tensor]) -> dict[str, int]:
    """Width, heads and layers, which differ between checkpoints. Raises KeyError naming the tensor that would tell them."""
    width, head = state["log_assignment.0.final_proj.weight"].shape[1], 2 * state["posenc.Wr.weight"].shape[0]
    layers = sum(name.startswith("log_assignment.") and name.endswith(".final_proj.weight") for name in state)
    inputs = state["input_proj.weight"].shape[1] if "input_proj.weight" in state else width
    return {"input_dim": inputs, "descriptor_dim": width, "num_heads": width // head, "n_layers": layers}


def _new_name(name: str) -> str:
    """XFeat's release holds the extractor beside its `matcher`.

    The first release of all numbered layers behind their kind: self_attn.3.x is transformers.3.self_attn.x today.
    """
    return re.sub(r"^(self_attn|cross_attn)\.(\d+)\.", r"transformers.\2.\1.", name.removeprefix("matcher."))
