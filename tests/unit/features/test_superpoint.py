"""SuperPoint against independent implementations, with equal random weights in both checkpoint formats."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from d2s.errors import InputError, WeightsError
from d2s.features.superpoint import SuperPoint, pixel_scores, rename_magic_leap, sample_descriptors, suppress_neighbours
from d2s.features.table import make_extractor


def magic_leap_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under the names of Magic Leap's checkpoint, scaled so that activations keep their size through the layers."""
    generator = torch.Generator().manual_seed(seed)
    widths = [(1, 64), (64, 64), (64, 64), (64, 64), (64, 128), (128, 128), (128, 128), (128, 128)]
    shapes = {name: (o, i, 3, 3) for name, (i, o) in zip([f"conv{s}{k}" for s in "1234" for k in "ab"], widths, strict=True)}
    shapes |= {"convPa": (256, 128, 3, 3), "convPb": (65, 256, 1, 1), "convDa": (256, 128, 3, 3), "convDb": (256, 256, 1, 1)}
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state


def open_state(seed: int = 1) -> dict[str, torch.Tensor]:
    """The same under the names of the batch-norm checkpoint, with normalisations that do something (negative scales among them)."""
    generator = torch.Generator().manual_seed(seed)
    state = rename_magic_leap(magic_leap_state(seed))
    for key in [key for key in state if key.endswith("conv.bias")]:
        channels, name = len(state[key]), key.replace("conv.bias", "bn")
        state[f"{name}.weight"] = torch.randn(channels, generator=generator)
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.rand(channels, generator=generator)
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def photo(height: int = 96, width: int = 136, seed: int = 0) -> np.ndarray:
    """Smooth random blobs and edges, uint8 gray."""
    noise = torch.rand(1, 1, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return (functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0, 0].numpy() * 255).astype(np.uint8)


@pytest.fixture
def hugging_face():
    transformers = pytest.importorskip("transformers", reason="the package transformers, an independent SuperPoint, is not installed")
    # Border 0: transformers multiplies the size of the score map by 8 once too often and so keeps the right and lower border.
    config = transformers.SuperPointConfig(keypoint_threshold=0.0, nms_radius=3, border_removal_distance=0, max_keypoints=300)
    model = transformers.SuperPointForKeypointDetection(config).eval()
    names = {
        **{f"conv{s + 1}{k}": f"encoder.conv_blocks.{s}.conv_{k}" for s in range(4) for k in "ab"},
        "convPa": "keypoint_decoder.conv_score_a",
        "convPb": "keypoint_decoder.conv_score_b",
        "convDa": "descriptor_decoder.conv_descriptor_a",
        "convDb": "descriptor_decoder.conv_descriptor_b",
    }
    state = {f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in magic_leap_state().items()}
    model.load_state_dict(state)
    return model


def ours(state: dict[str, torch.Tensor]) -> SuperPoint:
    open_variant = "backbone.0.0.bn.weight" in state
    network = SuperPoint(batch_norm=open_variant).eval()
    network.load_state_dict(state if open_variant else rename_magic_leap(state))
    return network


