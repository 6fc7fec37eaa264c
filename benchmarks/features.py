"""Every local feature on real photos with known poses: time, matches, how well they agree with the poses, and the whole recipe.

    python benchmarks/features.py --data_dir DATA [--features xfeat …] [--weights d2net=FILE]     # pairs of photos, and the time
    python benchmarks/features.py --data_dir DATA --recipe [--work DIR] [--features …]            # the whole recipe, on the fox
    python benchmarks/features.py --page                                                         # the table of docs/features.md

Writes benchmarks/results/features.json and the table; a row that is measured again replaces the old one. DATA/7scenes/SCENE needs
`pgt_sfm.txt` (`name qw qx qy qz tx ty tz f`) and the images, DATA/fox `transforms.json`. Times are CPU seconds of one thread; the recipe
trains a fixed number of steps (about a minute of one thread), so that a busy machine tells the same. Features whose weights are not on this
machine are left out. ALIKED and DISK are also timed as kornia runs them. Nothing runs in bf16: measured on a CPU with avx512_bf16, it gains
5 ms of 260 for ALIKED, 1.3x for DISK and SuperPoint at the price of other keypoints (14 and 10 % differ).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from d2s.commands.memory import keep_freed_memory
from d2s.errors import InputError
from d2s.evaluation.matching_baseline import extract_queries
from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.features.table import FEATURES, make_extractor
from d2s.features.weights import find_weights, load_state_dict
from d2s.geometry.pose import rotation_from_qvec
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import Scene

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
import accuracy
import baselines
from page import replaced

RESULTS = Path(__file__).parent / "results" / "features.json"
PAGE = Path(__file__).parents[1] / "docs" / "features.md"
BEGIN, END = "<!-- benchmarks/features.py --page -->\n", "<!-- end -->"
GAPS = (15, 50)  # frames between the two images of a pair
STEPS = 200
COLUMNS = (
    "feature",
    "numbers",
    "CPU time of 640x480",
    "matches of a pair",
    "of them within 1, 2 px",
    "fox: labels of an image",
    "fox: **d2s**, map",
    "fox: matching, map",
)


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


def measure_pairs(name: str, weights: Path | None, scene: Path, num_pairs: int, num_keypoints: int) -> dict[str, Any]:
    """Time and matches of one feature."""
    poses = read_poses(scene)
    names = list(poses)
    starts = np.linspace(0, len(names) - 1 - max(GAPS), num_pairs // len(GAPS)).astype(int)
    pairs = [(names[k], names[k + gap]) for k in starts for gap in GAPS]
    extractor = make_extractor(name, num_keypoints, weights=weights)
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
        "image_size": list(found[pairs[0][0]].image_size),
        "descriptor_dim": extractor.descriptor_dim,
        "pairs": len(pairs),
        "keypoints": float(np.mean([len(f) for f in found.values()])),
        "matches_per_pair": len(all_errors) / len(pairs),
        "within_1px": float((all_errors < 1).mean()),
        "within_2px": float((all_errors < 2).mean()),
        "good_matches_per_pair": float((all_errors < 2).sum() / len(pairs)),
        "cpu_seconds": cpu_seconds(lambda: extractor.extract([image])),
        "settings": extractor.settings(),
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
    }
    reference = dense_reference(name, num_keypoints)
    if reference is not None:
        with torch.inference_mode():
            row["cpu_seconds_kornia"] = cpu_seconds(lambda: reference(image))
    return row


def measure_recipe(name: str, weights: Path | None, source: Path, work: Path) -> dict[str, Any]:
    """The fox, preprocessed and trained with the commands of a user, and matching on the same features and labels."""
    row = f"fox-{name}"
    where = ["--dataset", "nerfstudio", "--scene", "fox"]
    file = [] if weights is None else ["--weights", str(weights)]
    scenes, runs = work / row / "dataset", work / row / "logs"
    made = ["--dataset_dir", str(source), "--out_dir", str(scenes), "--features", name, "--test_every", "5", *file]
    accuracy.run(row, "preprocess", [*where, *made], work)
    trained = [*where, "--data_dir", str(scenes), "--log_dir", str(runs), "--name", row]
    steps = ["--set", f"training.n_iters={STEPS}", "--max_minutes", "1000"]
    accuracy.run(row, "train", [*trained, "--seed", "0", *steps], work)
    folder, queries = scenes / "nerfstudio" / "fox", work / row / "queries.h5"
    scene = Scene.load(folder)
    extract_queries(scene, scene.split("test"), queries, weights)
    ours, rivals = baselines.measure_model(folder, queries, runs / row / "model"), baselines.measure(folder, queries)
    return {
        "steps": STEPS,
        "labels_per_image": read_json(folder / "report.json")["labels_per_image"]["median"],
        "d2s": accuracy.brief(ours),
        "matching": accuracy.brief(rivals["matching"]),
        "landmarks 5 MB": accuracy.brief(rivals["landmarks 5 MB"]),
        "settings": scene.features["settings"],
    }


def with_table(page: str, rows: Mapping[str, Any]) -> str:
    """The page with the table of these rows between its two marks."""
    return replaced(page, BEGIN, END, table(rows))


def table(rows: Mapping[str, Any]) -> str:
    """A line for every feature that was measured, in the order of the features' table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(name, rows[name]) for name in FEATURES if name in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    pairs, recipe = row.get("pairs"), row.get("recipe")
    note = f" ({row['note']})" if row.get("note") else ""
    first = f"`{name}`{note}", str(FEATURES[name].descriptor_dim)
    time_and_matches, fox = ("",) * 3, ("",) * 3
    if pairs:
        within = f"{100 * pairs['within_1px']:.0f} %, {100 * pairs['within_2px']:.0f} %"
        time_and_matches = f"{1e3 * pairs['cpu_seconds']:.0f} ms", f"{pairs['matches_per_pair']:.0f}", within
    if recipe:
        fox = f"{recipe['labels_per_image']:.0f}", _fox(recipe["d2s"]), _fox(recipe["matching"])
    return (*first, *time_and_matches, *fox)


