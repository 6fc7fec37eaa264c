"""Soft detection against the formulas written out cell by cell."""

from __future__ import annotations

import math

import numpy as np
import torch

from d2s.d2net.soft_detection import soft_detection


def by_hand(features: np.ndarray) -> np.ndarray:
    """alpha, beta and gamma of one image (C, h, w), with loops."""
    channels, height, width = features.shape
    r = np.maximum(features, 0)
    gamma = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            candidates = []
            for k in range(channels):
                total = 0.0
                for u in range(i - 1, i + 2):
                    for v in range(j - 1, j + 2):
                        inside = 0 <= u < height and 0 <= v < width
                        total += math.exp(r[k, u, v] / r.max()) if inside else 1.0
                candidates.append(math.exp(r[k, i, j] / r.max()) / total * r[k, i, j] / r[:, i, j].max())
            gamma[i, j] = max(candidates)
    return gamma / gamma.sum()


def test_scores_are_those_of_the_formulas() -> None:
    features = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 40.0])[:, None, None, None]
    features[:, 0, :, :] = features[:, 0, :, :].abs() + 0.1  # no cell without a positive channel, where the formulas divide by zero
    scores = soft_detection(features)
    for image, found in zip(features, scores, strict=True):
        np.testing.assert_allclose(found.numpy(), by_hand(image.double().numpy()), rtol=2e-5)
        assert abs(float(found.sum()) - 1) < 1e-5


def test_a_single_strong_cell_scores_highest() -> None:
    features = torch.full((1, 3, 8, 8), 0.5)
    features[0, 1, 3, 5] = 4
    scores = soft_detection(features)[0]
    assert int(scores.argmax()) == 3 * 8 + 5


def test_cells_without_activation_have_score_zero_and_finite_gradients() -> None:
    features = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    features[0] = -features[0].abs()
    features[1, :, 2, 2] = -1
    features.requires_grad_(True)
    scores = soft_detection(features)
    assert (scores[0] == 0).all() and scores[1, 2, 2] == 0
    (scores**2).sum().backward()
    assert features.grad is not None and torch.isfinite(features.grad).all() and features.grad[1].abs().sum() > 0