@torch.inference_mode()
def test_magic_leap_variant_equals_transformers(hugging_face, tmp_path: Path) -> None:
    image = photo()
    pixels = torch.from_numpy(image)[None, None].float() / 255
    encoded = hugging_face.encoder(pixels)[0]
    dense = hugging_face.descriptor_decoder.conv_descriptor_b(torch.relu(hugging_face.descriptor_decoder.conv_descriptor_a(encoded)))
    their_scores = hugging_face.keypoint_decoder._get_pixel_scores(encoded)
    scores, descriptors = ours(magic_leap_state())(pixels)
    torch.testing.assert_close(descriptors, functional.normalize(dense, dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(suppress_neighbours(scores, 3), their_scores, atol=1e-6, rtol=1e-4)
    assert scores.std() > 1e-3  # the comparison is not one of constants

    path = tmp_path / "superpoint.pth"
    torch.save(magic_leap_state(), path)
    found = make_extractor("superpoint", 300, weights=path, sampling="hloc", border=0).extract([image])[0]
    theirs = hugging_face(pixels.repeat(1, 3, 1, 1))
    size = torch.tensor([image.shape[1], image.shape[0]])
    assert len(found) == 300 == int(theirs.mask[0].sum())
    np.testing.assert_allclose(found.scores, theirs.scores[0].numpy(), rtol=1e-4)
    np.testing.assert_array_equal(found.keypoints, (theirs.keypoints[0] * size).round().numpy())
    np.testing.assert_allclose(found.descriptors, theirs.descriptors[0].numpy(), atol=1e-4)


@torch.inference_mode()
def test_with_hlocs_sampling_shrunk_images_are_not_rounded_to_gray_levels(tmp_path: Path) -> None:
    """hloc shrinks float images; the last of the best keypoints depend on it."""
    path = tmp_path / "superpoint.pth"
    torch.save(magic_leap_state(), path)
    image = photo(192, 272)
    pixels = cv2.resize(image.astype(np.float32), (136, 96), interpolation=cv2.INTER_AREA)
    scores, _ = ours(magic_leap_state())(torch.from_numpy(pixels)[None, None] / 255)
    found = {
        sampling: make_extractor("superpoint", 300, weights=path, sampling=sampling, max_side=136).extract([image])[0]
        for sampling in ("hloc", "exact")
    }
    places = np.round((found["hloc"].keypoints - 0.5) / 2).astype(int)
    np.testing.assert_allclose(found["hloc"].scores, scores[0].numpy()[places[:, 1], places[:, 0]], rtol=1e-4)
    assert np.abs(found["exact"].scores - found["hloc"].scores).max() > 1e-4 * found["hloc"].scores.max()


def reference_open(state: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch-norm variant written down as plain formulas: convolution, ReLU, normalisation; the last layers have no ReLU."""

    def layer(x: torch.Tensor, name: str, relu: bool = True) -> torch.Tensor:
        weight, bias = state[f"{name}.conv.weight"].double(), state[f"{name}.conv.bias"].double()
        x = functional.unfold(x, weight.shape[-1], padding=weight.shape[-1] // 2)
        x = (weight.flatten(1) @ x + bias[:, None]).clamp(min=0 if relu else -torch.inf)
        gain, shift, mean, var = (state[f"{name}.bn.{k}"].double()[:, None] for k in ("weight", "bias", "running_mean", "running_var"))
        return (x - mean) / (var + 1e-3).sqrt() * gain + shift

    height, width = image.shape
    x = image.double()[None, None]
    for stage in range(4):
        for k in range(2):
            x = layer(x, f"backbone.{stage}.{k}").reshape(1, -1, height, width)
        if stage < 3:
            height, width = height // 2, width // 2
            x = x[:, :, : height * 2, : width * 2].reshape(1, -1, height, 2, width, 2).amax(dim=(3, 5))
    logits = layer(layer(x, "detector.0").reshape(1, 256, height, width), "detector.1", relu=False)[0]
    descriptors = layer(layer(x, "descriptor.0").reshape(1, 256, height, width), "descriptor.1", relu=False)[0]
    probabilities = (logits.exp() / logits.exp().sum(dim=0))[:64].T.reshape(height, width, 8, 8)
    unit = descriptors / descriptors.norm(dim=0)
    return probabilities.permute(0, 2, 1, 3).reshape(height * 8, width * 8), unit.reshape(256, height, width)


@torch.inference_mode()
def test_open_variant_equals_its_formulas() -> None:
    state, image = open_state(), torch.from_numpy(photo(53, 71)).float() / 255
    scores, descriptors = ours(state)(image[None, None])
    expected_scores, expected_descriptors = reference_open(state, image)
    assert scores.shape == (1, 48, 64)
    torch.testing.assert_close(scores[0].double(), expected_scores, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(descriptors[0].double(), expected_descriptors, atol=1e-5, rtol=1e-3)
    assert scores.std() > 1e-3


def test_suppression_keeps_what_only_lost_to_a_suppressed_pixel() -> None:
    scores = torch.zeros(1, 1, 16)
    scores[0, 0, [2, 4, 6, 9]] = torch.tensor([0.9, 0.8, 0.7, 0.1])  # 0.8 loses to 0.9; 0.7 only to 0.8
    kept = suppress_neighbours(scores, 3)[0, 0]
    assert kept.nonzero()[:, 0].tolist() == [2, 6]
    assert suppress_neighbours(scores, 1)[0, 0].nonzero()[:, 0].tolist() == [2, 4, 6, 9]


def test_exact_sampling_finds_cell_centres_and_ignores_the_image_size() -> None:
    cells = torch.randn(16, 5, 7, generator=torch.Generator().manual_seed(0))
    centres = torch.tensor([[8 * x + 3.5, 8 * y + 3.5] for y in range(5) for x in range(7)])
    unit = functional.normalize(cells, dim=0)
    torch.testing.assert_close(sample_descriptors(unit, centres), unit.flatten(1).T)
    keypoints = torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) * 20 + 4
    torch.testing.assert_close(sample_descriptors(unit, keypoints), sample_descriptors(unit[:, :4, :4], keypoints))
    halfway = sample_descriptors(unit, torch.tensor([[7.5, 3.5]]))[0]
    torch.testing.assert_close(halfway, functional.normalize(unit[:, 0, 0] + unit[:, 0, 1], dim=0))


def test_scores_lie_at_the_pixel_that_the_cell_names() -> None:
    logits = torch.zeros(1, 65, 3, 4)
    logits[0, 5 * 8 + 2, 1, 3] = 20.0  # row 5, column 2 of the cell in row 1, column 3
    logits[0, 64, 0, 0] = 20.0  # no keypoint in the first cell
    scores = pixel_scores(logits)[0]
    assert divmod(int(scores.argmax()), scores.shape[1]) == (8 + 5, 24 + 2)
    assert scores[:8, :8].max() < 1e-6


def test_no_keypoint_in_the_border(tmp_path: Path) -> None:
    path = tmp_path / "superpoint.pth"
    torch.save(magic_leap_state(), path)
    found = make_extractor("superpoint", 5000, weights=path, border=9, nms_radius=1).extract([photo(96, 136)])[0]
    assert len(found) > 100
    assert found.keypoints.min() == 9 and found.keypoints.max(axis=0).tolist() == [136 - 10, 96 - 10]


@pytest.mark.parametrize(("name", "other"), [("superpoint", open_state), ("superpoint-open", magic_leap_state)])
def test_the_other_checkpoint_format_is_refused(name: str, other, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(other(), path)
    with pytest.raises(WeightsError, match=f"do not fit feature {name}"):
        make_extractor(name, weights=path)


def test_wrong_sampling_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(magic_leap_state(), path)
    with pytest.raises(InputError, match="Unknown sampling 'corner'. Choose one of: exact, hloc"):
        make_extractor("superpoint", weights=path, sampling="corner")
