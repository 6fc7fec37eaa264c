from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from d2s.errors import WeightsError
from d2s.features.d2net.caffemodel import read_caffemodel
from d2s.features.d2net.checkpoints import CONVOLUTIONS, normalise
from d2s.features.table import make_extractor


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, old: bool) -> bytes:
    data = field(5, array.astype("<f4").tobytes())
    if old:
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(field(k, size) for k, size in enumerate(shape, start=1)) + data
    return field(7, field(1, b"".join(varint(size) for size in array.shape))) + data


def layer(name: str, arrays: list[np.ndarray], old: bool) -> bytes:
    layers, name_field, blobs_field = (2, 4, 6) if old else (100, 1, 7)
    return field(layers, field(name_field, name.encode()) + b"".join(field(blobs_field, blob(array, old)) for array in arrays))


def arrays_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return {name: [rng.normal(0, 0.05, shape).astype(np.float32), rng.random(shape[0], np.float32)] for name, shape in shapes.items()}


@pytest.mark.parametrize("old", [False, True])
def test_both_formats(tmp_path: Path, old: bool) -> None:
    widths = (3, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7)
    shapes = {name: (out, inner, 3, 3) for name, inner, out in zip(CONVOLUTIONS, widths, widths[1:], strict=False)}
    arrays = arrays_of({**shapes, "fc8": (9, 2, 1, 1)})
    content = field(1, b"VGG_ILSVRC_16_layers") + varint(9 << 3 | 5) + bytes(4)  # a field of another type, to be passed over
    (tmp_path / "vgg.caffemodel").write_bytes(content + b"".join(layer(name, pair, old) for name, pair in arrays.items()))
    found = read_caffemodel(tmp_path / "vgg.caffemodel")
    assert set(found) == {f"{name}.{kind}" for name in CONVOLUTIONS for kind in ("weight", "bias")}
    for name in CONVOLUTIONS:
        assert torch.equal(found[f"{name}.weight"], torch.from_numpy(arrays[name][0]))
        assert torch.equal(found[f"{name}.bias"], torch.from_numpy(arrays[name][1]))
    assert len(normalise(found)) == 20
    with pytest.raises(WeightsError, match="do not fit D2-Net.*size mismatch"):
        make_extractor("d2net", weights=tmp_path / "vgg.caffemodel")


def test_it_is_a_start_for_the_network(tmp_path: Path) -> None:
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
    arrays = arrays_of({name: (out, inner, 3, 3) for name, inner, out in zip(CONVOLUTIONS, widths, widths[1:], strict=False)})
    (tmp_path / "vgg.caffemodel").write_bytes(b"".join(layer(name, pair, True) for name, pair in arrays.items()))
    extractor = make_extractor("d2net", 10, weights=tmp_path / "vgg.caffemodel")
    last = extractor.network.dense_feature_extraction.model[21]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(last.weight.detach().numpy(), arrays["conv4_3"][0])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no caffemodel"),
        (b"<html> not here </html>", "no caffemodel"),
        (field(1, b"VGG"), "lack conv1_1"),
        (layer("conv1_1", [np.zeros((2, 3, 3, 3), np.float32)], False), "no caffemodel"),
        (layer("conv1_1", [np.zeros(4, np.float32)] * 2, False)[:-3], "longer than the file"),
    ],
)
def test_other_files_are_one_clear_error(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "vgg.caffemodel").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"vgg\.caffemodel.*{reason}"):
        read_caffemodel(tmp_path / "vgg.caffemodel")
