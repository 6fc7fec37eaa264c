"""`d2s map` on photos and a video of real places, as a stranger would run it: time, self-check, and accuracy against known poses.

The command sees images alone: no poses, no model, no EXIF. What is known of the places is only compared with: the poses of all placed
photos, and those that the held-out ones were localized at, after a robust similarity alignment of the mapping photos' centres. Prints a
table and writes benchmarks/results/own_photos.json; a row that is measured again replaces the old one. The photos are not part of the
project: --data_dir names the folder that holds 7scenes/, fox/ and gerrard_hall/.

    python benchmarks/own_photos.py --data_dir DIR [--work DIR] [--only fox …]
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch

from d2s.evaluation.pose_files import read_results
from d2s.geometry import pose
from d2s.geometry.alignment import robust_similarity
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import Scene
from processing.adapters.base import AdapterOptions
from processing.adapters.table import load_source
from processing.own_photos.video import frame_name

RESULTS = Path(__file__).parent / "results" / "own_photos.json"
CASES = ("gerrard", "fox", "kitchen-video")
KITCHEN_FRAMES, FRAMES_PER_SECOND = 900, 30.0
Poses = dict[str, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen places one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with 7scenes/, fox/ and gerrard_hall/")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs/own_photos"), help="where maps go (begun anew)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, help="rows to measure (default: all)")
    args = parser.parse_args(argv)
    for name in args.only:
        given, known = prepare(name, args.data_dir, args.work / "given" / name)
        row = {**measure(given, args.work / name), **accuracy(args.work / name, known, name == "kitchen-video")}
        store(name, row)
        print(line(name, row), flush=True)
    return 0


def prepare(name: str, data_dir: Path, target: Path) -> tuple[Path, Poses]:
    """What the command is given, photos or a video and nothing else, and the known poses by image name."""
    if name == "kitchen-video":
        return kitchen_video(data_dir / "7scenes" / "redkitchen", target.with_suffix(".mp4"))
    dataset, folder = ("colmap", "gerrard_hall") if name == "gerrard" else ("nerfstudio", "fox")
    scene = load_source(dataset, AdapterOptions(data_dir / folder)).scene
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for image in scene.images:
        shutil.copyfile(scene.path(image), target / Path(image.name).name)
    return target, {Path(image.name).name: np.asarray(image.cam_from_world) for image in scene.images}


def kitchen_video(folder: Path, target: Path) -> tuple[Path, Poses]:
    """The first frames of red kitchen as a video, and their poses (SfM pseudo ground truth) by the names that frames get."""
    names = sorted(path.name for path in (folder / "seq-01").glob("*.color.*"))[:KITCHEN_FRAMES]
    poses = known_of_kitchen(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*"mp4v"), FRAMES_PER_SECOND, (640, 480))
    for name in names:
        writer.write(cv2.imread(str(folder / "seq-01" / name)))
    writer.release()
    stems = {name.split(".")[0]: frame_name(number) for number, name in enumerate(names)}
    return target, {stems[stem]: poses[stem] for stem in stems if stem in poses}


def known_of_kitchen(folder: Path) -> Poses:
    """cam_from_world by `frame-000000` of sequence 1; lines `name qw qx qy qz tx ty tz f`, world to camera."""
    poses = {}
    for text in (folder / "pgt_sfm.txt").read_text().splitlines():
        name, *values = text.split()
        if "seq-01/" in name:
            numbers = [float(value) for value in values]
            poses[Path(name).name.split(".")[0]] = pose.from_qvec_tvec(numbers[:4], numbers[4:7])
    return poses


def measure(given: Path, out: Path) -> dict[str, Any]:
    """Run the command once, on a fresh folder; what it says of itself, and what it cost."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    before, start = cpu_seconds_of_children(), time.monotonic()
    command = [sys.executable, "-m", "d2s", "map", str(given), "--out", str(out), "--cudaid", "-1"]
    with out.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    wall, cpu = time.monotonic() - start, cpu_seconds_of_children() - before
    told = read_json(out / "map.json")
    photos = told["photos"]
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds": {name: round(value, 1) for name, value in {**told["seconds"], **told["stages"]}.items() if value >= 0.05},
        "features": told["features"],
        "photos": {"given": photos["given"], "placed": photos["placed"], "held_out": len(photos["held_out"])},
        "check": told["check"],
        "weak_parts": len(told["weak"]),
        "video": {key: value for key, value in told["video"].items() if key != "seconds_of"},
    }


def cpu_seconds_of_children() -> float:
    """CPU seconds of all finished child processes so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def accuracy(out: Path, known: Poses, metres: bool) -> dict[str, Any]:
    """Errors of the reconstructed poses and of the localized held-out photos against the known ones."""
    scene = Scene.load(next(out.glob("scene/*/*/scene.json")).parent)
    mapped = [image for image in scene.split("train", "val") if image.name in known]
    source = np.stack([np.asarray(image.cam_from_world) for image in mapped])
    target = np.stack([known[image.name] for image in mapped])
    similarity, _ = robust_similarity(pose.center(source), pose.center(target))
    extent = float(np.linalg.norm(np.ptp(pose.center(np.stack(list(known.values()))), axis=0)))
    found = {name: similarity.apply_pose(value) for name, value in read_results(out / "check" / "results.txt").items() if name in known}
    placed = {image.name: similarity.apply_pose(image.cam_from_world) for image in scene.images if image.name in known}
    cameras = {str(camera.params.tolist()) for camera in scene.cameras.values()}
    compared = {"all_placed": errors(placed, known, extent, metres), "held_out": errors(found, known, extent, metres)}
    unit = "cm" if metres else "% of the extent"
    return {"against_known_poses": {"unit": unit, "extent": extent, **compared}, "cameras": sorted(cameras)}


def errors(found: Mapping[str, np.ndarray], known: Poses, extent: float, metres: bool) -> dict[str, float]:
    """Median and worst distance and angle."""
    both = np.array([pose.pose_error(value, known[name]) for name, value in found.items()]).reshape(-1, 2)
    both[:, 0] *= 100 if metres else 100 / extent
    if not len(both):
        return {"count": 0}
    (t, r), (worst_t, worst_r) = np.median(both, axis=0).tolist(), both.max(axis=0).tolist()
    return {"count": len(both), "median_t": t, "median_r_deg": r, "worst_t": worst_t, "worst_r_deg": worst_r}


def store(name: str, row: Mapping[str, Any]) -> None:
    """Put a row into the results file."""
    content = read_json(RESULTS) if RESULTS.is_file() else {"rows": {}}
    machine = {
        "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "pycolmap": pycolmap.__version__,
    }  # fmt: skip
    write_json(RESULTS, {"rows": {**content["rows"], name: {**row, "machine": machine}}})


def line(name: str, row: Mapping[str, Any]) -> str:
    """One line of the table."""
    truth, photos, check = row["against_known_poses"], row["photos"], row["check"]
    held = truth["held_out"]
    found = f"{check['found']} of {check['queries']} found"
    error = f"{held['median_t']:.3g} {truth['unit']}, {held['median_r_deg']:.2g} deg" if held["count"] else "-"
    return (
        f"{name:<14} {row['wall_seconds']:>6.0f} s wall, {row['cpu_seconds']:>6.0f} s CPU; {photos['placed']} of {photos['given']} placed; "
        f"{found}; against known poses: {error}"
    )


if __name__ == "__main__":
    sys.exit(main())
