"""The sparse forward pass of ALIKED against kornia's own dense one, with equal random weights."""

from __future__ import annotations

import pytest
import torch
from kornia.feature.aliked import ALIKED
from torch.nn import functional

from d2s.features.aliked import SparseAliked, interpolate, patch_pixels


def random_network() -> ALIKED:
    """ALIKED with random weights, offsets of several pixels and normalisations that do something."""
    torch.manual_seed(0)
    network = ALIKED("aliked-n16", max_num_keypoints=200, detection_threshold=0.0).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
        elif "bn" in name and tensor.dtype.is_floating_point:
            tensor.normal_(0.8, 0.3)
        elif "offset_conv" in name and name.endswith("bias"):
            tensor.normal_(0, 3)
        elif tensor.ndim == 4:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    return network


@pytest.mark.parametrize("size", [(96, 128), (75, 101), (33, 40)])
@torch.inference_mode()
def test_sparse_forward_pass_equals_the_dense_one(size: tuple[int, int]) -> None:
    dense = random_network()
    sparse = SparseAliked("aliked-n16", max_num_keypoints=200, detection_threshold=0.0)
    sparse.load_state_dict(dense.state_dict())
    sparse = sparse.eval().prepare()
    images = functional.interpolate(torch.rand(2, 3, size[0] // 4, size[1] // 4), size, mode="bicubic").clamp(0, 1)
    for theirs, (keypoints, scores, descriptors) in zip(dense(images), sparse.detect(images), strict=True):
        assert len(keypoints) == theirs.n > 10
        torch.testing.assert_close(scores.sort().values, theirs.keypoint_scores.sort().values, atol=1e-4, rtol=1e-3)
        distance, row = torch.cdist(keypoints, theirs.keypoints, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        assert distance.max() < 1e-2
        # a patch is cut at the whole pixel that the keypoint lies in: rounding may move a keypoint over a pixel's edge
        same = (keypoints.long() == theirs.keypoints[row].long()).all(dim=1)
        assert same.float().mean() > 0.95
        torch.testing.assert_close(descriptors[same], theirs.descriptors[row][same], atol=2e-3, rtol=1e-2)


def test_interpolation_equals_grid_sample_also_outside() -> None:
    features = torch.randn(7, 9, 4, generator=torch.Generator().manual_seed(0))
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 14 - 3
    grid = points / torch.tensor([8.0, 6.0]) * 2 - 1
    expected = functional.grid_sample(features.permute(2, 0, 1)[None], grid[None, None], align_corners=True)[0, :, 0].T
    torch.testing.assert_close(interpolate(features, points), expected, atol=1e-5, rtol=1e-4)


def test_patches_stay_inside() -> None:
    found = patch_pixels(torch.tensor([[0.0, 0.0], [5.7, 4.2], [9.0, 7.0]]), 3, 10, 8)
    assert found.amin() >= 0 and (found.amax(dim=(0, 1)) < torch.tensor([10, 8])).all()
    assert found[1].tolist() == [[4 + x, 3 + y] for y in range(3) for x in range(3)]
