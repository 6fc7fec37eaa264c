"""How far parts of a reconstruction are off that little holds, against what `processing/sfm/hinges.py` predicts.

    python benchmarks/loose_parts.py SCENE_FOLDER … [--models 40]

Scenes of known poses, as `d2s preprocess` makes them. From each, stretches of photos are taken; the second part of a stretch keeps the
points that it shares with the first only in two or three photos, a few in each. Its scale is set wrong by about 10 %, all is adjusted
again, and the part is compared with the known poses. Prints rows of the table in docs/loose_parts.md.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import pixels_from_colmap
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.bundle import read_bundle
from processing.sfm.database import posed_model
from processing.sfm.hinges import Part, loose_parts
from processing.sfm.model_files import read_model
from processing.sfm.second_try import LIMIT

Array = NDArray[np.float64]
POINTS_EACH = 80
"""Points that a stretch keeps per photo."""
TOO_FAR = 4.0
"""Pixels beyond which COLMAP drops an observation."""


@dataclass(frozen=True)
class Whole:
    """A model as arrays: poses (n, 3, 4) and cameras of its photos; of each point its place and the photos and pixels where it is seen."""

    names: list[str]
    poses: Array
    cameras: list[pycolmap.Camera]
    xyz: dict[int, Array]
    seen: dict[int, list[tuple[int, Array]]]


def whole(folder: Path) -> Whole:
    """The model of a scene."""
    model = read_model(folder / "sfm")
    images = sorted((image for image in model.images.values() if image.get_observation_points2D()), key=lambda image: image.name)
    seen = defaultdict(list)
    for row, image in enumerate(images):
        for element in image.get_observation_points2D():
            seen[element.point3D_id].append((row, pixels_from_colmap(np.asarray(element.xy))))
    poses = np.stack([image.cam_from_world().matrix() for image in images])
    xyz = {index: np.asarray(point.xyz) for index, point in model.points3D.items()}
    return Whole([image.name for image in images], poses, [model.cameras[image.camera_id] for image in images], xyz, dict(seen))


def thinned(place: Whole, random: np.random.Generator) -> tuple[pycolmap.Reconstruction, list[int], set[int]]:
    """A stretch of the place with a loose part: the model, its photos and those of the part, as rows of the place."""
    length = int(random.integers(14, min(len(place.names), 36) + 1))
    start = int(random.integers(0, len(place.names)))
    rows = [(start + step) % len(place.names) for step in range(length)]
    part = set(rows[-int(random.integers(4, max(5, length // 2))) :])
    joints = random.permutation([row for row in rows if row in part][:3]).tolist()
    few = int(random.integers(30, 80)), int(random.choice([0, 8, 15, 30, 60])), int(random.choice([0, 0, 8, 15]))
    quota = dict(zip(joints, few, strict=True))
    tracks = {index: kept for index, where in place.seen.items() if len(kept := [(row, at) for row, at in where if row in rows]) > 1}
    chosen = random.permutation(list(tracks))[: POINTS_EACH * length].tolist()
    center = pose.center(place.poses[joints[0]][None])[0]
    growth = float(np.exp(random.normal(0, 0.1)))
    points: list[tuple[Array, list[tuple[int, Array]]]] = []
    for index in chosen:
        first = [(row, at) for row, at in tracks[index] if row not in part]
        second = [(row, at) for row, at in tracks[index] if row in part]
        across = []
        for row, at in second:
            if len(first) > 1 and quota.get(row, 0) > 0:
                quota[row] -= 1
                across.append((row, at))
        own = [(row, at) for row, at in second if all(row != other for other, _ in across)]
        points += [(place.xyz[index], [*first, *across])] if len(first) + len(across) > 1 else []
        points += [(center + growth * (place.xyz[index] - center), own)] if len(own) > 1 else []
    poses = place.poses.copy()
    for row in part:
        moved = center + growth * (pose.center(poses[row][None])[0] - center)
        poses[row][:, 3] = -poses[row][:, :3] @ moved
    return _model(place, poses, sorted(rows), points), sorted(rows), part


def _model(
    place: Whole, poses: Array, rows: Sequence[int], points: Sequence[tuple[Array, list[tuple[int, Array]]]]
) -> pycolmap.Reconstruction:
    pixels: dict[int, list[Array]] = {row: [] for row in rows}
    tracks = []
    for _, where in points:
        track = pycolmap.Track()
        for row, at in where:
            track.add_element(rows.index(row) + 1, len(pixels[row]))
            pixels[row].append(at)
        tracks.append(track)
    images = tuple(SceneImage(place.names[row], place.cameras[row].camera_id, poses[row], "train") for row in rows)
    cameras = {place.cameras[row].camera_id: place.cameras[row] for row in rows}
    keypoints = {place.names[row]: np.array(pixels[row]).reshape(-1, 2) for row in rows}
    model = posed_model(Scene("made", "stretch", Path(), cameras, images), keypoints)
    for (xyz, _), track in zip(points, tracks, strict=True):
        model.add_point3D(xyz, track)
    return model


def adjust(model: pycolmap.Reconstruction, iterations: int) -> None:
    """Bundle adjustment of everything but distortion, without a robust loss, as COLMAP's last one."""
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_extra_params = options.print_summary = False
    solver = getattr(options, "ceres", options).solver_options
    solver.max_num_iterations, solver.function_tolerance = iterations, 1e-7
    config = pycolmap.BundleAdjustmentConfig()
    for index in model.images:
        config.add_image(index)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    with quiet_colmap():
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def drop_far(model: pycolmap.Reconstruction) -> None:
    """Remove observations whose point is seen elsewhere by more than TOO_FAR."""
    far = []
    for image in model.images.values():
        rows = image.get_observation_point2D_idxs()
        for row in rows:
            element = image.points2D[row]
            at = image.project_point(model.points3D[element.point3D_id].xyz)
            far += [(image.image_id, row)] if at is None or np.linalg.norm(at - element.xy) > TOO_FAR else []
    for image_id, row in far:
        if model.images[image_id].points2D[row].has_point3D():
            model.delete_observation(image_id, row)


