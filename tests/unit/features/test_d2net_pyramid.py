"""The pyramid against an implementation of its own kind: whole maps of all channels, straight from the formulas, on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from d2s.features.d2net import pyramid
from d2s.features.d2net.alignment import Corrected
from d2s.features.d2net.network import D2Net
from d2s.features.images import read_image

MULTISCALE = (0.5, 1.0, 2.0)


def random_network() -> D2Net:
    network = D2Net()
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> D2Net:
    return random_network()


def shifted(maps: Tensor, di: int, dj: int, fill: float) -> Tensor:
    """maps[:, i + di, j + dj], `fill` outside."""
    padded = functional.pad(maps, (1, 1, 1, 1), value=fill)
    height, width = maps.shape[1:]
    return padded[:, 1 + di : 1 + di + height, 1 + dj : 1 + dj + width]


def straightforward_level(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Detections and displacements along rows and columns, (C, h, w) each: section 3 for every channel of every cell."""
    is_channel = features == features.amax(dim=0)
    steps = [(di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    is_local = torch.stack([features >= shifted(features, di, dj, -torch.inf) for di, dj in steps]).all(dim=0)
    value = {step: shifted(features, *step, 0.0) for step in steps}
    ii = value[1, 0] + value[-1, 0] - 2 * features
    jj = value[0, 1] + value[0, -1] - 2 * features
    ij = (value[1, 1] + value[-1, -1] - value[1, -1] - value[-1, 1]) / 4
    determinant, trace = ii * jj - ij**2, ii + jj
    is_blob = (determinant > 0) & (trace**2 / determinant <= (5 + 1) ** 2 / 5)
    gradient = torch.stack([value[1, 0] - value[-1, 0], value[0, 1] - value[0, -1]]) / 2
    inverse = torch.stack([torch.stack([jj, -ij]), torch.stack([-ij, ii])]) / determinant
    step = -(inverse * gradient).sum(dim=1)
    return is_channel & is_local & is_blob, step[0], step[1]


def straightforward(network: D2Net, image: Tensor, scales: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints (N, 3) x, y, scale, scores, descriptors as published: every level as a whole, one keypoint after the other."""
    rows: list[tuple[list[float], float, Tensor]] = []
    total = banned = None
    height, width = image.shape[2:]
    for number, scale in enumerate(scales, start=1):
        level = functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=True)
        features = network(level)
        if total is not None:
            features = features + functional.interpolate(total, features.shape[2:], mode="bilinear", align_corners=True)
        detected, step_i, step_j = straightforward_level(features[0])
        if banned is not None:
            banned = functional.interpolate(banned[None, None].float(), features.shape[2:])[0, 0] > 0
            detected = detected & ~banned
        banned = detected.any(dim=0) if banned is None else banned | detected.any(dim=0)
        before = len(rows)
        for c, i, j in torch.nonzero(detected).tolist():
            di, dj = step_i[c, i, j].item(), step_j[c, i, j].item()
            p, q = i + di, j + dj
            if abs(di) >= 0.5 or abs(dj) >= 0.5 or not (0 <= p <= features.shape[2] - 1 and 0 <= q <= features.shape[3] - 1):
                continue
            top, left = int(np.floor(p)), int(np.floor(q))
            bottom, right = int(np.ceil(p)), int(np.ceil(q))
            a, b = p - top, q - left
            corners = features[0, :, top, left] * (1 - a) * (1 - b) + features[0, :, top, right] * (1 - a) * b
            corners = corners + features[0, :, bottom, left] * a * (1 - b) + features[0, :, bottom, right] * a * b
            x, y = (2 * (2 * value + 0.5) + 0.5 for value in (q, p))
            place = [x * width / level.shape[3], y * height / level.shape[2], 1 / scale]
            rows.append((place, features[0, c, i, j].item() / number, corners / corners.norm()))
        if len(rows) > before:
            total = features
    descriptors = torch.stack([row[2] for row in rows]).numpy()
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), descriptors


def photo(shared_data: Path, name: str, width: int, height: int) -> Tensor:
    """A piece of a real photo, preprocessed for Caffe's weights."""
    image = read_image(shared_data / name)[100 : 100 + height, 150 : 150 + width]
    bgr = image[:, :, ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    return torch.from_numpy(bgr.transpose(2, 0, 1).copy())[None]


PHOTOS = ("7scenes/redkitchen", "fox/images", "gerrard_hall/images")


@pytest.mark.parametrize("folder", PHOTOS)
@pytest.mark.parametrize("scales", [(1.0,), MULTISCALE], ids=["one scale", "three scales"])
def test_legacy_equals_the_straightforward_implementation(
    network: D2Net, shared_data: Path, folder: str, scales: tuple[float, ...]
) -> None:
    name = next(path for path in sorted((shared_data / folder).rglob("*.jpg"))).relative_to(shared_data)
    image = photo(shared_data, str(name), 149, 117)
    with torch.inference_mode():
        (found,) = pyramid.extract(network, image, scales, "legacy")
        keypoints, scores, descriptors = straightforward(network, image, scales)
    assert len(keypoints) > 30 * len(scales) ** 0.5
    assert found.keypoints.shape == keypoints.shape
    np.testing.assert_allclose(found.keypoints.numpy(), keypoints, atol=2e-3)
    np.testing.assert_allclose(found.scores.numpy(), scores, rtol=1e-5)
    np.testing.assert_allclose(found.descriptors.numpy(), descriptors, atol=1e-4)
    assert set(keypoints[:, 2]) == {1 / scale for scale in scales}


def test_on_one_scale_the_modes_differ_by_the_two_pixels_and_the_border(network: D2Net) -> None:
    image = torch.randn(1, 3, 96, 120, generator=torch.Generator().manual_seed(3)) * 60
    with torch.inference_mode():
        (legacy,), (corrected,) = (pyramid.extract(network, image, (1.0,), mode) for mode in ("legacy", "corrected"))
    inner = ((legacy.keypoints[:, :2] > 4) & (legacy.keypoints[:, :2] < torch.tensor([119 - 8, 95 - 8]))).all(dim=1)
    moved = legacy.keypoints[inner] + torch.tensor([2.0, 2.0, 0.0])
    distance = (moved[:, None] - corrected.keypoints).norm(dim=2).amin(dim=1)
    assert len(moved) > 20 and distance.max() < 1e-4


def blob_network() -> torch.nn.Sequential:
    """The layers of the extraction graph with one channel each and two at the end, which answer to bright and to dark blobs.

    Every layer smooths the brightness, which a constant keeps positive so that no ReLU acts; the last one subtracts what is around.
    """
    layers = list(D2Net().dense_feature_extraction.model)
    smooth = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    ring = torch.full((3, 3), -1 / 8)
    ring[1, 1] = 1.0
    for place, layer in enumerate(layers):
        if isinstance(layer, torch.nn.Conv2d):
            first, last = place == 0, place == len(layers) - 1
            slim = torch.nn.Conv2d(3 if first else 1, 2 if last else 1, 3, padding=layer.padding, dilation=layer.dilation)  # type: ignore[arg-type]
            slim.weight.data = (
                torch.stack([ring, -ring])[:, None] if last else smooth.expand(1, 3 if first else 1, 3, 3) / (3 if first else 1)
            )
            torch.nn.init.constant_(slim.bias, 200.0 if first else 0.0)  # type: ignore[arg-type]
            layers[place] = slim
    return torch.nn.Sequential(*layers, torch.nn.ReLU())


def blobs(centres: np.ndarray, width: int, height: int, sigma: float) -> Tensor:
    """An image (1, 3, H, W) of bright spots at centres (N, 2), whose top-left pixel centre is (0, 0)."""
    y, x = np.mgrid[:height, :width]
    spots = [np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centres]
    return torch.from_numpy(np.sum(spots, axis=0)[None].repeat(3, axis=0) * 100)[None].float()


def grid_of_centres(width: int, height: int, spacing: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(40.0, width - 40, spacing), np.arange(40.0, height - 40, spacing))
    return np.stack([x, y], axis=-1).reshape(-1, 2) + rng.uniform(-4, 4, (x.size, 2))


def errors(
    network: torch.nn.Module, centres: np.ndarray, size: tuple[int, int], sigma: float, scales: tuple[float, ...], mode: str
) -> np.ndarray:
    """Keypoint minus centre (K, 2), for centres with a keypoint within 8 px."""
    with torch.inference_mode():
        (found,) = pyramid.extract(network, blobs(centres, *size, sigma), scales, mode)
    difference = found.keypoints[:, None, :2].numpy() - centres
    distance = np.linalg.norm(difference, axis=2)
    nearest = distance.argmin(axis=0)
    kept = distance.min(axis=0) < 8
    assert kept.mean() > 0.6, kept.mean()
    return difference[nearest, np.arange(len(centres))][kept]


@pytest.mark.parametrize(("scale", "sigma"), [(0.5, 10.0), (1.0, 5.0), (2.0, 3.0), (0.73, 7.0)])
def test_corrected_keypoints_lie_on_what_they_see(scale: float, sigma: float) -> None:
    """On every level, over the whole image: no bias, and no drift towards the far border."""
    size = (int(431 / min(scale, 1)), int(355 / min(scale, 1)))
    centres = grid_of_centres(*size, 44 / min(scale, 1), 0)
    found = errors(blob_network(), centres, size, sigma, (scale,), "corrected")
    assert np.abs(found.mean(axis=0)).max() < 0.12 / scale, found.mean(axis=0)
    legacy = errors(blob_network(), centres, size, sigma, (scale,), "legacy")
    assert (legacy.mean(axis=0) < -1.2 / scale).all(), legacy.mean(axis=0)


def moved(kind: str, width: int, height: int) -> np.ndarray:
    """The 2 x 3 matrix of a known motion of the picture."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    if kind == "shift":
        return np.array([[1, 0, 5.3], [0, 1, -3.7]])
    scale, angle = {"scale": (1.31, 0.0), "rotation": (1.0, 34.0), "half turn": (1.0, 180.0)}[kind]
    a = scale * np.array([[np.cos(np.radians(angle)), -np.sin(np.radians(angle))], [np.sin(np.radians(angle)), np.cos(np.radians(angle))]])
    return np.column_stack([a, middle - a @ middle])


ONE = (1.0,)


@pytest.mark.parametrize(
    ("kind", "scales"), [("shift", ONE), ("scale", ONE), ("rotation", ONE), ("half turn", ONE), ("half turn", MULTISCALE)]
)
def test_corrected_keypoints_move_with_the_picture(kind: str, scales: tuple[float, ...]) -> None:
    """Keypoints of a picture, moved by what moved the picture, are those of the moved picture on average: no bias."""
    size, network = (480, 400), blob_network()
    motion = moved(kind, *size)
    centres = grid_of_centres(*size, 44, 1)
    there = centres @ motion[:, :2].T + motion[:, 2]
    inside = ((there > 30) & (there < np.array(size) - 31)).all(axis=1)
    centres, there = centres[inside], there[inside]
    sigma = 5.0
    bias = {}
    for mode in ("corrected", "legacy"):
        before = errors(network, centres, size, sigma, scales, mode).mean(axis=0)
        after = errors(network, there, size, sigma * np.sqrt(np.linalg.det(motion[:, :2])), scales, mode).mean(axis=0)
        bias[mode] = after - motion[:, :2] @ before
    assert np.abs(bias["corrected"]).max() < 0.1, bias
    if kind != "shift":
        assert np.abs(bias["legacy"]).max() > 0.5, bias


def test_maps_are_added_where_they_belong() -> None:
    """A linear ramp over the image, sampled at the cells of two levels, adds up to twice the finer one."""
    level, coarser_level = (122, 90), (61, 45)
    sizes = [(size[0] // 4 - 1, size[1] // 4 - 1) for size in (level, coarser_level)]

    def ramp(size: tuple[int, int], image: tuple[int, int]) -> Tensor:
        rows = (4 * torch.arange(size[0]) + 4.0) * level[0] / image[0]
        columns = (4 * torch.arange(size[1]) + 4.0) * level[1] / image[1]
        return (rows[:, None] + 10 * columns).expand(70, -1, -1).clone()

    fine, coarse = ramp(sizes[0], level), ramp(sizes[1], coarser_level)
    expected = 2 * fine
    Corrected().add_coarser(fine, coarse, (coarser_level[0] / level[0], coarser_level[1] / level[1]))
    torch.testing.assert_close(fine[:, 3:-5, 3:-5], expected[:, 3:-5, 3:-5])


def test_adding_a_coarser_map_does_not_draw_maxima_to_its_cells() -> None:
    """A bump that lies anywhere is found there in the coarser map alone; interpolated linearly it would be found at its cells."""
    cells = torch.arange(24.0)
    for place in torch.arange(10, 12, 0.25):
        bump = torch.exp(-((cells - place) ** 2) / 8)
        fine, coarse = torch.zeros(1, 49, 49), (bump[:, None] * bump)[None]
        Corrected().add_coarser(fine, coarse, (0.5, 0.5))
        row = int(fine[0].amax(dim=1).argmax())
        below, peak, above = fine[0].amax(dim=1)[row - 1 : row + 2].tolist()
        found = row + (above - below) / (4 * peak - 2 * above - 2 * below)
        assert found == pytest.approx(2 * float(place) + 1, abs=0.05)  # the edges of both maps lie on each other


@pytest.mark.parametrize("mode", ["corrected", "legacy"])
@pytest.mark.parametrize("full", [(), (3,), (1, 3), (1, 2), (2,)])
def test_levels_without_keypoints_are_no_error(mode: str, full: tuple[int, ...]) -> None:
    """The published code ends with an error where a level after the first is empty."""
    calls = []

    def network(images: Tensor) -> Tensor:
        calls.append(images.shape)
        size = (1, 512, images.shape[2] // 4 - 1, images.shape[3] // 4 - 1)
        return torch.rand(size, generator=torch.Generator().manual_seed(0)) if len(calls) in full else torch.zeros(size)

    (found,) = pyramid.extract(network, torch.zeros(1, 3, 64, 80), MULTISCALE, mode)
    levels = {round(float(size)) if size >= 1 else float(size) for size in found.keypoints[:, 2]}
    assert len(calls) == 3 and found.descriptors.shape == (len(found.keypoints), 512)
    assert levels >= {1 / MULTISCALE[level - 1] for level in full} and (full or not levels)


def test_images_without_a_cell_have_no_keypoints() -> None:
    for size, scales in (((7, 9), (1.0,)), ((9, 9), (0.5,))):
        (found,) = pyramid.extract(blob_network(), torch.zeros(1, 3, *size), scales)
        assert found.keypoints.shape == (0, 3) and found.descriptors.shape == (0, 512)


def test_images_of_a_batch_do_not_see_each_other(network: D2Net) -> None:
    images = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(5)) * 60
    with torch.inference_mode():
        together = pyramid.extract(network, images, MULTISCALE)
        alone = [pyramid.extract(network, image[None], MULTISCALE)[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert len(a.keypoints) > 3
        torch.testing.assert_close(a.keypoints, b.keypoints, atol=1e-3, rtol=0)
