"""`d2s export` through the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pycolmap
import pytest
import torch

from d2s.cli import main
from d2s.config import ModelConfig
from d2s.evaluation.pose_files import write_results
from d2s.features.base import LocalFeatures
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import load_model, save_model
from d2s.regressor.network import D2SNet
from d2s.regressor.published import read_published, write_published
from processing.adapters import nerfstudio as nerfstudio_adapter
from processing.adapters.base import AdapterOptions

from .conftest import DIM, POINTS, SETTINGS, look

INFO = ModelInfo("made", "place", "metres", SETTINGS, 60, 0.3, bounds=((-1.2, -0.8, 4), (1.2, 0.8, 6)))


@pytest.fixture
def model(made):
    """The folder of a model 3 whose landmarks are the points of the scene."""
    network = LandmarkNet(ModelConfig(model=3, width=16, heads=2, blocks=1, norm="layer", reliability="sigmoid"), DIM, POINTS)
    network.landmarks.fill(torch.from_numpy(look()), torch.from_numpy(made.xyz))
    save_model(made.root / "model", network, INFO)
    return made.root / "model"


def export(made, *options):
    where = ["--data_dir", str(made.root / "dataset"), "--out", str(made.root / "out"), "--cudaid", "-1"]
    return main(["export", *where, *map(str, options)])


SCENE = ("--dataset", "made", "--scene", "place")


def files(made):
    return sorted(path.name for path in (made.root / "out").iterdir())


def test_scene_to_colmap(made, capsys):
    assert export(made, "--format", "colmap", *SCENE) == 0
    model = pycolmap.Reconstruction(str(made.root / "out"))
    assert len(model.images) == 9 and model.compute_mean_track_length() > 3
    assert any((point.color != 128).any() for point in model.points3D.values())
    assert f"9 cameras and {len(model.points3D)} points" in capsys.readouterr().out


def test_map_with_estimated_queries(made, model):
    queries = made.scene.split("test")
    write_results(made.root / "results.txt", {queries[0].name: queries[0].cam_from_world})
    assert export(made, "--format", "colmap", "--model", model, "--results", made.root / "results.txt", "--colors", "0") == 0
    found = pycolmap.Reconstruction(str(made.root / "out"))
    assert len(found.points3D) == POINTS and len(found.images) == 7
    assert {image.name for image in found.images.values()} >= {queries[0].name}
    assert all((point.color == 128).all() for point in found.points3D.values())


def test_queries_to_nerfstudio(made):
    assert export(made, "--format", "nerfstudio", *SCENE, "--what", "queries") == 0
    assert files(made) == ["transforms.json"]
    transforms = json.loads((made.root / "out" / "transforms.json").read_text())
    assert len(transforms["frames"]) == 2 == len(transforms["test_filenames"])
    assert len(export_again(made).images) == 2


def export_again(made):
    (made.root / "train.txt").write_text("07.png\n")
    options = AdapterOptions(dataset_dir=made.root / "out", list_train=made.root / "train.txt", list_test=made.root / "test.txt")
    (made.root / "test.txt").write_text("08.png\n")
    return nerfstudio_adapter.load(options).scene


def test_ply_with_and_without_cameras(made, model):
    assert export(made, "--format", "ply", *SCENE) == 0 and files(made) == ["cameras.ply", "points.ply"]
    assert export(made, "--format", "ply", "--model", model, "--frusta", "0", "--overwrite") == 0
    assert files(made) == ["points.ply"]


def test_landmarks_of_a_model_alone(made, model, caplog):
    options = ["export", "--data_dir", str(made.root / "nowhere"), "--format", "colmap", "--model", str(model)]
    assert main([*options, "--out", str(made.root / "out")]) == 0
    found = pycolmap.Reconstruction(str(made.root / "out"))
    assert (len(found.points3D), len(found.images)) == (POINTS, 0)


def test_an_earlier_export_is_replaced_on_request_and_nothing_else_ever(made, capsys):
    assert export(made, "--format", "ply", *SCENE) == 0
    assert export(made, "--format", "colmap", *SCENE) == 2 and "--overwrite" in capsys.readouterr().err
    assert files(made) == ["cameras.ply", "points.ply"]
    assert export(made, "--format", "colmap", *SCENE, "--overwrite") == 0
    assert "points.ply" not in files(made) and "points3D.bin" in files(made)
    (made.root / "out" / "thesis.tex").write_text("years of work")
    assert export(made, "--format", "colmap", *SCENE, "--overwrite") == 2 and "thesis.tex" in capsys.readouterr().err
    assert (made.root / "out" / "thesis.tex").read_text() == "years of work"


def test_a_failed_export_leaves_what_was_there(made, monkeypatch):
    assert export(made, "--format", "colmap", *SCENE) == 0
    before = {path.name: path.read_bytes() for path in (made.root / "out").iterdir()}
    monkeypatch.setattr("d2s.export.colmap._points_3d", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(made, "--format", "colmap", *SCENE, "--overwrite")
    assert {path.name: path.read_bytes() for path in (made.root / "out").iterdir()} == before
    assert not [path for path in made.root.iterdir() if path.name.endswith(".tmp")]


def test_public_checkpoint_becomes_a_model_and_a_model_a_public_checkpoint(made):
    torch.manual_seed(0)
    network = D2SNet(ModelConfig(model=2, blocks=2, width=DIM, heads=4, head_widths=(16, 16)), DIM).eval()
    write_published(made.root / "epoch_012.pth.tar", network, 12)
    assert export(made, "--format", "model", "--checkpoint", made.root / "epoch_012.pth.tar", *SCENE) == 0
    model = load_model(made.root / "out")
    assert (model.info.dataset, model.info.scene, model.info.features) == ("made", "place", SETTINGS)
    assert model.info.extra["published"]["epoch"] == 12 and model.dtype == torch.float32
    d = look()
    features = LocalFeatures(np.zeros((len(d), 2), np.float32), np.ones(len(d), np.float32), d, (200, 150))
    xyz, reliability = model.predict(features)
    with torch.no_grad():
        expected, u = network(torch.from_numpy(d)[None])
    assert np.abs(xyz - expected[0].numpy()).max() < 1e-5
    assert np.abs(reliability - network.reliability(u)[0].numpy()).max() < 1e-5

    options = ["export", "--format", "published", "--model", str(made.root / "out"), "--out", str(made.root / "public")]
    assert main(options) == 0
    back = read_published(made.root / "public" / "made_place_d2s.pth.tar").network
    for name, tensor in network.state_dict().items():
        assert torch.allclose(tensor, back.state_dict()[name], atol=1e-7), name


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--format", "onnx"], "--format onnx needs --model"),
        (["--format", "colmap"], "--scene"),
        (["--format", "colmap", "--dataset", "made", "--scene", "elsewhere"], "d2s preprocess"),
        (["--format", "colmap", *SCENE, "--what", "map"], "--model"),
        (["--format", "published"], "--model"),
        (["--format", "model", *SCENE], "--checkpoint"),
        (["--format", "ply", *SCENE, "--checkpoint", "x.pth.tar"], "--format model"),
        (["--format", "ply", *SCENE, "--voxel", "0"], "--voxel"),
        (["--format", "ply", *SCENE, "--uncer_thres", "2"], "between 0 and 1"),
        (["--format", "ply", *SCENE, "--results", "nowhere.txt"], "nowhere.txt"),
        (["--format", "model", *SCENE, "--checkpoint", "nowhere.pth.tar"], "nowhere.pth.tar"),
    ],
)
def test_wrong_use_is_one_line(made, capsys, options, word):
    assert export(made, *options) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (made.root / "out").exists()


def test_models_of_another_kind_or_place_are_refused(made, model, capsys):
    assert export(made, "--format", "published", "--model", model) == 2 and "model 3" in capsys.readouterr().err
    assert export(made, "--format", "ply", *SCENE, "--model", model, "--what", "scene") == 2
    save_model(made.root / "other", load_model(model).network, ModelInfo("made", "elsewhere", "metres", SETTINGS, 60))
    assert export(made, "--format", "ply", *SCENE, "--model", made.root / "other") == 2
    assert "made/elsewhere" in capsys.readouterr().err
    (made.root / "out").write_text("")
    assert export(made, "--format", "ply", *SCENE) == 2 and "is a file" in capsys.readouterr().err


def test_onnx_without_its_package(made, model, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export(made, "--format", "onnx", "--model", model) == 2
    error = capsys.readouterr().err
    assert "needs the package onnx. Install with: sh scripts/setup.sh onnx." in error and error.count("\n") == 1
