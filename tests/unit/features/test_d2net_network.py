from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d2s.errors import InputError, WeightsError
from d2s.features.d2net.checkpoints import CONVOLUTIONS, PREFIX, harmless_types, normalise, published_name
from d2s.features.d2net.network import D2Net, DenseFeatures
from d2s.features.table import FEATURES, make_extractor
from d2s.features.weights import WEIGHTS, load_state_dict, resolve_weights

# What the published files hold: weight and bias of ten layers
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512)


def published_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for place, inner, out in zip(PLACES, WIDTHS, WIDTHS[1:], strict=False):
        deviation = (2 / (9 * inner)) ** 0.5
        state[f"dense_feature_extraction.model.{place}.weight"] = torch.randn(out, inner, 3, 3, generator=generator) * deviation
        state[f"dense_feature_extraction.model.{place}.bias"] = torch.randn(out, generator=generator) * 0.01
    return state


def vgg16(names: str) -> dict[str, torch.Tensor]:
    """The same weights as an ImageNet checkpoint has them, with the layers after conv4_3."""
    caffe = {place: name for name, place in CONVOLUTIONS.items()}
    state = {}
    for key, tensor in published_state().items():
        place, kind = key.removeprefix(PREFIX).split(".")
        state[f"features.{place}.{kind}" if names == "torchvision" else f"{caffe[int(place)]}.{kind}"] = tensor
    rest = ("conv5_1", "conv5_3", "fc6", "fc8")
    if names == "torchvision":
        rest = ("features.24", "features.28", "classifier.0", "classifier.6")
    return {**state, **{f"{layer}.{kind}": torch.zeros(4) for layer in rest for kind in ("weight", "bias")}}


def options(**changed: Any) -> dict[str, Any]:
    return {**FEATURES["d2net"].options, **changed}


@pytest.mark.parametrize("graph", ["extraction", "training"])
def test_names_and_shapes_are_the_published_ones(graph: str) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in D2Net(graph).state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in published_state().items()}
    assert sum(tensor.numel() for tensor in D2Net(graph).parameters()) == 7_635_264


