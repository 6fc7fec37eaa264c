"""What a pose prior and the sequence mode of `d2s localize` bring: CPU time, jitter, and storeys that are not confused.

Red kitchen: the query frames of the video in their order, 30 a second. Stairs: a walk that is rendered for this, 10 frames a second up the
stairs, and single queries with a right prior (turned by 6 degrees, moved by 30 cm) and with one that is a storey too high or too low.

    python benchmarks/sequence.py --work DIR [--only redkitchen-sfm stairs]

DIR is where benchmarks/accuracy.py left scenes and runs of these rows. Prints the figures, writes benchmarks/results/sequence.json. Times
are CPU time of this process on one thread, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap
import torch

from d2s.features.base import LocalFeatures
from d2s.features.images import read_image
from d2s.geometry import pose
from d2s.geometry.pose_field import motion
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.localization.sequence import SequenceLocalizer
from d2s.scene.atomic import read_json, write_json
from d2s.scene.manifest import Scene
from processing.adapters.demo import make_demo_camera
from processing.gallery.renderer import Renderer
from processing.gallery.scenes import SCENES
from processing.gallery.stairs import LENGTH, WIDTH, floor_height
from processing.gallery.tour import Exposure, looking

RESULTS = Path(__file__).parent / "results" / "sequence.json"
STOREY = np.array([6.521, 0.0, 1.321])  # from a place on the stairs to the one that looks the same a storey higher
RIGHT_M, RIGHT_DEG, WRONG_M = 0.05, 5.0, 0.25
WALK_FRAMES, WALK_FPS, KITCHEN_FPS = 200, 10.0, 30.0


@dataclass(frozen=True)
class Shot:
    """One frame: its features, when it was taken, where the camera was, and the CPU milliseconds of its features."""

    features: LocalFeatures
    camera: pycolmap.Camera
    timestamp: float
    cam_from_world: np.ndarray
    ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where benchmarks/accuracy.py left its scenes and runs")
    parser.add_argument("--only", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), help="rows to measure (default: all)")
    parser.add_argument("--frames", type=int, default=0, help="at most so many frames (default: all)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in args.only:
        row = ROWS[name](args.work / name, name, args.frames)
        rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
        write_json(RESULTS, {"rows": {**rows, name: row}})
        show(name, row)
    return 0


def load(work: Path, name: str, dataset: str) -> tuple[Localizer, Scene]:
    """The run of a row, which refuses nothing, and its scene."""
    localizer = Localizer.load(work / "logs" / name / "model")
    localizer.prepare()
    return localizer, Scene.load(work / "dataset" / dataset)


def kitchen(work: Path, name: str, most: int) -> dict[str, Any]:
    """Frames of the real video."""
    localizer, scene = load(work, name, "7scenes/redkitchen")
    images = scene.split("test")[: most or None]
    times = [int(re.findall(r"\d+", image.name)[-1]) / KITCHEN_FPS for image in images]
    shots = [
        take(localizer, read_image(scene.path(image)), scene.camera(image), when, image.cam_from_world)
        for image, when in zip(images, times, strict=True)
    ]
    return {"frames": compare(localizer, shots)}


def stairs(work: Path, name: str, most: int) -> dict[str, Any]:
    """A rendered walk, and the single queries with priors."""
    localizer, scene = load(work, name, "demo/stairs")
    walk = [take(localizer, *frame) for frame in walk_frames(most or WALK_FRAMES)]
    images = scene.split("test")[: most or None]
    single = [take(localizer, read_image(scene.path(image)), scene.camera(image), 0.0, image.cam_from_world) for image in images]
    starts = [recovery(localizer, walk[begin:], sign) for begin in range(0, len(walk) - 30, 15) for sign in (-1, 1)]
    return {"frames": compare(localizer, walk), "priors": priors(localizer, single), "wrong_start": summary_of_starts(starts)}


ROWS: dict[str, Callable[[Path, str, int], dict[str, Any]]] = {"redkitchen-sfm": kitchen, "stairs": stairs}


def walk_frames(count: int) -> list[tuple[np.ndarray, pycolmap.Camera, float, np.ndarray]]:
    """Up the stairs at 1.1 m/s, looking ahead and a little around, with a bob in every step."""
    scene, camera = SCENES["stairs"], make_demo_camera((640, 480))
    place = scene.make_place()
    renderer = Renderer(place, scene.make_textures(place, 0), camera)
    frames = []
    for i in range(count):
        seconds = i / WALK_FPS
        x = 1.0 + (LENGTH - 5.0) * i / max(WALK_FRAMES, count)
        center = np.array([x, WIDTH * (0.5 + 0.1 * np.sin(0.5 * seconds)), floor_height(x) + 1.5 + 0.03 * np.sin(11 * seconds)])
        yaw, tilt, roll = 25 * np.sin(0.6 * seconds), -3 + 4 * np.sin(0.9 * seconds), 2 * np.sin(1.3 * seconds)
        cam_from_world = looking(center, float(np.radians(yaw)), tilt, roll)
        exposure = Exposure((1.0, 1.0, 1.0), 0.2, 2.5, (0, 15, i))
        frames.append((renderer.render(cam_from_world, exposure), camera, seconds, cam_from_world))
    return frames


def take(localizer: Localizer, image: np.ndarray, camera: pycolmap.Camera, when: float, truth: np.ndarray | None) -> Shot:
    """Features of one frame."""
    assert truth is not None
    begin = time.process_time()
    features = localizer.extract(image, camera)
    return Shot(features, camera, when, truth, 1e3 * (time.process_time() - begin))


def compare(localizer: Localizer, shots: Sequence[Shot]) -> dict[str, Any]:
    """Each frame as a single image, and in sequence, searching the whole map at the latest every 10 frames or in every one."""
    often, seldom = SequenceLocalizer(localizer, recheck=1), SequenceLocalizer(localizer)
    modes: dict[str, Callable[[Shot], LocalizationResult]] = {
        "single": lambda shot: localizer.localize_features(shot.features, shot.camera),
        "sequence": lambda shot: seldom.localize_features(shot.features, shot.camera, shot.timestamp),
        "sequence, whole map always": lambda shot: often.localize_features(shot.features, shot.camera, shot.timestamp),
    }
    modes["single"](shots[0])  # the first one pays for what is loaded late
    return {"count": len(shots), "features_cpu_ms": median([shot.ms for shot in shots])} | {
        name: follow(localize, shots) for name, localize in modes.items()
    }


def follow(localize: Callable[[Shot], LocalizationResult], shots: Sequence[Shot]) -> dict[str, Any]:
    """Figures of one mode."""
    results, spent = [], []
    for shot in shots:
        begin = time.process_time()
        results.append(localize(shot))
        spent.append(1e3 * (time.process_time() - begin))
    errors = [error_of(result, shot) for result, shot in zip(results, shots, strict=True)]
    distances = np.array([distance for distance, _ in errors])
    right = np.array([distance <= RIGHT_M and angle <= RIGHT_DEG for distance, angle in errors])
    wrong = np.isfinite(distances) & (distances > WRONG_M)
    sure = np.array([result.confidence > 0.5 for result in results])
    return {
        "search_cpu_ms_median": median(spent),
        "search_cpu_ms_mean": round(float(np.mean(spent)), 1),
        "without_network": share([result.from_prior and not result.ms.get("regressor") for result in results]),
        "median_cm": round(100 * float(np.median(distances)), 3),
        "right": share(right),
        "failed": int((~np.isfinite(distances)).sum()),
        "wrong": int(wrong.sum()),
        "wrong_and_sure": int((wrong & sure).sum()),
        "with_rival": sum(result.rival is not None for result in results),
        "jitter_mm": jitter(results, shots),
    }


def jitter(results: Sequence[LocalizationResult], shots: Sequence[Shot]) -> float | None:
    """Median length in mm of the second difference of the position error, over three consecutive frames: what makes a track tremble."""
    offsets = [None if r.center is None else r.center - pose.center(s.cam_from_world) for r, s in zip(results, shots, strict=True)]
    step = float(np.median(np.diff([shot.timestamp for shot in shots])))
    lengths = []
    for i in range(1, len(shots) - 1):
        a, b, c = offsets[i - 1 : i + 2]
        if a is not None and b is not None and c is not None and shots[i + 1].timestamp - shots[i - 1].timestamp < 2.5 * step:
            lengths.append(float(np.linalg.norm(a - 2 * b + c)))
    return round(1e3 * float(np.median(lengths)), 3) if lengths else None


def priors(localizer: Localizer, shots: Sequence[Shot]) -> dict[str, Any]:
    """Single queries without a prior, with a right one, and with one that is a storey off."""
    random = np.random.default_rng(0)
    rows: dict[str, Any] = {"count": len(shots)}
    for name, storeys in (("none", None), ("right", 0), ("a storey too high", 1), ("a storey too low", -1)):
        wrong = sure = failed = rivals = 0
        for shot in shots:
            prior = None if storeys is None else roughly(shifted(shot.cam_from_world, storeys * STOREY), random)
            result = localizer.localize_features(shot.features, shot.camera, prior)
            distance = error_of(result, shot)[0]
            is_wrong = bool(np.isfinite(distance) and distance > WRONG_M)
            wrong, failed, rivals = wrong + is_wrong, failed + (not result.success), rivals + (result.rival is not None)
            sure += is_wrong and result.confidence > 0.5
        rows[name] = {"wrong": wrong, "wrong_and_sure": sure, "failed": failed, "with_rival": rivals}
    return rows


def recovery(localizer: Localizer, shots: Sequence[Shot], sign: int) -> tuple[int, int]:
    """A sequence that begins with a prior on the wrong storey: frames until it is right for good, and sure answers that were wrong."""
    sequence = SequenceLocalizer(localizer)
    last_wrong, sure = -1, 0
    for i, shot in enumerate(shots[:30]):
        prior = shifted(shot.cam_from_world, sign * STOREY) if i == 0 else None
        result = sequence.localize_features(shot.features, shot.camera, shot.timestamp, prior)
        distance = error_of(result, shot)[0]
        if np.isfinite(distance) and distance > WRONG_M:
            last_wrong, sure = i, sure + (result.confidence > 0.5)
    return last_wrong + 1, sure


def summary_of_starts(starts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Figures of all wrong starts."""
    frames = [count for count, _ in starts]
    return {
        "starts": len(starts),
        "frames_until_right_median": median(frames),
        "frames_until_right_max": max(frames, default=0),
        "wrong_and_sure": sum(sure for _, sure in starts),
    }


