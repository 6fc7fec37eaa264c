"""The names that hloc and others import, used as its wrapper uses them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from d2s.d2net.published_api import D2Net, process_multiscale
from d2s.errors import InputError, WeightsError
from d2s.features.d2net.extractor import D2NetExtractor
from d2s.features.table import FEATURES


def hloc_extracts(net_class, process, model_file: Path, image: torch.Tensor, scales: list[float]) -> dict[str, torch.Tensor]:
    """RGB (1, 3, H, W) in [0, 1] to keypoints (1, N, 2), scores (1, N), descriptors (1, 512, N): what a wrapper has to do."""
    net = net_class(model_file=model_file, use_relu=True, use_cuda=False).eval().to("cpu")
    blue_first = image[:, [2, 1, 0]] * 255 - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    keypoints, scores, descriptors = process(blue_first, net, scales=scales)
    return {
        "keypoints": torch.from_numpy(keypoints[:, [1, 0]])[None],
        "scores": torch.from_numpy(scores)[None],
        "descriptors": torch.from_numpy(descriptors.T)[None],
    }


def test_two_lines_make_the_published_modules(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "model_test.py").write_text("from d2s.d2net.published_api import D2Net\n")
    (tmp_path / "lib" / "pyramid.py").write_text("from d2s.d2net.published_api import process_multiscale\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        net_class = importlib.import_module("lib.model_test").D2Net
        process = importlib.import_module("lib.pyramid").process_multiscale
    finally:
        for name in ("lib", "lib.model_test", "lib.pyramid"):
            sys.modules.pop(name, None)
    image = torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = hloc_extracts(net_class, process, model_file, image.permute(2, 0, 1)[None].float() / 255, [1])
    options = {**FEATURES["d2net"].options}
    (expected,) = D2NetExtractor("d2net", None, "cpu", model_file, **options).extract([image.numpy()])
    order = np.argsort(-found["scores"][0].numpy(), kind="stable")
    assert found["keypoints"].shape == (1, len(expected), 2) and found["descriptors"].shape == (1, 512, len(expected)) and len(expected) > 5
    np.testing.assert_allclose(found["keypoints"][0].numpy()[order], expected.keypoints, atol=1e-2)


def test_result_is_row_column_scale(model_file: Path) -> None:
    net = D2Net(model_file, use_cuda=False)
    image = torch.randn(1, 3, 40, 88, generator=torch.Generator().manual_seed(0)) * 60
    keypoints, scores, descriptors = process_multiscale(image, net)
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in (keypoints, scores, descriptors))
    assert keypoints.shape == (len(scores), 3) and descriptors.shape == (len(scores), 512)
    assert keypoints[:, 0].max() <= 40 < keypoints[:, 1].max() and set(keypoints[:, 2]) <= {2.0, 1.0, 0.5}
    legacy = process_multiscale(image, net, scales=[1], coordinates="legacy")[0]
    assert len(legacy) and legacy[:, :2].min() >= 1.5


def test_wrong_use(model_file: Path, tmp_path: Path) -> None:
    net = D2Net(model_file, use_cuda=False)
    assert net.dense_feature_extraction.num_channels == 512 and not net.training
    with pytest.raises(InputError, match=r"\(1, 3, H, W\)"):
        process_multiscale(torch.zeros(2, 3, 40, 40), net)
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="do not fit D2-Net"):
        D2Net(tmp_path / "w.pth")
