"""Seconds and memory of D2-Net's extraction at 1200 x 1600, against whole maps of all channels, each in a process of its own.

    python benchmarks/d2net.py [--image FILE] [--weights FILE]

The straightforward way is section 3 of the paper written down as it stands: local maxima, derivatives by 3x3 convolutions, edges and
displacements for every channel of every cell. Both use the same weights (random ones unless given) and one thread. Their keypoints are
compared, too; rounding differs, since ours keeps channels together in memory. On a busy machine only the CPU seconds can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from d2s.features.d2net.network import D2Net
from d2s.features.d2net.preprocessing import normalise
from d2s.features.images import read_image
from d2s.features.table import make_extractor
from d2s.features.weights import load_state_dict

RESULTS = Path(__file__).parent / "results" / "d2net.json"
SIZE = (1600, 1200)
WAYS = ("ours", "straightforward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, default=None, help="photo (default: a made picture)")
    parser.add_argument("--weights", type=Path, default=None, help="checkpoint of D2-Net (default: random)")
    parser.add_argument("--way", choices=WAYS, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--keypoints", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, picture(args.image), args.weights, args.keypoints)))
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights or random_weights(Path(folder) / "random.pth")
        files = {way: Path(folder) / f"{way}.npy" for way in WAYS}
        rows = {way: run(way, args.image, weights, file) for way, file in files.items()}
        shared = common(*(np.load(file) for file in files.values()))
    report(rows, shared, args)


def run(way: str, image: Path | None, weights: Path, keypoints: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--way",
        way,
        "--weights",
        str(weights),
        "--keypoints",
        str(keypoints),
        *(("--image", str(image)) if image else ()),
    ]
    result = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    print(f"{way:<16}{row['cpu_seconds']:7.1f} s CPU{row['wall_seconds']:7.1f} s{row['peak_gb']:6.2f} GB{row['keypoints']:7d} keypoints")
    return row


def common(a: np.ndarray, b: np.ndarray) -> float:
    """Share of keypoints (N, 2) that the others have within 0.01 px."""
    distance = [np.abs(b - point).max(axis=1).min() for point in a]
    return float(np.mean(np.array(distance) < 0.01))


def report(rows: dict[str, dict[str, Any]], shared: float, args: argparse.Namespace) -> None:
    ours, other = (rows[way] for way in WAYS)
    ratios = {key: round(ours[key] / other[key], 3) for key in ("cpu_seconds", "wall_seconds", "peak_gb")}
    print(f"ratios: time {ratios['cpu_seconds']} (CPU), {ratios['wall_seconds']} (wall); memory {ratios['peak_gb']}")
    print(f"keypoints of ours that the other has: {shared:.4f}")
    inputs = {"image": args.image.name if args.image else "made", "weights": args.weights.name if args.weights else "random"}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    found = {
        "size": list(SIZE),
        **inputs,
        "threads": 1,
        "shared_keypoints": round(shared, 4),
        "ratios": ratios,
        **rows,
        "versions": versions,
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def random_weights(path: Path) -> Path:
    state = D2Net().state_dict()
    generator = torch.Generator().manual_seed(0)
    for tensor in state.values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01, generator=generator)
    torch.save({"model": state}, path)
    return path


def picture(path: Path | None) -> np.ndarray:
    """(1200, 1600, 3) RGB uint8."""
    if path is not None:
        return np.asarray(cv2.resize(read_image(path), SIZE, interpolation=cv2.INTER_AREA))
    rng = np.random.default_rng(0)
    return np.asarray(cv2.resize(rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8), SIZE))


def measure(way: str, image: np.ndarray, weights: Path, keypoints_file: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    if way == "ours":
        extractor = make_extractor("d2net", 1_000_000, weights=weights, coordinates="legacy")

        def work() -> np.ndarray:
            return extractor.extract([image])[0].keypoints
    else:
        network = D2Net()
        network.load_state_dict(load_state_dict(weights)["model"])

        def work() -> np.ndarray:
            return straightforward(network, normalise(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], "caffe"))

    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        keypoints = work()
    seconds = {"wall_seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    np.save(keypoints_file, keypoints)
    return {**seconds, "peak_gb": round(peak, 3), "keypoints": len(keypoints)}


def straightforward(network: D2Net, image: Tensor) -> np.ndarray:
    """Keypoints (N, 2) x, y, in published coordinates."""
    features = network.dense_feature_extraction.model(image).relu_()[0]
    detected = detections(features)
    step = displacements(features)
    channel, row, column = torch.nonzero(detected, as_tuple=True)
    move = step[:, channel, row, column]
    places = torch.stack([row, column]) + move
    last = torch.tensor([[features.shape[1] - 1.0], [features.shape[2] - 1.0]])
    kept = (move.abs() < 0.5).all(dim=0) & (places >= 0).all(dim=0) & (places <= last).all(dim=0)
    places = places[:, kept]
    describe(features, places)
    return (4 * places + 1.5).T.flip(1).numpy()


def stencil(features: Tensor, weights: list[list[float]]) -> Tensor:
    """One 3x3 filter on every channel."""
    return functional.conv2d(features[:, None], torch.tensor(weights, dtype=torch.float32)[None, None], padding=1)[:, 0]


def second_derivatives(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = stencil(features, [[0, 1, 0], [0, -2, 0], [0, 1, 0]])
    columns = stencil(features, [[0, 0, 0], [1, -2, 1], [0, 0, 0]])
    return rows, columns, stencil(features, [[0.25, 0, -0.25], [0, 0, 0], [-0.25, 0, 0.25]])


def detections(features: Tensor) -> Tensor:
    strongest = features == features.amax(dim=0)
    highest = features == functional.max_pool2d(features[None], 3, stride=1, padding=1)[0]
    ii, jj, ij = second_derivatives(features)
    determinant, trace = ii * jj - ij * ij, ii + jj
    del ii, jj, ij
    return strongest & highest & (determinant > 0) & (trace * trace / determinant <= 7.2)


def displacements(features: Tensor) -> Tensor:
    ii, jj, ij = second_derivatives(features)
    determinant = ii * jj - ij * ij
    di = stencil(features, [[0, -0.5, 0], [0, 0, 0], [0, 0.5, 0]])
    dj = stencil(features, [[0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]])
    return torch.stack([ij * dj - jj * di, ij * di - ii * dj]) / determinant


def describe(features: Tensor, places: Tensor) -> Tensor:
    top, left = places.floor().long()
    bottom, right = places.ceil().long()
    a, b = places - places.floor()
    upper = features[:, top, left] * (1 - a) * (1 - b) + features[:, top, right] * (1 - a) * b
    lower = features[:, bottom, left] * a * (1 - b) + features[:, bottom, right] * a * b
    return functional.normalize(upper + lower, dim=0)


if __name__ == "__main__":
    main()
