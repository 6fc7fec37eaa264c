"""Nearest neighbours among many, block by block, against a plain product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.matching import database
from d2s.matching.database import BLOCK, Database


def unit(rng, count, dim=32):
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 50, BLOCK, 2 * BLOCK + 7])
def test_nearest_of_all_and_of_every_block(monkeypatch, dtype, count):
    monkeypatch.setattr(database, "distance_dtype", lambda device: dtype)
    rng = np.random.default_rng(count)
    rows = unit(rng, count)
    query = unit(rng, 60)
    query[:40] = rows[rng.integers(0, count, 40)] + 0.02 * rng.standard_normal((40, 32)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    similarity = query @ rows.T
    found = Database(rows).nearest(query)
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    blocks = [similarity[:, start : start + BLOCK].max(axis=1) for start in range(0, count, BLOCK)]
    np.testing.assert_allclose(found.similarity, np.stack(blocks, axis=1), atol=tolerance)
    assert np.abs(similarity[np.arange(60), found.index] - similarity.max(axis=1)).max() < tolerance
    assert (found.index == similarity.argmax(axis=1)).mean() > (0.99 if dtype == torch.float32 else 0.9)
    back = similarity.argmax(axis=0)[found.index] == np.arange(60)
    assert (found.mutual == back).mean() > (0.99 if dtype == torch.float32 else 0.9)


def test_equal_keypoints_share_no_landmark():
    rows = unit(np.random.default_rng(0), 30)
    found = Database(rows).nearest(np.repeat(rows[:3], 2, axis=0))
    assert found.index.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.mutual.tolist() == [True, False] * 3