@pytest.mark.parametrize(("width", "height"), [(24, 16), (25, 19), (8, 8), (11, 12)])
def test_map_sizes(width: int, height: int) -> None:
    image = torch.zeros(1, 3, height, width)
    with torch.no_grad():
        assert D2Net("extraction")(image).shape == (1, 512, height // 4 - 1, width // 4 - 1)
        assert D2Net("training")(image).shape == (1, 512, height // 8, width // 8)


def test_the_relu_is_the_extraction_graphs_alone() -> None:
    image = torch.randn(1, 3, 16, 20) * 50
    found = {}
    for graph, relu in (("extraction", True), ("extraction", False), ("training", True)):
        network = D2Net(graph, relu)
        network.load_state_dict(published_state())
        with torch.no_grad():
            found[graph, relu] = network(image)
    assert found["extraction", True].min() == 0 and found["extraction", False].min() < 0 and found["training", True].min() < 0
    torch.testing.assert_close(found["extraction", True], found["extraction", False].relu())


def test_unknown_graph() -> None:
    with pytest.raises(InputError, match="Choose one of: extraction, training"):
        DenseFeatures("test")


@pytest.mark.parametrize(("graph", "stride", "cell"), [("extraction", 4, 12), ("training", 8, 6)])
def test_a_cell_sees_what_lies_around_its_centre(graph: str, stride: int, cell: int) -> None:
    """The support of cell k is centred on pixel 4 k + 3.5 in the extraction graph and on 8 k + 3.5 in the training graph."""
    network = D2Net(graph)
    layers = network.dense_feature_extraction.model
    for place, layer in enumerate(layers):
        if isinstance(layer, torch.nn.MaxPool2d):
            layers[place] = torch.nn.AvgPool2d(2)  # sees all of its window, not one pixel of it
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data.fill_(1 / layer.weight[0].numel())
    image = torch.rand(1, 3, 112, 112, requires_grad=True)
    network(image)[0, 0, cell, cell].backward()
    rows = torch.nonzero(image.grad[0].sum(dim=(0, 2)))[:, 0].tolist()  # type: ignore[index]
    assert rows[0] > 0 and rows[-1] < 111
    assert (rows[0] + rows[-1]) / 2 == stride * cell + 3.5


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("d2s.features.d2net.network.STRIP_PIXELS", 700)
    network = D2Net()
    network.load_state_dict(published_state())
    image = torch.randn(1, 3, 75, 51) * 50
    with torch.no_grad():
        in_strips = network.dense_feature_extraction._before_last(image)
        whole = network.dense_feature_extraction.model[:-1](image)
    torch.testing.assert_close(in_strips, whole, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("names", ["torchvision", "caffe"])
def test_vgg16_of_imagenet_becomes_the_network(names: str) -> None:
    found = normalise(vgg16(names))
    expected = published_state()
    assert set(found) == set(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    D2Net("training").load_state_dict(found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {"model": {**s, PREFIX + "24.weight": torch.zeros(1)}}, "Unexpected key.*24.weight"),
        (lambda s: {"model": {key: value for key, value in s.items() if "21" not in key}}, "Missing key.*21.weight"),
        (lambda s: {"model": {**s, PREFIX + "0.weight": torch.zeros(64, 1, 3, 3)}}, "size mismatch"),
        (lambda s: {"model": 3}, "not tensors by name"),
        (lambda s: {"features.1.running_mean": torch.zeros(64)}, "neither of D2-Net nor of VGG16"),
        (lambda s: {"conv1a.weight": torch.zeros(64)}, "neither of D2-Net nor of VGG16"),
    ],
)
def test_other_checkpoints_are_one_clear_error(change: Any, reason: str, tmp_path: Path) -> None:
    torch.save(change(published_state()), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth do not fit.*{reason}"):
        make_extractor("d2net", weights=tmp_path / "w.pth")


def test_checkpoints_of_the_published_training_load(tmp_path: Path) -> None:
    """They hold the arguments of the run and NumPy's numbers beside the weights, which plain loading refuses."""
    content = {
        "args": argparse.Namespace(lr=1e-3, plot=False),
        "epoch_idx": 3,
        "model": published_state(),
        "train_loss_history": [np.float64(0.5), np.mean(np.float32([1, 2]))],
    }
    torch.save(content, tmp_path / "d2.best.pth")
    with pytest.raises(WeightsError):
        load_state_dict(tmp_path / "d2.best.pth")
    with harmless_types():
        state = normalise(load_state_dict(tmp_path / "d2.best.pth"))
    D2Net().load_state_dict(state)
    make_extractor("d2net", weights=tmp_path / "d2.best.pth")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))  # type: ignore[return-value]


def test_nothing_else_in_them_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": published_state(), "args": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth cannot be loaded"):
        make_extractor("d2net", weights=tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


def test_published_files_have_their_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("D2S_CACHE", str(tmp_path))
    for filename in ("d2_tf.pth", "d2_ots.pth", "d2_tf_no_phototourism.pth"):
        name = published_name(Path("models") / filename)
        assert name is not None and WEIGHTS[name].url == f"https://dusmanu.com/files/d2-net/{filename}"
        assert "BSD-3-Clause-Clear" in WEIGHTS[name].licence and "VGG16" in WEIGHTS[name].licence
    (tmp_path / "d2_tf.pth").write_bytes(b"mine")
    assert published_name(tmp_path / "d2_tf.pth") is None and published_name(Path("other.pth")) is None


def test_without_a_network_the_error_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("D2S_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=rf"d2_tf\.pth are not on this machine.*{tmp_path}/weights/d2_tf\.pth by hand"):
        resolve_weights("d2net")
