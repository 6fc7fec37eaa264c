from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.errors import InputError
from d2s.features.d2net.preprocessing import check_limits, limit_size, limited_sizes, normalise, to_pictures


def test_caffe_is_blue_first_minus_the_mean() -> None:
    image = torch.tensor([10.0, 20.0, 30.0]).reshape(1, 3, 1, 1)
    found = normalise(image, "caffe").flatten()
    torch.testing.assert_close(found, torch.tensor([30 - 103.939, 20 - 116.779, 10 - 123.68]))


def test_torch_is_scaled_red_first() -> None:
    image = torch.tensor([255.0, 0.0, 127.5]).reshape(1, 3, 1, 1)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.5 - 0.406) / 0.225])
    torch.testing.assert_close(normalise(image, "torch").flatten(), expected)


@pytest.mark.parametrize("kind", ["caffe", "torch", "none"])
def test_the_inverse_gives_the_picture_back(kind: str) -> None:
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    assert torch.equal(to_pictures(normalise(image, kind), kind), image)


def test_unknown_preprocessing() -> None:
    with pytest.raises(InputError, match="caffe, torch, none"):
        normalise(torch.zeros(1, 3, 1, 1), "keras")


@pytest.mark.parametrize(
    ("size", "limits", "steps"),
    [
        ((1600, 1200), (1600, 2800), []),
        ((3200, 2400), (1600, 2800), [(1600, 1200)]),
        ((1600, 1500), (1600, 2800), [(1445, 1354)]),
        ((2000, 2000), (1600, 2800), [(1600, 1600), (1400, 1400)]),
        ((1999, 1001), (1600, 2800), [(1600, 801)]),
        ((4000, 4000), (None, None), []),
        ((5000, 2), (1600, 2800), [(1600, 1)]),
    ],
)
def test_limits_are_applied_one_after_the_other(size: tuple[int, int], limits: tuple[int | None, int | None], steps: list[object]) -> None:
    assert limited_sizes(*size, *limits) == steps


@pytest.mark.parametrize("legacy", [False, True])
def test_a_limited_image_and_its_scale(legacy: bool) -> None:
    image = np.repeat(np.repeat(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8), 3, axis=0), 3, axis=1)
    small, scale = limit_size(image, 60, 70, legacy)
    assert small.shape == (30, 40, 3) and small.dtype == np.uint8
    np.testing.assert_allclose(scale, 3)
    same, one = limit_size(image, None, None, legacy)
    assert same is image and one.tolist() == [1, 1]


@pytest.mark.parametrize("limits", [(15, 2800), (1600, 31), (1600.0, 2800), ("x", None)])
def test_limits_that_leave_nothing(limits: tuple[object, object]) -> None:
    with pytest.raises(InputError, match="must be a whole number of pixels"):
        check_limits(*limits)  # type: ignore[arg-type]
