"""The ONNX file gives what the network gives, in ONNX Runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from d2s.cli import main
from d2s.config import ModelConfig
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel, load_model, save_model
from d2s.regressor.network import D2SNet

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed (sh scripts/setup.sh onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed (sh scripts/setup.sh onnx)")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "onnx.md"
INFO = ModelInfo("made", "place", "metres", {"name": "sift"}, 60, 0.3, 9.0, ("SIMPLE_PINHOLE 64 48 50 32 24",))
SMALL = {"width": 32, "heads": 2, "blocks": 2, "head_widths": (48, 24)}


def network(number, **options):
    """Random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(0)
    dim = options.pop("dim", 32)
    config = ModelConfig(**{"model": number, **SMALL, **options})
    made = LandmarkNet(config, dim, 4500) if number == 3 else D2SNet(config, dim)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if value.ndim:
                value.copy_(torch.randn_like(value) / max(value.shape[-1], 1) ** 0.5 + ("norm" in name))
        if isinstance(made, LandmarkNet):
            made.landmarks.fill(torch.randn(4500, made.channels), 50 * torch.randn(4500, 3), 0.6)
            made.log_scale.fill_(3.2)
            made.threshold.fill_(0.4)
        else:
            made.center.copy_(torch.tensor([100.0, -20.0, 3.0]))
            made.scale.fill_(7.0)
    return made.eval()


CASES = {
    "model 1 as published": network(1),
    "model 2 as published": network(2),
    "model 2 of our recipe": network(2, norm="layer", reliability="sigmoid", dim=24),
    "model 3": network(3, norm="layer", reliability="sigmoid"),
    "model 3 with fewer channels and a context": network(3, norm="layer", dim=48, landmark_channels=32, context=20),
}


def unit(*shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def written(tmp_path, made):
    from d2s.export import onnx_file

    path = tmp_path / "model.onnx"
    assert onnx_file.write(path, TrainedModel(made, INFO, precision="fp32")) == path.stat().st_size
    return path


def reference(made, descriptors, mask):
    with torch.inference_mode():
        xyz, u = made(torch.from_numpy(descriptors), torch.from_numpy(mask))
        return xyz.numpy(), made.reliability(u).numpy()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_network_for_every_number_of_keypoints_and_images(tmp_path, name):
    made = CASES[name]
    run = session(written(tmp_path, made))
    for batch, count in ((1, 60), (1, 1), (3, 17), (2, 300)):
        descriptors = unit(batch, count, made.descriptor_dim)
        xyz, reliability = run.run(["xyz", "reliability"], {"descriptors": descriptors})
        expected = reference(made, descriptors, np.ones((batch, count), bool))
        np.testing.assert_allclose(xyz, expected[0], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(reliability, expected[1], rtol=1e-4, atol=1e-6)
        assert reliability.std() > 0 or count == 1


@pytest.mark.parametrize("name", CASES)
def test_rows_of_zeros_are_padding(tmp_path, name):
    made = CASES[name]
    run = session(written(tmp_path, made))
    descriptors = unit(3, 40, made.descriptor_dim)
    padded = descriptors.copy()
    padded[0, 25:], padded[2] = 0, 0
    found = run.run(None, {"descriptors": padded})
    alone = run.run(None, {"descriptors": descriptors[:1, :25]})
    for value, whole, short in zip(found, run.run(None, {"descriptors": descriptors}), alone, strict=True):
        np.testing.assert_allclose(value[0, :25], short[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(value[1], whole[1], rtol=1e-4, atol=1e-4)
        assert (value[0, 25:] == 0).all() and (value[2] == 0).all()


def test_file_says_how_it_is_used(tmp_path):
    path = written(tmp_path, CASES["model 3"])
    model = onnx.load(str(path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert {entry.type.tensor_type.shape.dim[1].dim_param for entry in [*model.graph.input, *model.graph.output]} == {"keypoints"}
    stated = session(path).get_modelmeta().custom_metadata_map
    assert stated["units"] == "metres" and stated["scene"] == "place"
    assert {name: json.loads(stated[name]) for name in ("num_keypoints", "reliability_threshold", "max_error", "features")} == {
        "num_keypoints": 60,
        "reliability_threshold": 0.3,
        "max_error": 9.0,
        "features": {"name": "sift"},
    }
    assert json.loads(stated["min_similarity"]) == pytest.approx(0.6)
    landmarks = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
    np.testing.assert_array_equal(landmarks["landmarks.codes"], CASES["model 3"].landmarks.codes.numpy())
    np.testing.assert_array_equal(landmarks["landmarks.xyz"], CASES["model 3"].xyz.numpy())


def test_saved_weights_stay_halves(tmp_path):
    made = network(2, norm="layer", width=256, dim=128)
    save_model(tmp_path / "model", made, INFO)
    halves = written(tmp_path, load_model(tmp_path / "model").network)
    assert halves.stat().st_size < 1.1 * (tmp_path / "model" / "model.safetensors").stat().st_size
    descriptors = unit(1, 50, 128)
    expected = reference(load_model(tmp_path / "model").network, descriptors, np.ones((1, 50), bool))
    np.testing.assert_allclose(session(halves).run(["xyz"], {"descriptors": descriptors})[0], expected[0], rtol=1e-5, atol=1e-3)


def test_written_program_finds_the_pose(tmp_path, monkeypatch):
    """The program of docs/onnx.md, on a model whose landmarks are what the camera sees."""
    rng = np.random.default_rng(2)
    made = LandmarkNet(ModelConfig(model=3, norm="layer", **SMALL), 32, 300)
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (300, 3))
    descriptors = unit(300, 32)
    made.landmarks.fill(torch.from_numpy(descriptors), torch.from_numpy(points))
    (tmp_path / "onnx").mkdir()
    written(tmp_path / "onnx", made.eval())
    monkeypatch.chdir(tmp_path)
    program: dict[str, object] = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1], program)
    matrix = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    rotation, center = cv2.Rodrigues(np.array([0.1, -0.2, 0.05]))[0], np.array([0.3, -0.2, 0.5])
    seen = (points - center) @ rotation.T @ matrix.T
    keypoints = seen[:, :2] / seen[:, 2:]
    order = rng.permutation(300)
    pose = program["cam_from_world"](keypoints[order], rng.random(300), descriptors[order], matrix, None)
    np.testing.assert_allclose(pose[:, :3], rotation, atol=1e-3)
    np.testing.assert_allclose(-pose[:, :3].T @ pose[:, 3], center, atol=1e-2)
    assert program["cam_from_world"](keypoints[:3], np.ones(3), descriptors[:3], matrix, None) is None


def test_command(tmp_path, caplog):
    save_model(tmp_path / "model", CASES["model 3"], INFO)
    command = ["export", "--format", "onnx", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert session(tmp_path / "out" / "model.onnx").get_inputs()[0].shape == ["batch", "keypoints", 32]
    assert main(command) == 2  # not empty
    assert main([*command, "--overwrite", "1"]) == 0
    assert main(["export", "--format", "onnx", "--out", str(tmp_path / "none")]) == 2
