"""The D2S network against the paper's sizes, an independent implementation, and the properties that users rely on."""

from __future__ import annotations

import math

import pytest
import torch

from d2s.config import ModelConfig
from d2s.regressor.network import D2SNet


def make(model=2, dim=256, **options) -> D2SNet:
    torch.manual_seed(0)
    return D2SNet(ModelConfig(model=model, **options), dim).eval()


@pytest.mark.parametrize(("model", "count"), [(1, 2_233_348), (2, 5_519_108)])
def test_published_number_of_weights(model, count):
    assert sum(p.numel() for p in make(model).parameters()) == count


def reference_forward(net: D2SNet, x: torch.Tensor) -> torch.Tensor:
    """The network of the paper written out for one image (N, C), loop over heads, no fused attention."""
    state = net.state_dict()

    def linear(name, value):
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    for index in range(net.config.blocks):
        b = f"blocks.{index}"
        q, k, v = (linear(f"{b}.{name}", x) for name in ("query", "key", "value"))
        size = x.shape[1] // net.config.heads
        parts = []
        for head in range(net.config.heads):
            channels = slice(head * size, (head + 1) * size)
            weights = torch.softmax(q[:, channels] @ k[:, channels].T / math.sqrt(size), dim=1)
            parts.append(weights @ v[:, channels])
        message = linear(f"{b}.merge", torch.cat(parts, dim=1))
        hidden = torch.relu(linear(f"{b}.mlp.0", torch.cat([x, message], dim=1)))
        x = x + linear(f"{b}.mlp.2", hidden)
    for layer in range(len(net.config.head_widths)):
        x = torch.relu(linear(f"head.{2 * layer}", x))
    return linear(f"head.{2 * len(net.config.head_widths)}", x)


def test_equals_an_independent_implementation():
    net = make().double()
    x = torch.nn.functional.normalize(torch.randn(40, 256, dtype=torch.float64), dim=1)
    with torch.no_grad():
        xyz, u = net(x[None])
        expected = reference_forward(net, x)
    assert torch.allclose(xyz[0].double(), expected[:, :3], atol=1e-5)
    assert torch.allclose(u[0].double(), expected[:, 3], atol=1e-5)


@pytest.mark.parametrize("model", [1, 2])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_padding_changes_nothing(model, norm):
    net = make(model, dim=128, norm=norm, blocks=2)
    x = torch.randn(1, 30, 128)
    padded = torch.cat([x, torch.randn(1, 12, 128)], dim=1)
    mask = torch.arange(42)[None] < 30
    with torch.no_grad():
        alone, u_alone = net(x)
        together, u_together = net(padded, mask)
    assert torch.allclose(alone, together[:, :30], atol=1e-5)
    assert torch.allclose(u_alone, u_together[:, :30], atol=1e-5)


def test_order_of_keypoints_does_not_matter():
    net = make(dim=128, blocks=2)
    x = torch.randn(1, 30, 128)
    order = torch.randperm(30)
    with torch.no_grad():
        assert torch.allclose(net(x)[0][:, order], net(x[:, order])[0], atol=1e-5)


def test_attention_gives_context_and_the_mlp_does_not():
    x = torch.randn(1, 30, 256)
    changed = x.clone()
    changed[0, 0] += 1
    with torch.no_grad():
        for model, differs in ((1, False), (2, True)):
            net = make(model, blocks=2)
            assert torch.allclose(net(x)[0][0, 1:], net(changed)[0][0, 1:], atol=1e-6) is not differs


def test_targets_are_mapped_to_the_scene():
    net = make(1, dim=32)
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        raw = net(x)[0]
        net.center.copy_(torch.tensor([10.0, -20.0, 3.0]))
        net.scale.fill_(7.0)
        assert torch.allclose(net(x)[0], raw * 7 + net.center, atol=1e-5)


def test_reliability_is_the_published_one_and_lies_in_0_to_1():
    u = torch.tensor([-3.0, -0.01, 0.0, 0.01, 2.0])
    assert torch.allclose(make(1).reliability(u), torch.tensor([1 / 301, 0.5, 1.0, 0.5, 1 / 201]))
    sigmoid = make(1, reliability="sigmoid").reliability(u)
    assert ((sigmoid > 0) & (sigmoid < 1)).all() and (sigmoid.diff() > 0).all()
