"""From the frame of a reconstruction to metres: the similarity that measured distances or GPS positions ask for, and how good it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.alignment import Similarity, robust_similarity
from d2s.geometry.camera import colmap_from_pixels
from d2s.scene.manifest import AXES, EAST_NORTH_UP, Scene
from processing.world.gps import Fix, east_north_up, read_fixes
from processing.world.measures import CameraDistance, Measure, PointDistance, ScaleOptions, parse_measure

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]

MIN_FIXES = 6
"""Different GPS positions that an alignment needs."""
MAX_GPS_SCALE_ERROR = 0.1
"""Relative uncertainty of the scale up to which GPS is believed."""
MAX_ROLL_ERROR = 0.1
"""Uncertainty in radians of the turn about the path, up to which GPS is asked which way is up: a path may be nearly a line."""
MAX_SNAP = 0.02
"""How far from a measured pixel a 3D point may lie, relative to the photo's longer side."""
DISAGREE = 0.1
"""Relative difference of measured distances that deserves a warning."""


@dataclass(frozen=True)
class World:
    """How the frame of a reconstruction becomes one in metres. `info` are its figures as JSON values, `note` is the same in words."""

    similarity: Similarity
    note: str
    info: dict[str, Any]


def find_world(options: ScaleOptions | None, scene: Scene, model: pycolmap.Reconstruction | None = None) -> World | None:
    """What the options ask for, for the placed images of a scene; None where nothing was asked for or, with "auto", GPS does not do.

    `model`: the reconstruction in the same frame, for distances between things that the photos show. Raises InputError.
    """
    if options is None:
        return None
    if options.factor is not None:
        return World(_scaled(options.factor), "a factor that the user gave", {"from": "factor", "scale": options.factor})
    if options.measures:
        return from_measures([parse_measure(text, _poses(scene)) for text in options.measures], scene, model)
    fixes = read_fixes(scene.image_dir, list(_poses(scene)))
    try:
        return from_gps(fixes, scene) if fixes or options.word == "gps" else None
    except InputError as error:
        if options.word == "gps":
            raise
        logger.info("No scale from GPS: %s", error.problem)
        return None


def in_world(scene: Scene, world: World | None) -> Scene:
    """The scene with its poses in metres, as far as there is a world for it."""
    if world is None:
        return scene
    images = tuple(
        image if image.cam_from_world is None else replace(image, cam_from_world=world.similarity.apply_pose(image.cam_from_world))
        for image in scene.images
    )
    return in_metres(replace(scene, images=images), {"note": world.note, **world.info})


def in_metres(scene: Scene, world: Mapping[str, Any]) -> Scene:
    """The scene with the unit, where it comes from, and what its axes are; poses are metric already. `world`: note and info of a World."""
    axes = {AXES: EAST_NORTH_UP} if world.get("east_north_up") else {}
    return replace(scene, units="metres", provenance={**scene.provenance, "units": f"metres, from {world['note']}", **axes})


def transform_model(model: pycolmap.Reconstruction, world: World) -> None:
    """Move a reconstruction, in place."""
    s = world.similarity
    model.transform(pycolmap.Sim3d(s.scale, pycolmap.Rotation3d(s.rotation), s.translation))


def _poses(scene: Scene) -> dict[str, Array]:
    return {image.name: image.cam_from_world for image in scene.images if image.cam_from_world is not None}


def _scaled(scale: float) -> Similarity:
    return Similarity(scale, np.eye(3), np.zeros(3))


def from_measures(measures: list[Measure], scene: Scene, model: pycolmap.Reconstruction | None) -> World:
    """The scale under which the measured distances come out with the least squared error."""
    units = np.array([_length(measure, scene, model) for measure in measures])
    metres = np.array([measure.metres for measure in measures])
    scale = float(units @ metres / (units @ units))
    off = np.abs(scale * units / metres - 1)
    note = f"{len(measures)} measured distance{'s' if len(measures) > 1 else ''}"
    if len(measures) > 1:
        note += f", which agree to {100 * off.max():.1f} %"
    if off.max() > DISAGREE:
        each = ", ".join(f"{m:g} m comes out as {scale * u:.3g} m" for m, u in zip(metres, units, strict=True))
        logger.warning("The measured distances do not agree with each other: %s. Check them.", each)
    return World(_scaled(scale), note, {"from": "measures", "scale": scale, "relative_error": float(off.max()), "count": len(measures)})