def off(found: Array, true: Array, inside: NDArray[np.bool_]) -> tuple[float, float]:
    """How far a part is out of place (share of the extent), and the logarithm of its scale, both against the rest."""
    centers, wanted = pose.center(found), pose.center(true)

    def fit(side: NDArray[np.bool_]) -> tuple[float, Array, Array]:
        u, _, vt = np.linalg.svd(np.einsum("nij,nik->jk", true[side, :, :3], found[side, :, :3]))
        rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
        a, b = centers[side] @ rotation.T, wanted[side]
        spread = a - a.mean(axis=0)
        scale = float((spread * (b - b.mean(axis=0))).sum() / (spread**2).sum())
        return scale, rotation, b.mean(axis=0) - scale * a.mean(axis=0)

    scale, rotation, shift = fit(~inside)
    error = scale * centers[inside] @ rotation.T + shift - wanted[inside]
    extent = np.linalg.norm(np.ptp(wanted, axis=0))
    return float(np.sqrt((error**2).sum(axis=1).mean()) / extent), abs(float(np.log(scale / fit(inside)[0])))


def measure(place: Whole, seed: int) -> tuple[float, float, float, bool] | None:
    """Shift and scale of one loose part, the predicted standard deviation of its shift, and whether anything is doubted."""
    model, rows, part = thinned(place, np.random.default_rng(seed))
    adjust(model, 40)
    drop_far(model)
    adjust(model, 20)
    names = [place.names[row] for row in rows]
    images = {image.name: image for image in model.images.values()}
    found = np.stack([images[name].cam_from_world().matrix() for name in names])
    inside = np.array([row in part for row in rows])
    bundle = read_bundle(model, names)
    if bundle is None:
        return None
    predicted = Part(bundle.poses, np.flatnonzero(inside).tolist()).motion(bundle.covariance, bundle.noise).shift
    return *off(found, place.poses[rows], inside), predicted, bool(loose_parts(model, names, LIMIT))


def main() -> None:
    """Print one line for each scene."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE_FOLDER", help="scene.json and sfm/ of d2s preprocess")
    parser.add_argument("--models", type=int, default=40, help="loose models of each scene (default: 40)")
    args = parser.parse_args()
    for folder in args.scenes:
        place = whole(folder)
        rows = np.array([row for seed in range(args.models) if (row := measure(place, seed)) is not None])
        shift, scale, predicted, doubted = rows.T
        groups = shift < 0.01, (shift >= 0.01) & (shift < 0.02), shift >= 0.02, scale > 0.05
        doubts = [f"{int(doubted[group].sum())} of {int(group.sum())}" for group in groups]
        held = predicted < 0.5
        within = [f"{100 * float((shift < times * predicted)[held].mean()):.0f}" for times in (1, 2)]
        print(f"| {folder.name} | {len(rows)} | {' | '.join(doubts)} | {', '.join(within)} % |", flush=True)


if __name__ == "__main__":
    main()