def error_of(result: LocalizationResult, shot: Shot) -> tuple[float, float]:
    """Distance and angle; infinite without a pose."""
    return (np.inf, np.inf) if result.cam_from_world is None else pose.pose_error(result.cam_from_world, shot.cam_from_world)


def shifted(cam_from_world: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The same view from elsewhere."""
    return np.column_stack([cam_from_world[:, :3], cam_from_world[:, 3] - cam_from_world[:, :3] @ shift])


def roughly(cam_from_world: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Turned by 6 degrees about any axis and moved by 30 cm in any direction."""
    axis, way = (vector / np.linalg.norm(vector) for vector in random.standard_normal((2, 3)))
    return pose.compose(motion(np.concatenate([np.radians(6) * axis, 0.3 * way])), cam_from_world)


def median(values: Sequence[float]) -> float:
    """Rounded, 0 for nothing."""
    return round(float(np.median(values)), 1) if len(values) else 0.0


def share(mask: Any) -> float:
    """A fraction with four digits."""
    return round(float(np.mean(mask)), 4)


def show(name: str, row: dict[str, Any]) -> None:
    """Print the figures of a row."""
    frames = row["frames"]
    print(f"{name}: {frames['count']} frames, features {frames['features_cpu_ms']} CPU ms")
    for mode in (key for key, value in frames.items() if isinstance(value, dict)):
        print(f"  {mode:<27}{frames[mode]}")
    for key in ("priors", "wrong_start"):
        for part, value in row.get(key, {}).items():
            print(f"  {key} {part}: {value}")


if __name__ == "__main__":
    sys.exit(main())
