"""Does the training of D2-Net work on real photos? From SfM points to a miniature MegaDepth, through the commands of `d2s d2net`, to MMA.

    python benchmarks/d2net_training.py --scene 0000=DIR:0:480:4 0001=DIR --held_out 0002=DIR --weights FILE --folder DIR --others sift

DIR is a scene that `d2s preprocess` made; what follows are the first, the end and the step of its photos by name. The scenes are laid out
like MegaDepth (real_megadepth.py), then undistorted, prepared and trained on with the real commands, which go on where they were killed.
Measured on the held-out scenes before and after: the loss, and the share of mutual nearest neighbours that depth confirms (MMA). What the
positions of keypoints do to it, is told from what descriptors do: `near` is the share of the matches within 10 px, `repeated` that of the
keypoints that have any keypoint there, right or wrong. `half` is the trained one on photos of half the size: its cells are twice as large.
--others are features that show what depth can confirm at all. Weights are those that training begins with: VGG16 as trained on ImageNet.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from real_megadepth import make_scene
from scipy.spatial import KDTree

from d2s.cli import run_module
from d2s.d2net.correspondences import warp
from d2s.d2net.matching_accuracy import THRESHOLDS, mutual_matches, share_within
from d2s.d2net.megadepth import MegaDepthScene
from d2s.d2net.megadepth_data import Photo, load_crop
from d2s.d2net.megadepth_undistort import read_model
from d2s.d2net.scene_info import SceneInfo
from d2s.features.images import read_image
from d2s.features.table import make_extractor
from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "d2net_training.json"
LONGEST = 640  # longer side of the photos, pixels
OVERLAP = 0.3  # of pairs to train on: few reach the published 0.5 here
HELD_OUT_OVERLAP = (0.15, 0.6)  # of pairs to measure on
HELD_OUT_PAIRS = 12  # per scene
TOLERANCE = 0.05  # by which depths may differ where a match can be judged
NEAR = 10.0  # pixels: matches farther off are wrong ones
OTHERS_KEYPOINTS = 1000  # about as many as D2-Net has


@dataclass(frozen=True)
class Points:
    """Keypoints: pixels (N, 2), descriptors (N, D)."""

    pixels: NDArray[np.float64]
    descriptors: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Some photos of a preprocessed scene."""

    name: str
    folder: Path
    photos: slice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=part, nargs="+", required=True, help="to train on")
    parser.add_argument("--held_out", type=part, nargs="+", required=True, help="to measure on")
    parser.add_argument("--weights", type=Path, required=True, help="VGG16, or another start")
    parser.add_argument("--folder", type=Path, required=True, help="of everything that is made; kept")
    parser.add_argument("--others", nargs="*", default=[], help="features to compare with")
    parser.add_argument("--pairs_per_scene", type=int, default=100)
    parser.add_argument("--num_epochs", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    torch.set_num_threads(1)
    root, infos = args.folder / "megadepth", args.folder / "info"
    depth = {part.name: lay_out(root, part) for part in [*args.scene, *args.held_out]}
    command("undistort", "--base_path", root)
    command("prepare", "--base_path", root, "--output_path", infos)
    trained, losses = train(args, root, infos)
    accuracy = {}
    for scene in args.held_out:
        pairs = held_out_pairs(root, SceneInfo.load(infos / f"{scene.name}.npz"))
        ways = {"start": (args.weights, 1), "trained": (trained, 1), "half": (trained, 0.5)}
        rows = {name: measure(pairs, d2net_features(pairs, name, *way, args.folder / "images.txt")) for name, way in ways.items()}
        rows |= {name: measure(pairs, other_features(pairs, name)) for name in args.others}
        accuracy[scene.name] = {"pairs": len(pairs), **rows}
        print(scene.name, {name: {limit: row["mma"][limit] for limit in ("1", "3", "5", "10")} for name, row in rows.items()})
    inputs = {"weights": args.weights.name, "train": sources(args.scene), "held_out": sources(args.held_out)}
    sizes = {"pairs_per_scene": args.pairs_per_scene, "num_epochs": args.num_epochs, "min_overlap": OVERLAP, "longest_px": LONGEST}
    write_json(RESULTS, {**inputs, **sizes, "depth": depth, "losses": losses, "accuracy": accuracy, "versions": versions()})


def part(text: str) -> Part:
    name, _, rest = text.partition("=")
    folder, *limits = rest.split(":")
    return Part(name, Path(folder), slice(*(int(limit) if limit else None for limit in limits)) if limits else slice(None))


def sources(parts: Sequence[Part]) -> dict[str, str]:
    """Which photos of which place a scene has."""
    return {
        part.name: f"{part.folder.name}, photos {part.photos.start or 0}:{part.photos.stop or ''}:{part.photos.step or 1}" for part in parts
    }


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}


def lay_out(root: Path, part: Part) -> dict[str, float]:
    """The scene in MegaDepth's layout, unless it is there; gives what `make_scene` says of its depth."""
    record = root / f"{part.name}.json"
    if not record.is_file():
        names = sorted(image.name for image in read_model(part.folder / "sfm").images.values())[part.photos]
        write_json(record, make_scene(MegaDepthScene(root, part.name), part.folder, names, LONGEST))
    return dict(read_json(record))


def command(*words: object) -> None:
    """One of the actions of `d2s d2net`."""
    code = run_module("d2net", [str(word) for word in words])
    if code:
        raise SystemExit(code)


