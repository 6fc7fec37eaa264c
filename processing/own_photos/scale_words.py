"""In which unit a map is, and what to do where there are no metres."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from d2s.evaluation.score import METRES, scene_extent
from d2s.geometry import pose
from d2s.scene.manifest import Scene


def scale_sentence(scene: Scene, world: Mapping[str, Any]) -> str:
    """The unit of distances, where it comes from, and how large the place is in it."""
    extent = scene_extent(scene)
    if scene.units == METRES:
        source = world.get("note") or "the poses that were given"
        return f"Distances are in metres, from {source}; the path is {extent:.3g} m across."
    first, second = farthest(scene)
    return (
        f"The scale is unknown: distances are in scene units (the path is {extent:.3g} across). For metres, measure between two cameras "
        f"and give --scale '{first} {second} METRES'."
    )


def farthest(scene: Scene) -> tuple[str, str]:
    """Two placed photos whose cameras are far apart: the longer a measured distance, the better the scale."""
    images = [image for image in scene.images if image.cam_from_world is not None]
    centers = pose.center(np.stack([image.cam_from_world for image in images]))  # type: ignore[misc]  # chosen above
    start = int(np.linalg.norm(centers - centers.mean(axis=0), axis=1).argmax())
    end = int(np.linalg.norm(centers - centers[start], axis=1).argmax())
    return images[min(start, end)].name, images[max(start, end)].name
