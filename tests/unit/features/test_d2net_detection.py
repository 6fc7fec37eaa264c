from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.features.d2net.detection import describe, detect, refinable


def peak_map(points: list[tuple[int, float, float]], channels: int = 4, height: int = 12, width: int = 14) -> torch.Tensor:
    """Paraboloids of height 1 around places (channel, row, column), zero elsewhere."""
    features = torch.zeros(channels, height, width)
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for channel, row, column in points:
        bump = 1 - 0.1 * ((i - row) ** 2 + (j - column) ** 2)
        features[channel] = torch.maximum(features[channel], bump)
    return features


def naive(features: np.ndarray) -> list[tuple[int, int, int]]:
    """The rules, cell by cell: (channel, row, column) of every detection."""
    channels, height, width = features.shape
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1)))
    found = []
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                value, patch = features[c, i, j], padded[c, i : i + 3, j : j + 3].astype(np.float64)
                window = features[c, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
                if value < features[:, i, j].max() or value < window.max():
                    continue
                ii, jj = patch[2, 1] - 2 * patch[1, 1] + patch[0, 1], patch[1, 2] - 2 * patch[1, 1] + patch[1, 0]
                ij = (patch[2, 2] - patch[2, 0] - patch[0, 2] + patch[0, 0]) / 4
                if ii * jj - ij**2 > 0 and (ii + jj) ** 2 / (ii * jj - ij**2) <= 36 / 5:
                    found.append((c, i, j))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_detections_are_those_of_the_rules_in_their_order(seed: int) -> None:
    features = torch.from_numpy(np.random.default_rng(seed).normal(size=(5, 13, 17)).astype(np.float32))
    peaks = detect(features)
    assert len(peaks) > 10
    found = [(c, *cell) for c, cell in zip(peaks.channels.tolist(), peaks.cells.tolist(), strict=True)]
    assert found == naive(features.numpy())
    assert torch.equal(peaks.scores, features[peaks.channels, peaks.cells[:, 0], peaks.cells[:, 1]])


def test_places_between_cells_are_found() -> None:
    points = [(1, 4.3, 5.8), (2, 8.0, 2.0), (3, 7.6, 10.45)]
    peaks = detect(peak_map(points))
    assert peaks.channels.tolist() == [1, 2, 3]
    torch.testing.assert_close(peaks.cells + peaks.step, torch.tensor([[4.3, 5.8], [8.0, 2.0], [7.6, 10.45]]), atol=1e-4, rtol=0)
    assert refinable(peaks, (12, 14)).all()


def test_an_edge_is_no_detection() -> None:
    i, j = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    for ratio, count in ((4.9, 1), (5.2, 0)):
        features = (2 - 0.02 * ((i - 4) ** 2 + ratio * (j - 4) ** 2))[None]
        assert len(detect(features, border=1)) == count


def test_where_nothing_is_there_is_no_detection() -> None:
    for value in (0.0, 3.0, float("nan")):
        assert len(detect(torch.full((4, 6, 7), value), border=1)) == 0
    assert len(detect(torch.zeros(4, 1, 1))) == 0


def test_the_mask_and_the_border_keep_peaks_out() -> None:
    features = peak_map([(1, 6.0, 6.0), (2, 6.0, 11.0)])
    features[0, 0, 4:7] = torch.tensor([0.4, 1.0, 0.4])
    assert len(detect(features)) == 3 and detect(features, border=1).channels.tolist() == [1, 2]
    allowed = torch.ones(12, 14, dtype=torch.bool)
    allowed[6, 6] = False
    assert detect(features, allowed).channels.tolist() == [0, 2] and allowed.sum() == 12 * 14 - 1


def test_of_equal_channels_one_is_detected() -> None:
    features = peak_map([(0, 6.0, 6.0), (2, 6.0, 6.0)])
    assert len(detect(features)) == 1


def test_a_maximum_beyond_the_map_or_half_a_cell_is_dropped() -> None:
    peaks = detect(torch.from_numpy(np.random.default_rng(3).normal(size=(8, 40, 40)).astype(np.float32)))
    place = peaks.cells + peaks.step
    expected = (peaks.step.abs() < 0.5).all(dim=1) & (place >= 0).all(dim=1) & (place <= 39).all(dim=1)
    assert torch.equal(refinable(peaks, (40, 40)), expected) and 0 < expected.sum() < len(expected)


def test_descriptors_are_interpolated_and_of_unit_length() -> None:
    features = torch.rand(6, 5, 7)
    places = torch.tensor([[1.25, 2.5], [3.0, 4.0], [4.0, 6.0], [0.0, 0.75]])
    found = describe(features, places)
    mixed = 0.75 * (features[:, 1, 2] + features[:, 1, 3]) / 2 + 0.25 * (features[:, 2, 2] + features[:, 2, 3]) / 2
    expected = torch.stack([mixed, features[:, 3, 4], features[:, 4, 6], 0.25 * features[:, 0, 0] + 0.75 * features[:, 0, 1]])
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))
    assert describe(features, torch.zeros(0, 2)).shape == (0, 6)
