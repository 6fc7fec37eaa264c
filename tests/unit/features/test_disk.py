"""Sparse descriptors of DISK against kornia's own dense ones, with equal random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kornia.feature import DISK

from d2s.features.table import make_extractor


@pytest.mark.parametrize("size", [(64, 80), (70, 101)])
def test_sparse_descriptors_equal_the_dense_ones(size: tuple[int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = DISK().eval()
    torch.save({"extractor": dense.state_dict()}, tmp_path / "disk.pth")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = make_extractor("disk", 50, weights=tmp_path / "disk.pth", score_threshold=-1e9).extract([image])[0]
    with torch.inference_mode():
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        theirs = dense(pixels, n=50, score_threshold=-1e9, pad_if_not_divisible=True)[0]
    order = torch.argsort(theirs.detection_scores, descending=True, stable=True)
    assert len(found) == 50
    np.testing.assert_array_equal(found.keypoints, theirs.keypoints[order].numpy())
    np.testing.assert_allclose(found.scores, theirs.detection_scores[order].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.descriptors, theirs.descriptors[order].numpy(), atol=1e-4)
