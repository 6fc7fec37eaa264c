"""Public checkpoints against an implementation of the published network that shares nothing with ours."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.nn import functional

from d2s.config import ModelConfig
from d2s.errors import FormatError, InputError, MissingFileError
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel, is_checkpoint_file, load_model
from d2s.regressor.network import D2SNet
from d2s.regressor.published import published_state, read_published, write_published

WIDTHS = (512, 1024, 1024, 512, 4)


def conv(state, name, x):
    """A convolution with kernel 1 over x (B, C, N)."""
    weight = state[f"{name}.weight"]
    return functional.conv1d(x, weight if weight.ndim == 3 else weight[..., None], state[f"{name}.bias"])


def published_forward(state, x):
    """The published network: x (B, C, N) -> coordinates (B, 3, N), u (B, N). Four heads; channels are dimension-major, head-minor."""
    mlp = "feedfw" if any(name.startswith("feedfw") for name in state) else "mapping"
    blocks = 1 + max((int(name.split(".")[2]) for name in state if name.startswith("gnn.")), default=-1)
    for block in range(blocks):
        prefix = f"gnn.layers.{block}"
        batch, channels, count = x.shape
        q, k, v = (conv(state, f"{prefix}.attn.proj.{i}", x).view(batch, channels // 4, 4, count) for i in range(3))
        scores = torch.einsum("bdhn,bdhm->bhnm", q, k) / math.sqrt(channels // 4)
        attended = torch.einsum("bhnm,bdhm->bdhn", scores.softmax(dim=-1), v).reshape(batch, channels, count)
        message = conv(state, f"{prefix}.attn.merge", attended)
        hidden = conv(state, f"{prefix}.mlp.0", torch.cat([x, message], dim=1)).relu()
        x = x + conv(state, f"{prefix}.mlp.2", hidden)
    for index in range(5):
        x = conv(state, f"{mlp}.{2 * index}", x)
        x = x.relu() if index < 4 else x
    return x[:, :3], x[:, 3]


def random_state(model, dims=3, blocks=5, width=256):
    """Weights of a network whose outputs are metres and whose reliabilities spread over (0, 1)."""
    generator = torch.Generator().manual_seed(model)
    state = OrderedDict()

    def layer(name, outer, inner):
        gain = 4.0 if name.endswith(("proj.0", "proj.1")) else 0.4 if name.endswith("mlp.2") else 1.0  # sharp attention, calm growth
        weight = torch.randn(outer, inner, generator=generator) * gain * (1.6 / inner) ** 0.5
        state[f"{name}.weight"] = weight[..., None] if dims == 3 else weight
        state[f"{name}.bias"] = 0.1 * torch.randn(outer, generator=generator)

    if model == 2:
        for block in range(blocks):
            for name in ("attn.merge", "attn.proj.0", "attn.proj.1", "attn.proj.2"):
                layer(f"gnn.layers.{block}.{name}", width, width)
            layer(f"gnn.layers.{block}.mlp.0", 2 * width, 2 * width)
            layer(f"gnn.layers.{block}.mlp.2", width, 2 * width)
    inner = width
    for index, outer in enumerate(WIDTHS):
        layer(f"{'feedfw' if model == 1 else 'mapping'}.{2 * index}", outer, inner)
        inner = outer
    last = f"{'feedfw' if model == 1 else 'mapping'}.8"
    state[f"{last}.weight"][:3] *= 6
    state[f"{last}.weight"][3] *= 0.05 if model == 2 else 0.2
    state[f"{last}.bias"][3] = 0.005
    return state


def save(path, state, branch, epoch=7, wrapped=False):
    names = {f"module.{name}" if wrapped else name: value for name, value in state.items()}
    content = {"epoch": epoch, "model_state_dict": OrderedDict(names)}
    if branch == "feat2map":
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=1e-4)
        content["optim_state_dict"] = optimizer.state_dict()
    torch.save(content, path)
    return path


def descriptors(count=300, width=256):
    return functional.normalize(torch.randn(2, width, count, generator=torch.Generator().manual_seed(5)), dim=1)


@pytest.mark.parametrize("branch", ["feat2map", "d2s"])
@pytest.mark.parametrize("model", [1, 2])
@pytest.mark.parametrize(("dims", "wrapped"), [(3, False), (2, True)])
def test_outputs_equal_the_published_network(tmp_path, branch, model, dims, wrapped):
    state = random_state(model, dims)
    published = read_published(save(tmp_path / "epoch_007.pth.tar", state, branch, wrapped=wrapped))
    x = descriptors()
    with torch.no_grad():
        xyz, u = published.network(x.transpose(1, 2))
        expected_xyz, expected_u = published_forward(state, x)
    assert expected_xyz.abs().max() > 0.5
    assert torch.allclose(xyz, expected_xyz.transpose(1, 2), rtol=0, atol=1e-5)
    assert torch.allclose(u, expected_u, rtol=0, atol=1e-5)
    expected_r = 1 / (1 + (100 * expected_u).abs())  # what feat2map returns itself
    assert expected_r.min() < 0.4 < 0.6 < expected_r.max()
    assert torch.allclose(published.network.reliability(u), expected_r, rtol=0, atol=1e-5)
    assert (published.epoch, published.branch, published.network.config.model) == (7, branch, model)


def test_heads_side_by_side_would_be_another_network(tmp_path):
    """The head layout matters: the same tensors without the permutation give other numbers."""
    state = random_state(2)
    network = read_published(save(tmp_path / "a.pth.tar", state, "d2s")).network
    network.blocks[0].query.weight.data.copy_(state["gnn.layers.0.attn.proj.0.weight"][..., 0])
    x = descriptors()
    with torch.no_grad():
        assert (network(x.transpose(1, 2))[0] - published_forward(state, x)[0].transpose(1, 2)).abs().max() > 1e-3


def test_other_sizes_are_read_from_the_tensors(tmp_path):
    state = random_state(2, blocks=3, width=128)
    network = read_published(save(tmp_path / "a.pth.tar", state, "d2s")).network
    assert (network.config.blocks, network.config.width, network.descriptor_dim) == (3, 128, 128)
    x = descriptors(width=128)
    with torch.no_grad():
        assert torch.allclose(network(x.transpose(1, 2))[1], published_forward(state, x)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [1, 2])
def test_a_network_of_ours_becomes_a_public_checkpoint(tmp_path, model):
    torch.manual_seed(model)
    network = D2SNet(ModelConfig(model=model, normalize_targets=True), 256).eval()
    network.center.copy_(torch.tensor([3.0, -2.0, 5.0]))
    network.scale.fill_(2.5)
    write_published(tmp_path / "ours.pth.tar", network, epoch=9)
    content = torch.load(tmp_path / "ours.pth.tar", weights_only=True)
    x = descriptors()
    with torch.no_grad():
        xyz, u = network(x.transpose(1, 2))
        theirs, their_u = published_forward(content["model_state_dict"], x)
        back = read_published(tmp_path / "ours.pth.tar").network(x.transpose(1, 2))
    assert torch.allclose(theirs.transpose(1, 2), xyz, rtol=0, atol=1e-5) and torch.allclose(their_u, u, rtol=0, atol=1e-5)
    assert torch.allclose(back[0], xyz, rtol=0, atol=1e-5) and content["epoch"] == 9
    assert set(content["model_state_dict"]) == set(random_state(model))


def test_a_network_that_the_public_code_cannot_run_is_refused():
    for config in (ModelConfig(norm="layer"), ModelConfig(reliability="sigmoid"), ModelConfig(width=64), ModelConfig(heads=8)):
        with pytest.raises(InputError, match="public"):
            published_state(D2SNet(config, 256))


def test_files_that_could_execute_code_are_refused_with_the_way_out(tmp_path):
    torch.save({"epoch": 1, "model_state_dict": {}, "scaler": functional.relu}, tmp_path / "code.pth.tar")
    with pytest.raises(FormatError, match="could execute code.*torch.save"):
        read_published(tmp_path / "code.pth.tar")
    torch.save({"epoch": np.float64(3), "model_state_dict": random_state(1)}, tmp_path / "numpy.pth.tar")
    with pytest.raises(FormatError, match="more than tensors"):
        read_published(tmp_path / "numpy.pth.tar")


def test_other_files_are_refused_in_one_line(tmp_path):
    good = save(tmp_path / "good.pth.tar", random_state(1), "d2s")
    (tmp_path / "cut.pth.tar").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "text.pth.tar").write_text("not a checkpoint")
    (tmp_path / "empty.pth.tar").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth.tar")
    torch.save({"epoch": 1}, tmp_path / "nothing.pth.tar")
    lines = {**random_state(2, blocks=1), "line_enc.0.weight": torch.zeros(3)}
    save(tmp_path / "pl2map.pth.tar", lines, "d2s")
    short = random_state(2, blocks=2)
    del short["gnn.layers.1.mlp.2.bias"]
    save(tmp_path / "short.pth.tar", short, "d2s")
    for name in ("cut", "text", "empty", "list", "nothing", "pl2map", "short"):
        with pytest.raises(FormatError, match=f"{name}.pth.tar"):
            read_published(tmp_path / f"{name}.pth.tar")
    with pytest.raises(MissingFileError, match=r"nowhere\.pth"):
        read_published(tmp_path / "nowhere.pth")


def test_coordinates_are_regressed_in_single_precision_wherever_bf16_is_fast(monkeypatch):
    """In bf16 the coordinates of a place ten metres wide are off by centimetres."""
    monkeypatch.setattr("d2s.regressor.precision.has_native_bf16", lambda device: True)
    info = ModelInfo("d", "s", "metres", {}, 100)
    landmarks = LandmarkNet(ModelConfig(model=3, width=16, heads=2, blocks=1), 8, 50)
    assert TrainedModel(D2SNet(ModelConfig(model=1), 8), info).dtype == torch.float32
    assert TrainedModel(landmarks, info).dtype == torch.bfloat16 == TrainedModel(D2SNet(ModelConfig(model=1), 8), info, "cpu", "bf16").dtype


def test_what_counts_as_a_checkpoint_file(tmp_path):
    (tmp_path / "epoch_1.pth").mkdir()
    assert is_checkpoint_file(tmp_path / "epoch_012.pth.tar") and is_checkpoint_file(tmp_path / "a.PTH")
    assert not any(is_checkpoint_file(path) for path in (tmp_path / "epoch_1.pth", tmp_path / "model.safetensors", tmp_path))
    with pytest.raises(InputError, match="d2s export --format model"):
        load_model(tmp_path / "epoch_012.pth.tar")