def _length(measure: Measure, scene: Scene, model: pycolmap.Reconstruction | None) -> float:
    """The measured distance in the unit of the reconstruction."""
    ends = _camera_centres(measure, scene) if isinstance(measure, CameraDistance) else _seen_points(measure, model)
    length = float(np.linalg.norm(ends[1] - ends[0]))
    extent = float(np.linalg.norm(np.ptp(pose.center(np.stack(list(_poses(scene).values()))), axis=0)))
    if length < 1e-3 * extent:
        raise InputError(f"--scale: the two ends of the {measure.metres:g} m are at the same place.", "Measure a longer distance.")
    return length


def _camera_centres(measure: CameraDistance, scene: Scene) -> tuple[Array, Array]:
    poses = _poses(scene)
    return pose.center(poses[measure.first]), pose.center(poses[measure.second])


def _seen_points(measure: PointDistance, model: pycolmap.Reconstruction | None) -> tuple[Array, Array]:
    """The 3D points that a photo sees nearest to the two pixels."""
    if model is None:
        raise InputError(
            "--scale between two pixels needs points, and these poses come without.", "Measure the distance between two cameras instead."
        )
    image = next(image for image in model.images.values() if image.name == measure.photo)
    seen = [(point.xy, point.point3D_id) for point in image.points2D if point.has_point3D()]
    limit = MAX_SNAP * max(image.camera.width, image.camera.height)
    first, second = (_nearest(seen, pixel, limit, measure) for pixel in measure.pixels)
    return model.points3D[first].xyz, model.points3D[second].xyz


def _nearest(seen: list[tuple[Array, int]], pixel: tuple[float, float], limit: float, measure: PointDistance) -> int:
    away = np.linalg.norm(np.array([xy for xy, _ in seen]) - colmap_from_pixels(np.array(pixel)), axis=1) if seen else np.zeros(0)
    if not len(away) or away.min() > limit:
        nearest = f"the nearest is {away.min():.0f} pixels away" if len(away) else "it has none"
        raise InputError(
            f"--scale: photo {measure.photo} has no 3D point within {limit:.0f} pixels of {pixel[0]:g},{pixel[1]:g}; {nearest}.",
            "Measure between corners or other details that several photos show, in pixels of the stored image.",
        )
    return seen[int(away.argmin())][1]


def from_gps(fixes: Mapping[str, Fix], scene: Scene) -> World:
    """East, north and up of the first position, aligned robustly with the camera centres.

    Where the path is a line, only the scale is taken: GPS cannot tell then which way is up. Raises InputError where there are too few
    positions, or they scatter too much for the size of the place.
    """
    poses = _poses(scene)
    names = [name for name in poses if name in fixes]
    if len({(fixes[name].latitude, fixes[name].longitude) for name in names}) < MIN_FIXES:
        raise InputError(
            f"Only {len(names)} of {len(poses)} placed photos have a GPS position (at least {MIN_FIXES} different ones are needed).",
            "Give a measured distance with --scale.",
        )
    source, target = pose.center(np.stack([poses[name] for name in names])), east_north_up([fixes[name] for name in names])
    similarity, inliers = robust_similarity(source, target)
    off = np.linalg.norm(similarity.apply_points(source) - target, axis=1)[inliers]
    scatter, spread = float(np.sqrt((off**2).mean())), np.linalg.svd(_centred(target[inliers]), compute_uv=False)
    uncertainty = scatter / max(float(np.linalg.norm(spread)), 1e-9)
    if uncertainty > MAX_GPS_SCALE_ERROR:
        raise InputError(
            f"The GPS positions scatter by {scatter:.1f} m, too much for a path of {np.linalg.norm(np.ptp(target, axis=0)):.0f} m.",
            "Give a measured distance with --scale.",
        )
    level = scatter / max(float(spread[1]), 1e-9) < MAX_ROLL_ERROR
    agreeing = "which agrees" if inliers.all() else f"of which {inliers.sum()} agree"
    note = f"GPS in {len(names)} photos, {agreeing} to {scatter:.1f} m (scale to {100 * uncertainty:.1f} %)"
    note += "" if level else "; axes as reconstructed: the path is a line"
    first = fixes[names[0]]
    info = {
        "from": "gps", "scale": similarity.scale, "relative_error": uncertainty, "scatter_m": scatter, "count": len(names),
        "outliers": int((~inliers).sum()), "east_north_up": level,
        "origin": [first.latitude, first.longitude, first.altitude] if level else None,
    }  # fmt: skip
    return World(similarity if level else _scaled(similarity.scale), note, info)


def _centred(points: Array) -> Array:
    return points - points.mean(axis=0)
