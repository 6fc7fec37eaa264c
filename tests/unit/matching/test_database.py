"""Nearest neighbours among many, block by block, against a plain product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.matching import database
from d2s.matching.database import BLOCK, PART, Database, comparison_dtype

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.int8: 0.012}
SAME = {torch.float32: 0.99, torch.bfloat16: 0.9, torch.int8: 0.9}


@pytest.fixture(params=list(TOLERANCE), ids=str)
def dtype(request, monkeypatch):
    monkeypatch.setattr(database, "comparison_dtype", lambda: request.param)
    return request.param


def unit(rng, count, dim=32):
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 50, BLOCK, 2 * BLOCK + 7])
def test_nearest_of_all_and_of_every_block(dtype, count):
    rng = np.random.default_rng(count)
    rows = unit(rng, count)
    query = unit(rng, 60)
    query[:40] = rows[rng.integers(0, count, 40)] + 0.02 * rng.standard_normal((40, 32)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    similarity = query @ rows.T
    found = Database(rows).nearest(query)
    blocks = [similarity[:, start : start + BLOCK].max(axis=1) for start in range(0, count, BLOCK)]
    np.testing.assert_allclose(found.similarity, np.stack(blocks, axis=1), atol=TOLERANCE[dtype])
    assert np.abs(similarity[np.arange(60), found.index] - similarity.max(axis=1)).max() < TOLERANCE[dtype]
    assert (found.index == similarity.argmax(axis=1)).mean() > SAME[dtype]
    back = similarity.argmax(axis=0)[found.index] == np.arange(60)
    assert (found.mutual == back).mean() > SAME[dtype]


def test_a_query_of_several_parts(dtype):
    rng = np.random.default_rng(1)
    rows, order = unit(rng, PART + 40), rng.permutation(PART + 40)
    found = Database(rows).nearest(rows[order])
    assert found.index.tolist() == order.tolist()
    assert found.mutual.all()
    np.testing.assert_allclose(found.similarity, 1, atol=TOLERANCE[dtype])


def test_equal_keypoints_share_no_landmark(dtype):
    rows = unit(np.random.default_rng(0), 30)
    found = Database(rows).nearest(np.repeat(rows[:3], 2, axis=0))
    assert found.index.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.mutual.tolist() == [True, False] * 3


def test_a_query_with_larger_entries_than_all_landmarks(dtype):
    rows = unit(np.random.default_rng(2), 300, 128)
    query = np.zeros((1, 128), np.float32)
    query[0, :2] = np.sqrt(0.5)
    assert Database(rows).nearest(query).similarity[0, 0] == pytest.approx((rows @ query[0]).max(), abs=TOLERANCE[dtype])


@pytest.mark.parametrize(("bfloat16", "int8", "expected"), [(True, True, "bfloat16"), (False, True, "int8"), (False, False, "float32")])
def test_what_the_cpu_is_fast_in(monkeypatch, bfloat16, int8, expected):
    monkeypatch.setattr(database, "distance_dtype", lambda device: torch.bfloat16 if bfloat16 else torch.float32)
    monkeypatch.setattr(database, "_has_fast_int8", lambda: int8)
    assert comparison_dtype() == getattr(torch, expected)
