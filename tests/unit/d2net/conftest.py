"""Random weights of D2-Net in a file, miniature kapture trees, and a miniature MegaDepth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from d2s.cli import run_module
from d2s.features.d2net.network import D2Net

from .miniature_megadepth import make_megadepth


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the published layout."""
    state = D2Net().state_dict()
    generator = torch.Generator().manual_seed(2)
    for tensor in state.values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "d2_random.pth"
    torch.save({"model": state}, path)
    return path


def texture(width: int, height: int, seed: int) -> np.ndarray:
    """A random picture with structure at several scales."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8), (width, height))
    return cv2.addWeighted(image, 0.7, rng.integers(0, 256, image.shape, dtype=np.uint8), 0.3, 0)


IMAGES = ("mapping/cam 0/000.jpg", "mapping/cam 0/001.png", "query.jpg", "mapping/cam1/000.jpg", "z.jpg")


@pytest.fixture(scope="session")
def tree_maker() -> Callable[[Path], Path]:
    """Makes the kapture tree in a new folder."""
    return lambda root: make_tree(root, IMAGES)


@pytest.fixture
def kapture_root(tmp_path: Path) -> Path:
    """A kapture tree with comments and loose spaces in its tables."""
    return make_tree(tmp_path / "tree", IMAGES)


def make_tree(root: Path, images: tuple[str, ...]) -> Path:
    (root / "sensors").mkdir(parents=True)
    (root / "sensors" / "sensors.txt").write_text(
        "# kapture format: 1.1\n# sensor_id, name, sensor_type, [sensor_params]+\ncam0, , camera, SIMPLE_PINHOLE, 64, 48, 60, 32, 24\n"
    )
    rows = [f"{k} ,cam0,  {name}" for k, name in enumerate(images)]
    (root / "sensors" / "records_camera.txt").write_text(
        "\n".join(["# kapture format: 1.1", "# timestamp, device_id, image_path", *rows, ""])
    )
    for k, name in enumerate(images):
        path = root / "sensors" / "records_data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), texture(64, 48, k))
    return root


@pytest.fixture(scope="session")
def megadepth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a miniature MegaDepth of one scene, undistorted, and prepared in `info`; not to be changed."""
    root = tmp_path_factory.mktemp("megadepth")
    make_megadepth(root)
    assert run_module("d2net", ["undistort", "--base_path", str(root)]) == 0
    assert run_module("d2net", ["prepare", "--base_path", str(root), "--output_path", str(root / "info"), "--min_depth_kb", "10"]) == 0
    return root
