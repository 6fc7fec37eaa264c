"""Whether hloc and the native path give the same labels and accuracy, and what labelling costs.

    python benchmarks/hloc_labels.py --dataset_dir DIR --out benchmarks/results/hloc_labels.json [--timed_scene OUT_DIR/7scenes/redkitchen]

Needs hloc, installed or cloned into third_party/, and a scene of 7scenes. Three ways to labels of the same keypoints are compared: hloc
(its matcher and triangulation), the native triangulation of hloc's matches, and the native path with its own matches. Prints a table and
writes JSON.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pycolmap  # noqa: E402

from d2s.commands import eval as evaluation  # noqa: E402
from d2s.commands import train  # noqa: E402
from d2s.commands.options import Parser, run_command  # noqa: E402
from d2s.scene.atomic import read_json, write_json  # noqa: E402
from d2s.scene.feature_store import FeatureReader  # noqa: E402
from d2s.scene.label_store import LabelReader, Labels, write_labels  # noqa: E402
from d2s.scene.manifest import Scene  # noqa: E402
from processing import preprocessing  # noqa: E402
from processing.hloc.formats import HlocMatches, read_pairs  # noqa: E402
from processing.hloc.package import version  # noqa: E402
from processing.labels import LabelOptions, make_labels, point_table  # noqa: E402
from processing.sfm.colmap import SfmOptions, triangulate, verify_matches  # noqa: E402
from processing.sfm.model_files import read_model, save_model  # noqa: E402
from processing.sfm.observations import observed_points  # noqa: E402

NEAR_M = 0.01
LabelsOf = dict[str, Labels]


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of a 7scenes scene")
    parser.add_argument("--gt", default="sfm", help="its ground truth (default: sfm)")
    parser.add_argument("--features", default="aliked", help="local feature (default: aliked)")
    parser.add_argument("--num_keypoints", default="1024", help="keypoints per image (default: 1024)")
    parser.add_argument("--hloc_matcher", default="NN-mutual", help="hloc's matcher (default: NN-mutual)")
    parser.add_argument("--minutes", default="1", help="minutes of training for the accuracy; 0 leaves it out (default: 1)")
    parser.add_argument("--timed_scene", type=Path, default=None, help="a preprocessed scene on which labelling is timed")
    parser.add_argument("--work", type=Path, default=None, help="folder for what is made (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("hloc.json"), help="JSON file to write (default: hloc.json)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(args, args.work or Path(temporary))
    write_json(args.out, result)
    print_table(result)
    return 0


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    common = [
        "--dataset",
        "7scenes",
        "--dataset_dir",
        args.dataset_dir,
        "--scene",
        args.dataset_dir.name,
        "--gt",
        args.gt,
        "--cudaid",
        "-1",
    ]
    common += ["--features", args.features, "--num_keypoints", args.num_keypoints]
    ways = {
        "hloc": ["--sfm", "hloc", "--hloc_conf", "own", "--hloc_pairs", "overlap", "--hloc_matcher", args.hloc_matcher],
        "native": ["--sfm", "native"],
    }
    folders = {way: work / way / "7scenes" / args.dataset_dir.name for way in ways}
    reports = {way: preprocess([*common, *options, "--out_dir", work / way]) for way, options in ways.items()}
    labels = {way: read_labels(folder) for way, folder in folders.items()}
    labels["native, hloc's matches"] = label_matches_of_hloc(folders["hloc"])
    result = {
        "hloc": version(),
        "pycolmap": pycolmap.__version__,
        "features": args.features,
        "num_keypoints": int(args.num_keypoints),
        "hloc_matcher": args.hloc_matcher,
        "images": reports["hloc"]["images"]["count"],
        "seconds": {way: report["seconds"] for way, report in reports.items()},
        "labels": {way: describe(found) for way, found in labels.items()},
        "agreement_with_hloc": {way: agreement(labels["hloc"], found) for way, found in labels.items() if way != "hloc"},
    }
    if float(args.minutes):
        result["accuracy"] = {way: accuracy(work / way, args.dataset_dir.name, args.minutes) for way in ways}
    if args.timed_scene:
        result["labelling"] = labelling(args.timed_scene)
    return result


def call(module: Any, *options: object) -> None:
    if run_command("benchmark", module.add_arguments, module.run, [str(option) for option in options]):
        raise SystemExit(1)


def preprocess(options: list[Any]) -> dict[str, Any]:
    call(preprocessing, *options)
    out = Path(str(options[options.index("--out_dir") + 1]))
    return dict(read_json(next(out.rglob("report.json"))))


def read_labels(folder: Path) -> LabelsOf:
    """Labels of every training image."""
    with LabelReader(folder / "labels.h5") as reader:
        return {image.name: reader.read(image.name) for image in Scene.load(folder).split("train")}


def label_matches_of_hloc(folder: Path) -> LabelsOf:
    """Labels that the native verification and triangulation make of hloc's matches."""
    scene = Scene.load(folder)
    mapping = scene.with_images(scene.split("train"))
    hloc = folder / "hloc"
    (pair_file,), (match_file,) = hloc.glob("pairs-db-*.txt"), hloc.glob("*_matches-*.h5")
    with HlocMatches(match_file) as reader:
        matches = {pair: reader.read(*pair) for pair in read_pairs(pair_file)}
    with FeatureReader(folder / "features.h5") as reader:
        features = {image.name: reader.read(image.name) for image in mapping.images}
    options = SfmOptions()
    verified = verify_matches(mapping, features.__getitem__, matches, options)
    model = triangulate(mapping, {name: feature.keypoints for name, feature in features.items()}, verified, options)
    rows = {name: len(feature) for name, feature in features.items()}
    return dict(make_labels(point_table(model), rows, LabelOptions()))


