"""Local features on real photos with known poses: time, number of matches, and how well they agree with the poses.

    python benchmarks/features.py --dataset_dir DATA --scene redkitchen --out features.json

DATA/7scenes/SCENE needs `pgt_sfm.txt` (`name qw qx qy qz tx ty tz f`) and the images. Times are CPU seconds of one thread, so that they can
be compared on a busy machine. Features whose weights are not on this machine are left out. ALIKED and DISK are also timed as kornia runs
them. Nothing runs in bf16: measured on a CPU with avx512_bf16, it gains 5 ms of 260 for ALIKED, 1.3x for DISK at the price of other
keypoints (14 % differ), and 2x for SuperPoint, whose accuracy cannot be judged without its weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.features.table import FEATURES, make_extractor
from d2s.features.weights import find_weights, load_state_dict
from d2s.geometry.pose import rotation_from_qvec

GAPS = (15, 50)  # frames between the two images of a pair


def read_poses(scene: Path) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Rotation, translation (camera from world) and focal length by image name, in order."""
    if not (scene / "pgt_sfm.txt").is_file():
        raise InputError(f"{scene / 'pgt_sfm.txt'} does not exist.", "Give --dataset_dir and --scene of a 7-Scenes folder.")
    poses = {}
    for line in sorted((scene / "pgt_sfm.txt").read_text().splitlines()):
        name, *values = line.split()
        numbers = np.array(values, float)
        if (scene / name).is_file():
            poses[name] = (rotation_from_qvec(numbers[:4]), numbers[4:7], float(numbers[7]))
    return poses


def mutual_nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similarity = a @ b.T
    forward, backward = similarity.argmax(axis=1), similarity.argmax(axis=0)
    rows = np.flatnonzero(backward[forward] == np.arange(len(a)))
    return rows, forward[rows]


def epipolar_errors(a: np.ndarray, b: np.ndarray, pose_a: Any, pose_b: Any, size: tuple[int, int]) -> np.ndarray:
    """Distance of matched keypoints (N, 2) from each other's epipolar line, in pixels (root mean square of both images)."""
    (rotation_a, t_a, focal), (rotation_b, t_b, _) = pose_a, pose_b
    rotation = rotation_b @ rotation_a.T
    x, y, z = t_b - rotation @ t_a
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    centre = (np.array(size) - 1) / 2
    p, q = (np.c_[(points - centre) / focal, np.ones(len(points))] for points in (a, b))
    in_b, in_a = p @ essential.T, q @ essential
    product = np.abs((q * in_b).sum(axis=1)) * focal
    return product * np.sqrt(0.5 / (in_b[:, :2] ** 2).sum(axis=1) + 0.5 / (in_a[:, :2] ** 2).sum(axis=1))


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median processor time of one call, after one for warming up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times))


def dense_reference(name: str, num_keypoints: int) -> Callable[[np.ndarray], object] | None:
    """How kornia itself runs a feature, for comparison."""
    path = find_weights(name) if name in ("aliked", "disk") else None
    if path is None:
        return None
    from kornia.feature import DISK
    from kornia.feature.aliked import ALIKED

    state = load_state_dict(path)
    if name == "disk":
        disk = DISK().eval()
        disk.load_state_dict(state["extractor"])
        return lambda image: disk(_batch(image), n=num_keypoints, pad_if_not_divisible=True)
    aliked = ALIKED("aliked-n16", max_num_keypoints=num_keypoints, detection_threshold=0.0).eval()
    aliked.load_state_dict(state, strict=False)
    return lambda image: aliked(_batch(image))


def _batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def measure(name: str, scene: Path, num_pairs: int, num_keypoints: int) -> dict[str, Any]:
    """One row of the table."""
    poses = read_poses(scene)
    names = list(poses)
    starts = np.linspace(0, len(names) - 1 - max(GAPS), num_pairs // len(GAPS)).astype(int)
    pairs = [(names[k], names[k + gap]) for k in starts for gap in GAPS]
    extractor = make_extractor(name, num_keypoints)
    found: dict[str, LocalFeatures] = {
        n: extractor.extract([read_image(scene / n)])[0] for n in sorted({n for pair in pairs for n in pair})
    }
    errors = []
    for first, second in pairs:
        a, b = found[first], found[second]
        rows_a, rows_b = mutual_nearest(a.descriptors, b.descriptors)
        errors.append(epipolar_errors(a.keypoints[rows_a], b.keypoints[rows_b], poses[first], poses[second], a.image_size))
    image, all_errors = read_image(scene / names[0]), np.concatenate(errors)
    row = {
        "feature": name,
        "image_size": list(found[pairs[0][0]].image_size),
        "pairs": len(pairs),
        "keypoints": float(np.mean([len(f) for f in found.values()])),
        "matches_per_pair": len(all_errors) / len(pairs),
        "within_1px": float((all_errors < 1).mean()),
        "within_2px": float((all_errors < 2).mean()),
        "good_matches_per_pair": float((all_errors < 2).sum() / len(pairs)),
        "cpu_seconds": cpu_seconds(lambda: extractor.extract([image])),
        "settings": extractor.settings(),
    }
    reference = dense_reference(name, num_keypoints)
    if reference is not None:
        with torch.inference_mode():
            row["cpu_seconds_kornia"] = cpu_seconds(lambda: reference(image))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--scene", default="redkitchen")
    parser.add_argument("--features", nargs="+", default=list(FEATURES), choices=list(FEATURES))
    parser.add_argument("--num_keypoints", type=int, default=2048)
    parser.add_argument("--num_pairs", type=int, default=12)
    parser.add_argument("--out", type=Path, default=None, help="write the rows as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    print(f"{'feature':<16}{'keypoints':>10}{'matches':>9}{'< 1 px':>8}{'< 2 px':>8}{'good':>7}{'CPU s':>8}{'kornia':>8}")
    for name in args.features:
        if FEATURES[name].weights is not None and find_weights(name) is None:
            print(f"{name:<16}left out: weights not on this machine")
            continue
        row = measure(name, args.dataset_dir / "7scenes" / args.scene, args.num_pairs, args.num_keypoints)
        rows.append(row)
        kornia = f"{row['cpu_seconds_kornia']:.2f}" if "cpu_seconds_kornia" in row else "-"
        print(
            f"{name:<16}{row['keypoints']:>10.0f}{row['matches_per_pair']:>9.0f}{row['within_1px']:>8.1%}{row['within_2px']:>8.1%}"
            f"{row['good_matches_per_pair']:>7.0f}{row['cpu_seconds']:>8.2f}{kornia:>8}"
        )
    if args.out:
        args.out.write_text(
            json.dumps({"versions": {"torch": torch.__version__, "opencv": cv2.__version__}, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
