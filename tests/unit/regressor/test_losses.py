"""Losses against the formulas written out, and finite gradients where square roots and divisions are dangerous."""

from __future__ import annotations

import pytest
import torch

from d2s.config import LossConfig
from d2s.regressor import losses


@pytest.fixture
def numbers():
    torch.manual_seed(0)
    xyz, target = torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    valid = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 0, 0]]).bool()
    return xyz, target, valid, torch.ones(2, 7, dtype=torch.bool)


def test_published_map_loss_is_a_sum_of_distances_over_labelled_keypoints(numbers):
    xyz, target, valid, _ = numbers
    expected = sum(torch.dist(xyz[b, i], target[b, i]) for b in range(2) for i in range(7) if valid[b, i]) / 2
    assert torch.isclose(losses.map_loss(LossConfig(map_loss="sum"), xyz, target, valid, torch.tensor(5.0)), expected, rtol=1e-5)


def test_balanced_map_loss_depends_neither_on_count_nor_on_units(numbers):
    xyz, target, valid, _ = numbers
    for kind in ("mean", "robust"):
        config = LossConfig(map_loss=kind)
        once = losses.map_loss(config, xyz, target, valid, torch.tensor(2.0))
        twice = losses.map_loss(
            config, torch.cat([xyz, xyz], 1), torch.cat([target, target], 1), torch.cat([valid, valid], 1), torch.tensor(2.0)
        )
        in_cm = losses.map_loss(config, 100 * xyz, 100 * target, valid, torch.tensor(200.0))
        assert torch.isclose(once, twice, rtol=1e-5) and torch.isclose(once, in_cm, rtol=1e-4)


def test_published_reliability_losses(numbers):
    *_, mask = numbers
    r, target = torch.rand(2, 7), (torch.rand(2, 7) > 0.5).float()
    batch = losses.reliability_loss(LossConfig(reliability_loss="batch"), r, r, target, mask)
    image = losses.reliability_loss(LossConfig(reliability_loss="image"), r, r, target, mask)
    assert torch.isclose(batch, (target - r).norm() / 2, rtol=1e-5)
    assert torch.isclose(image, ((target[0] - r[0]).norm() + (target[1] - r[1]).norm()) / 2, rtol=1e-5)


def test_reprojection_keeps_labelled_keypoints_not_the_others(numbers):
    *_, valid, mask = numbers
    errors, depth = torch.full((2, 7), 3.0), torch.ones(2, 7)
    errors[~valid] = 500.0
    value = losses.reprojection_loss(LossConfig(reprojection="tanh"), errors, depth, valid, mask, 0.5)
    assert torch.isclose(value, 50 * torch.tanh(torch.tensor(3.0 / 50)), rtol=1e-5)


def test_reprojection_ignores_points_behind_far_or_wild_and_masks_padding(numbers):
    *_, mask = numbers
    errors, depth = torch.full((2, 7), 2.0), torch.ones(2, 7)
    depth[0, 0], depth[0, 1], errors[0, 2] = -1.0, 2000.0, 5000.0
    errors[1, 6] = 900.0
    mask = mask.clone()
    mask[1, 6] = False
    for kind in ("tanh", "dyntanh"):
        config = LossConfig(reprojection=kind, reprojection_mask="all")
        width = losses.dynamic_clamp(config, 0.3) if kind == "dyntanh" else config.soft_clamp
        value = losses.reprojection_loss(config, errors, depth, mask, mask, 0.3)
        assert torch.isclose(value, width * torch.tanh(torch.tensor(2.0 / width)), rtol=1e-5)


def test_dynamic_clamp_has_the_published_values():
    config = LossConfig()
    assert [round(losses.dynamic_clamp(config, p), 1) for p in (0.8, 0.9, 0.95, 0.99, 1.0)] == [31.0, 22.8, 16.6, 8.1, 1.0]
    linear = LossConfig(clamp_schedule="linear")
    assert losses.dynamic_clamp(linear, 0.5) == pytest.approx(26.0)


@pytest.mark.parametrize("kind", ["mean", "l1", "l1+sqrt", "l1+log", "tanh", "dyntanh"])
def test_gradients_are_finite_even_at_zero_error_and_with_dropped_infinite_ones(kind):
    errors = torch.tensor([[0.0, 3.0, float("inf"), 80.0]], requires_grad=True)
    mask = torch.ones(1, 4, dtype=torch.bool)
    losses.reprojection_loss(LossConfig(reprojection=kind), errors, torch.ones(1, 4), mask, mask, 0.5).backward()
    assert torch.isfinite(errors.grad).all() and errors.grad[0, 2] == 0


def test_map_loss_has_a_finite_gradient_at_a_perfect_prediction():
    xyz = torch.zeros(1, 3, 3, requires_grad=True)
    losses.map_loss(LossConfig(), xyz, torch.zeros(1, 3, 3), torch.tensor([[True, False, True]]), torch.tensor(1.0)).backward()
    assert torch.isfinite(xyz.grad).all()


@pytest.mark.parametrize("kind", ["l1", "l1+sqrt", "l1+log"])
def test_sums_of_the_published_l1_kinds(kind):
    config, mask = LossConfig(reprojection=kind, soft_clamp=50), torch.ones(1, 2, dtype=torch.bool)
    value = losses.reprojection_loss(config, torch.tensor([[10.0, 200.0]]), torch.ones(1, 2), mask, mask, 0.0)
    beyond = {"l1": 0.0, "l1+sqrt": (50 * 200) ** 0.5, "l1+log": torch.log1p(torch.tensor(50 * 200.0)).item()}[kind]
    assert value.item() == pytest.approx(10 + beyond, rel=1e-5)