def train(args: argparse.Namespace, root: Path, infos: Path) -> tuple[Path, dict[str, Any]]:
    """The checkpoint after the last epoch, and the losses."""
    folder = args.folder / "checkpoints"
    lists = {"train": args.scene, "valid": args.held_out}
    for name, parts in lists.items():
        (args.folder / f"{name}.txt").write_text(" ".join(part.name for part in parts) + "\n")
    scenes = [word for name in lists for word in (f"--{name}_scenes", args.folder / f"{name}.txt")]
    sizes = ["--min_overlap", OVERLAP, "--pairs_per_scene", args.pairs_per_scene, "--num_epochs", args.num_epochs]
    files = ["--checkpoint_directory", folder, "--log_file", args.folder / "log.txt", "--log_interval", 20, "--save_interval", 50]
    rest = ["--model_file", args.weights, "--use_validation", "--num_workers", 0, "--visdom", "off"]
    command("train", "--dataset_path", root, "--scene_info_path", infos, *scenes, *sizes, *files, *rest)
    return folder / f"d2.{args.num_epochs:02d}.pth", read_losses(folder / "d2.metrics.jsonl")


def read_losses(path: Path) -> dict[str, Any]:
    """Validation losses before and after each epoch, and mean losses of the training's batches between lines of the log."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "step"]
    means, last = [], {"epoch": 0, "step": 0, "loss": 0.0}
    for record in steps:
        first = record["epoch"] != last["epoch"]
        begin, total = (0, 0.0) if first else (last["step"], last["step"] * last["loss"])
        means.append(round((record["step"] * record["loss"] - total) / (record["step"] - begin), 4))
        last = record
    return {
        "steps": steps[-1]["total_steps"],
        "validation": [round(record["validation_loss"], 4) for record in records if record["kind"] == "validation"],
        "training": means,
    }


def held_out_pairs(root: Path, info: SceneInfo) -> list[tuple[Photo, Photo]]:
    """Pairs by chance, always the same."""
    low, high = HELD_OUT_OVERLAP
    pairs = np.argwhere((info.overlap_matrix >= low) & (info.overlap_matrix <= high))
    chosen = np.random.default_rng(0).permutation(len(pairs))[:HELD_OUT_PAIRS]
    return [(photo(root, info, one), photo(root, info, two)) for one, two in pairs[np.sort(chosen)].tolist()]


def photo(root: Path, info: SceneInfo, number: int) -> Photo:
    paths = root / str(info.image_paths[number]), root / str(info.depth_paths[number])
    return Photo(*paths, info.intrinsics[number], info.poses[number], (0.0, 0.0))


def images_of(pairs: Sequence[tuple[Photo, Photo]]) -> list[Path]:
    return sorted({photo.image for pair in pairs for photo in pair})


def d2net_features(pairs: Sequence[tuple[Photo, Photo]], name: str, weights: Path, scale: float, listed: Path) -> dict[Path, Points]:
    """Those of `d2s d2net extract`, kept beside the photos under the name."""
    images = images_of(pairs)
    listed.write_text("\n".join(map(str, images)) + "\n")
    files = ["--image_list_file", listed, "--output_extension", f".{name}", "--skip_existing"]
    command("extract", *files, "--model_file", weights, "--scales", scale)
    found = {image: np.load(f"{image}.{name}") for image in images}
    return {image: Points(arrays["keypoints"][:, :2].astype(np.float64), arrays["descriptors"]) for image, arrays in found.items()}


def other_features(pairs: Sequence[tuple[Photo, Photo]], name: str) -> dict[Path, Points]:
    extractor = make_extractor(name, OTHERS_KEYPOINTS, "cpu")
    found = {image: extractor.extract([read_image(image)])[0] for image in images_of(pairs)}
    return {image: Points(features.keypoints.astype(np.float64), features.descriptors) for image, features in found.items()}


def measure(pairs: Sequence[tuple[Photo, Photo]], features: dict[Path, Points]) -> dict[str, Any]:
    """MMA with its standard error over pairs, and matches per pair that depth can judge."""
    judged = [judge(one, two, features[one.image], features[two.image]) for one, two in pairs]
    shares = np.stack([share_within(errors) for errors, _ in judged])
    errors = shares.std(axis=0, ddof=1) / len(shares) ** 0.5
    return {
        "keypoints": float(np.mean([len(points.pixels) for points in features.values()])),
        "matches": float(np.mean([len(errors) for errors, _ in judged])),
        "mma": by_pixels(shares.mean(axis=0)),
        "mma_error": by_pixels(errors),
        "near": by_pixels(np.mean([share_within(errors[errors <= NEAR]) for errors, _ in judged], axis=0)),
        "repeated": by_pixels(np.mean([share_within(nearest) for _, nearest in judged], axis=0)),
    }


def by_pixels(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(map(str, THRESHOLDS), values.round(4).tolist(), strict=True))


def judge(one: Photo, two: Photo, first: Points, second: Points) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far (K,) from where depth says it should be a match is in the second photo, and (M,) the keypoint that is nearest to there."""
    views = [load_crop(photo, LONGEST).view for photo in (one, two)]
    expected, seen = (part.numpy() for part in warp(torch.from_numpy(first.pixels), views[0], views[1], tolerance=TOLERANCE))
    rows, columns = mutual_matches(first.descriptors, second.descriptors).T
    errors = np.linalg.norm(expected[rows] - second.pixels[columns], axis=1)[seen[rows]]
    nearest, _ = KDTree(second.pixels).query(expected[seen])
    return errors, np.asarray(nearest, np.float64)


if __name__ == "__main__":
    main()
