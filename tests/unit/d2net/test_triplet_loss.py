"""The loss against loops over all correspondences and all cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.d2net.soft_detection import soft_detection
from d2s.d2net.triplet_loss import pair_loss


def by_hand(
    f1: np.ndarray, f2: np.ndarray, s1: np.ndarray, s2: np.ndarray, c1: np.ndarray, c2: np.ndarray, margin: float, radius: int
) -> float:
    """sum of s1 s2 max(0, m + p - n) over sum of s1 s2."""
    d1, d2 = (f / np.linalg.norm(f, axis=0) for f in (f1, f2))
    total = weights = 0.0
    for (i1, j1), (i2, j2) in zip(c1, c2, strict=True):
        a, b = d1[:, i1, j1], d2[:, i2, j2]
        n1 = min(
            (
                np.sum((b - d1[:, i, j]) ** 2)
                for i in range(d1.shape[1])
                for j in range(d1.shape[2])
                if max(abs(i - i1), abs(j - j1)) > radius
            ),
            default=np.inf,
        )
        n2 = min(
            (
                np.sum((a - d2[:, i, j]) ** 2)
                for i in range(d2.shape[1])
                for j in range(d2.shape[2])
                if max(abs(i - i2), abs(j - j2)) > radius
            ),
            default=np.inf,
        )
        weight = s1[i1, j1] * s2[i2, j2]
        total += weight * max(0.0, margin + np.sum((a - b) ** 2) - min(n1, n2))
        weights += weight
    return total / weights


def example(seed: int, height: int = 7, width: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, height, width, generator=generator)
    cells = torch.stack(
        [torch.randint(0, height, (2, 20), generator=generator), torch.randint(0, width, (2, 20), generator=generator)], dim=2
    )
    return features, soft_detection(features), cells[0], cells[1]


@pytest.mark.parametrize(("margin", "radius"), [(1.0, 2), (0.5, 0), (1.0, 4), (1.0, 9)])
def test_loss_is_that_of_the_formulas(margin: float, radius: int) -> None:
    features, scores, c1, c2 = example(3)
    loss = pair_loss((features[0], features[1]), (scores[0], scores[1]), (c1, c2), margin, radius)
    arrays = [array.double().numpy() for array in (*features, *scores)]
    expected = by_hand(arrays[0], arrays[1], arrays[2], arrays[3], c1.numpy(), c2.numpy(), margin, radius)
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert (expected == 0) == (radius == 9)  # where no cell is a negative, nothing is wrong


def test_defaults_are_the_published_margin_and_radius() -> None:
    features, scores, c1, c2 = example(4, 12, 12)
    pairs = (features[0], features[1]), (scores[0], scores[1]), (c1, c2)
    assert pair_loss(*pairs) == pair_loss(*pairs, 1.0, 4) != pair_loss(*pairs, 1.0, 3)


def test_a_collapsed_network_has_the_loss_of_the_margin() -> None:
    _, scores, c1, c2 = example(5, 12, 12)
    features = torch.ones(6, 12, 12)
    assert float(pair_loss((features, features), (scores[0], scores[1]), (c1, c2))) == pytest.approx(1)


def test_gradients_are_finite_where_nothing_is_detected() -> None:
    features, _, c1, c2 = example(6, 12, 12)
    features = (-features.abs()).requires_grad_(True)
    scores = soft_detection(features)
    loss = pair_loss((features[0], features[1]), (scores[0], scores[1]), (c1, c2))
    loss.backward()
    assert float(loss.detach()) == 0 and features.grad is not None and torch.isfinite(features.grad).all()