def describe(labels: LabelsOf) -> dict[str, float]:
    counts = [int(label.valid.sum()) for label in labels.values()]
    return {"total": sum(counts), "median_per_image": float(np.median(counts))}


def agreement(one: LabelsOf, other: LabelsOf) -> dict[str, float]:
    """How far labels of the same keypoint are apart, where both have one; `same_track`: and where as many images see the point."""
    distances, same, either = [], [], 0
    for name, label in one.items():
        both = label.valid & other[name].valid
        either += int((label.valid | other[name].valid).sum())
        distances.append(np.linalg.norm(label.xyz[both] - other[name].xyz[both], axis=1))
        same.append(label.track_length[both] == other[name].track_length[both])
    apart, equal = np.concatenate(distances), np.concatenate(same)
    found = {
        "common": len(apart),
        "common_of_all": len(apart) / either,
        "median_mm": 1e3 * float(np.median(apart)),
        "p95_mm": 1e3 * float(np.percentile(apart, 95)),
        "within_1cm": float((apart <= NEAR_M).mean()),
        "same_track_of_common": float(equal.mean()),
    }
    if equal.any():
        found["same_track_median_mm"] = 1e3 * float(np.median(apart[equal]))
        found["same_track_within_1cm"] = float((apart[equal] <= NEAR_M).mean())
    return found


def accuracy(data_dir: Path, scene: str, minutes: str) -> dict[str, float]:
    """Median errors of queries after the same minutes of training."""
    where = [
        "--dataset",
        "7scenes",
        "--scene",
        scene,
        "--data_dir",
        data_dir,
        "--log_dir",
        data_dir / "logs",
        "--name",
        "run",
        "--cudaid",
        "-1",
    ]
    call(train, *where, "--max_minutes", minutes, "--visdom", "off")
    call(evaluation, *where)
    metrics = read_json(data_dir / "logs" / "run" / "eval" / "metrics.json")
    kept = ("n_queries", "n_failed", "median_t_cm", "median_r_deg")
    return {**{name: metrics[name] for name in kept}, "within_5cm_5deg": metrics["recall"]["5cm5deg"]}


def labelling(folder: Path) -> dict[str, Any]:
    """CPU seconds of labelling for parts of a scene's images, per 1000 images, and as a share of the time that its features took."""
    scene = Scene.load(folder)
    images = scene.split("train")
    report = read_json(folder / "report.json")
    extracted = len(scene.split("train", "val"))
    features = report["seconds"]["features"] / extracted * 1000
    runs = {}
    for share in (0.25, 0.5, 1.0):
        part = images[: round(share * len(images))]
        runs[str(len(part))] = {name: 1000 * value / len(part) for name, value in time_labels(folder, {i.name for i in part}).items()}
    whole = runs[str(len(images))]
    return {
        "scene": scene.name,
        "features_seconds_per_1000": features,
        "cpu_seconds_per_1000_by_images": runs,
        "labels_of_features": whole["labels"] / features,
        "stage_of_features": whole["stage"] / features,
    }


def time_labels(folder: Path, names: set[str]) -> dict[str, float]:
    """CPU seconds: `labels`, making and writing them; `stage`, with reading the model, points and features."""
    with tempfile.TemporaryDirectory() as temporary:
        sub = Path(temporary) / "sfm"
        save_model(restricted(read_model(folder / "sfm"), names), sub)
        start = time.process_time()
        table = point_table(read_model(sub), observed_points(sub))
        with FeatureReader(folder / "features.h5") as reader:
            rows = {name: reader.count(name) for name in names}
        middle = time.process_time()
        write_labels(Path(temporary) / "labels.h5", make_labels(table, rows, LabelOptions()))
        end = time.process_time()
    return {"labels": end - middle, "stage": end - start}


def restricted(model: pycolmap.Reconstruction, names: set[str]) -> pycolmap.Reconstruction:
    """The model without the images of other names."""
    for image in list(model.images.values()):
        if image.name not in names:
            model.deregister_frame(image.frame_id)
    return model


def print_table(result: dict[str, Any]) -> None:
    rows = [("hloc", result["hloc"]), ("pycolmap", result["pycolmap"]), ("images", str(result["images"]))]
    rows += [(f"labels, {way}", f"{value['total']} ({value['median_per_image']:.0f} per image)") for way, value in result["labels"].items()]
    for way, value in result["agreement_with_hloc"].items():
        text = f"{value['median_mm']:.2f} mm median, {value['within_1cm']:.1%} within 1 cm, {value['common_of_all']:.1%} common"
        rows.append((f"hloc and {way}", text))
        text = f"{value['same_track_of_common']:.1%} of these, {value['same_track_within_1cm']:.1%} within 1 cm"
        rows.append(("  where tracks are equally long", text))
    for way, value in result.get("accuracy", {}).items():
        rows.append((f"accuracy, {way}", f"{value['median_t_cm']:.2f} cm, {value['median_r_deg']:.2f} deg, {value['within_5cm_5deg']:.1%}"))
    if labels := result.get("labelling"):
        rows.append(("labelling of extraction", f"{labels['labels_of_features']:.2%} (whole stage {labels['stage_of_features']:.2%})"))
        rows += [
            (f"CPU s per 1000, {n} images", f"{v['labels']:.2f} (stage {v['stage']:.2f})")
            for n, v in labels["cpu_seconds_per_1000_by_images"].items()
        ]
    print("\n".join(f"| {name:<34} | {value:>58} |" for name, value in rows))


if __name__ == "__main__":
    sys.exit(main())
