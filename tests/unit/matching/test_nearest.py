from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from d2s.errors import InputError
from d2s.matching import nearest
from d2s.matching.nearest import mutual_nearest_neighbors


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(a, b, ratio, min_similarity):
    distance = np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=2)
    second = np.minimum(np.partition(distance, 1, axis=1)[:, 1, None], np.partition(distance, 1, axis=0)[1])
    kept = []
    for i in range(len(a)):
        j = int(distance[i].argmin())
        is_mutual = int(distance[:, j].argmin()) == i
        is_distinct = ratio is None or distance[i, j] < ratio * second[i, j]
        is_similar = min_similarity is None or 1 - distance[i, j] ** 2 / 2 >= min_similarity
        if is_mutual and is_distinct and is_similar:
            kept.append((i, j))
    return np.array(kept, dtype=np.int32).reshape(-1, 2)


def noisy_copies(rng, count, extra, noise, dimension=32):
    a = unit(rng.normal(size=(count, dimension)))
    b = unit(a + noise * rng.normal(size=a.shape) / np.sqrt(dimension))
    order = rng.permutation(count)
    return a, unit(np.concatenate([b[order], rng.normal(size=(extra, dimension))])), order


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    monkeypatch.setattr(nearest, "_has_fast_bfloat16", lambda: request.param == "bfloat16")
    return request.param


@pytest.mark.parametrize(("ratio", "min_similarity"), [(None, None), (0.9, None), (0.8, None), (None, 0.6), (0.9, 0.6)])
def test_float32_equals_brute_force(monkeypatch, ratio, min_similarity):
    monkeypatch.setattr(nearest, "_has_fast_bfloat16", lambda: False)
    a, b, _ = noisy_copies(np.random.default_rng(1), 150, 70, 1.3)
    expected = brute_force(a, b, ratio, min_similarity)
    assert 5 < len(expected) < 150
    assert_array_equal(mutual_nearest_neighbors(a, b, ratio, min_similarity), expected)


def test_bfloat16_keeps_nearly_all_matches(monkeypatch):
    monkeypatch.setattr(nearest, "_has_fast_bfloat16", lambda: True)
    a, b, _ = noisy_copies(np.random.default_rng(2), 800, 200, 0.7, dimension=128)
    exact = {tuple(row) for row in brute_force(a, b, 0.9, None)}
    found = {tuple(row) for row in mutual_nearest_neighbors(a, b, 0.9)}
    assert len(exact) > 400
    assert len(exact ^ found) <= 0.01 * len(exact)


def test_finds_the_permutation(precision):
    a, b, order = noisy_copies(np.random.default_rng(3), 300, 0, 0.2)
    matches = mutual_nearest_neighbors(a, b, 0.9)
    assert len(matches) > 295
    assert_array_equal(order[matches[:, 1]], matches[:, 0])
    assert matches.dtype == np.int32


def test_equal_descriptors_match_once_at_most(precision):
    a = unit(np.ones((5, 8)))
    assert len(mutual_nearest_neighbors(a, a)) == 1
    assert len(mutual_nearest_neighbors(a, a, ratio=0.9)) == 0


def test_float16_descriptors_and_identity(precision):
    a = unit(np.random.default_rng(4).normal(size=(64, 16))).astype(np.float16)
    assert_array_equal(mutual_nearest_neighbors(a, a, 0.9), np.stack([np.arange(64)] * 2, axis=1))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_matches_nothing(n, m):
    assert mutual_nearest_neighbors(np.zeros((n, 4), np.float32), np.zeros((m, 4), np.float32)).shape == (0, 2)


def test_single_rows_have_no_second_best(precision):
    a = unit(np.array([[1.0, 0.0]]))
    assert_array_equal(mutual_nearest_neighbors(a, a, ratio=0.8), [[0, 0]])


def test_swapping_images_swaps_columns(precision):
    a, b, _ = noisy_copies(np.random.default_rng(5), 200, 50, 0.6)
    forward, backward = mutual_nearest_neighbors(a, b, 0.9), mutual_nearest_neighbors(b, a, 0.9)
    assert {tuple(r) for r in forward} == {tuple(r[::-1]) for r in backward}


def test_does_not_change_its_input(precision):
    a, b, _ = noisy_copies(np.random.default_rng(6), 50, 5, 0.5)
    before = a.copy(), b.copy()
    mutual_nearest_neighbors(a, b, 0.9)
    assert_array_equal(a, before[0])
    assert_array_equal(b, before[1])
    assert torch.get_num_threads() >= 1


def test_refuses_descriptors_of_different_length():
    with pytest.raises(InputError, match=r"\(4, 8\) and \(4, 9\)"):
        mutual_nearest_neighbors(np.zeros((4, 8)), np.zeros((4, 9)))
