"""D2-Net's training from beginning to end on real photos: SfM points become depth maps in MegaDepth's layout, and every command follows.

The weights are random, with filters that add up to zero and so see contrast, not brightness: enough for the loss to be judged.
benchmarks/d2net_training.py measures the matching with weights of VGG16.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from d2s.cli import main
from d2s.d2net.megadepth import MegaDepthScene
from d2s.features.d2net.network import D2Net
from d2s.features.weights import load_state_dict

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 14
LONGEST = 400


def load_benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def d2s(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def preprocessed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some neighbouring photos of the fox, at half their size, with the SfM points that they share."""
    source = tmp_path_factory.mktemp("fox")
    listed = json.loads((shared_data / "fox" / "transforms.json").read_text())
    frames = [frame for frame in listed["frames"] if (shared_data / "fox" / frame["file_path"]).is_file()][:PHOTOS]
    (source / "images").mkdir()
    for frame in frames:
        photo = cv2.imread(str(shared_data / "fox" / frame["file_path"]))
        cv2.imwrite(str(source / frame["file_path"]), cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    halved = {key: listed[key] / 2 for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    (source / "transforms.json").write_text(json.dumps({**listed, **halved, "frames": frames}))
    out = tmp_path_factory.mktemp("scene")
    where = ["--dataset", "nerfstudio", "--dataset_dir", source, "--scene", "fox", "--out_dir", out]
    d2s("preprocess", *where, "--features", "sift", "--num_keypoints", 1500, "--cudaid", -1)
    return out / "nerfstudio" / "fox"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = D2Net().state_dict()
    generator = torch.Generator().manual_seed(2)
    for tensor in state.values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01, generator=generator)
        if tensor.ndim == 4:
            tensor -= tensor.mean(dim=(1, 2, 3), keepdim=True)
    path = tmp_path_factory.mktemp("weights") / "d2_random.pth"
    torch.save({"model": state}, path)
    return path


def test_from_photos_to_trained_features(preprocessed: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = MegaDepthScene(tmp_path / "megadepth", "0000")
    names = [image["name"] for image in json.loads((preprocessed / "scene.json").read_text())["images"] if image["split"] == "train"]
    depth = load_benchmark("real_megadepth").make_scene(scene, preprocessed, names, LONGEST)
    assert depth["photos"] == len(names) > 0.6 * PHOTOS and depth["share_with_depth"] > 0.15
    assert depth["left_out_points"] > 300 and depth["median_relative_error"] < 0.01 and depth["share_within_5_percent"] > 0.9

    d2s("d2net", "undistort", "--base_path", "megadepth")
    d2s("d2net", "prepare", "--base_path", "megadepth", "--output_path", "info")
    with np.load("info/0000.npz") as info:
        assert (info["depth_paths"] != "").all() and (info["overlap_matrix"] > 0.2).sum() > 2 * PHOTOS

    Path("scenes.txt").write_text("0000\n")
    sizes = ["--crop_size", 128, "--min_overlap", 0.2, "--min_correspondences", 40, "--pairs_per_scene", 10, "--num_epochs", 2]
    scenes = ["--train_scenes", "scenes.txt", "--valid_scenes", "scenes.txt", "--validation_pairs", 5, "--use_validation"]
    where = ["--dataset_path", "megadepth", "--scene_info_path", "info", "--model_file", model_file]
    d2s("d2net", "train", *where, *scenes, *sizes, "--num_workers", 0, "--visdom", "off", "--cudaid", -1)
    losses = load_state_dict(Path("checkpoints/d2.02.pth"))["validation_loss_history"]
    # Untrained it is 0.79 or 0.85: which matches the depths rest on depends on the arithmetic of the CPU.
    assert losses[0] > 0.75 and losses[2] < 0.85 * losses[0]

    photo = next((scene.undistorted / "images").glob("*.jpg"))
    Path("list.txt").write_text(f"{photo}\n")
    d2s("d2net", "extract", "--image_list_file", "list.txt", "--model_file", "checkpoints/d2.best.pth", "--max_edge", 200, "--cudaid", -1)
    with np.load(f"{photo}.d2-net") as found:
        assert len(found["keypoints"]) > 50