def _fox(metrics: Mapping[str, Any]) -> str:
    error, _ = accuracy.accuracy_of(metrics)
    fine = metrics["recall_relative"]["0.4%2deg"]
    return f"{error}; {100 * fine:.0f} % within 0.4 %, 2°; {metrics['map_bytes'] / 1e6:.1f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen features one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="folder with 7scenes/ and fox/")
    parser.add_argument("--scene", default="redkitchen", help="of 7scenes/ (default: redkitchen)")
    parser.add_argument("--features", nargs="+", default=list(FEATURES), choices=list(FEATURES), help="default: all")
    parser.add_argument("--weights", nargs="+", default=(), metavar="NAME=FILE", help="weights that are not found by themselves")
    parser.add_argument(
        "--note", default="", help="what the table says of the weights of the chosen features, where they are not the published ones"
    )
    parser.add_argument("--num_keypoints", type=int, default=2048)
    parser.add_argument("--num_pairs", type=int, default=12)
    parser.add_argument(
        "--recipe", action="store_true", help="preprocess and train the fox and localize its queries, in place of the pairs"
    )
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where scenes and runs of --recipe go")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of the rows (default: benchmarks/results/features.json)")
    parser.add_argument("--page", action="store_true", help="only write the table into docs/features.md")
    args = parser.parse_args(argv)
    if not args.page:
        if args.data_dir is None:
            parser.error("--data_dir is needed to measure")
        _measure(args)
    if args.page or args.out == RESULTS:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_json(args.out)["rows"]), encoding="utf-8")
    return 0


def _measure(args: argparse.Namespace) -> None:
    keep_freed_memory()  # as the d2s commands do
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    given = {name: Path(file).resolve() for name, _, file in (text.partition("=") for text in args.weights)}
    for name in args.features:
        if FEATURES[name].weights is not None and name not in given and find_weights(name) is None:
            print(f"{name}: left out, its weights are not on this machine")
            continue
        if args.recipe:
            part = {"recipe": measure_recipe(name, given.get(name), args.data_dir.resolve() / "fox", args.work.resolve())}
        else:
            scene = args.data_dir / "7scenes" / args.scene
            part = {"pairs": measure_pairs(name, given.get(name), scene, args.num_pairs, args.num_keypoints)}
        rows = read_json(args.out)["rows"] if args.out.is_file() else {}
        row = {**rows.get(name, {}), **part, **({"note": args.note} if args.note else {})}
        write_json(args.out, {"rows": {**rows, name: row}})
        print(" | ".join(_cells(name, row)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
