"""Mutual nearest neighbours and errors under a homography, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.d2net import matching_accuracy
from d2s.d2net.matching_accuracy import mutual_matches, share_within, transfer_errors


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("blocks", [1, 7, 2**26])
def test_mutual_matches_equal_a_search_one_by_one(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching_accuracy, "MAX_PRODUCTS", 31 * blocks)
    rng = np.random.default_rng(0)
    a, b = unit(rng, 43), unit(rng, 31)
    distance = [[float(((p - q) ** 2).sum()) for q in b.astype(float)] for p in a.astype(float)]
    forth = [min(range(31), key=lambda j: distance[i][j]) for i in range(43)]
    back = [min(range(43), key=lambda i: distance[i][j]) for j in range(31)]
    expected = [(i, j) for i, j in enumerate(forth) if back[j] == i]
    assert 5 < len(expected) < 31
    np.testing.assert_array_equal(mutual_matches(a, b), expected)


def test_no_descriptors_no_matches() -> None:
    assert mutual_matches(np.zeros((0, 4)), np.eye(4)).shape == (0, 2) == mutual_matches(np.eye(4), np.zeros((0, 4))).shape
    assert share_within(np.zeros(0)).tolist() == [0] * 15


def test_errors_are_distances_in_the_second_image() -> None:
    double = np.diag([2.0, 2.0, 1.0])
    points = np.array([[0, 0], [10, 5]], np.float32)
    np.testing.assert_allclose(transfer_errors(points, np.array([[3, 4], [20, 10]], np.float32), double), [5, 0])
    np.testing.assert_allclose(transfer_errors(points, np.array([[3, 4], [20, 10]], np.float32), -3 * double), [5, 0])


def test_a_point_on_the_horizon_is_never_right() -> None:
    tilted = np.array([[1, 0, 0], [0, 1, 0], [0.1, 0, -1.0]])
    points = np.array([[10.0, 0.0], [20.0, 0.0]])
    errors = transfer_errors(points, np.array([[0.0, 0.0], [20.0, 0.0]]), tilted)
    assert errors[0] == np.inf and errors[1] == pytest.approx(0)
    assert transfer_errors(np.zeros((1, 2)), np.zeros((1, 2)), np.diag([1.0, 1, 0]))[0] == np.inf
