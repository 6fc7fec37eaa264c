"""`SCENE/refined/`: labels in the frame in which the images agree with each other, where the given poses do not.

Holds `sfm/` (a COLMAP model at refined poses), `labels.h5` (as the scene's, made from it) and `poses.json`: format version, median
reprojection error in pixels at the given and at the refined poses, and cam_from_map of every training image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError
from d2s.geometry import pose
from d2s.scene.atomic import read_json, write_json

FOLDER, POSES = "refined", "poses.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class RefinedMap:
    """cam_from_map (3, 4) of every training image by name; median reprojection errors in pixels."""

    cam_from_map: Mapping[str, NDArray[np.float64]]
    error_given: float
    error_refined: float

    def save(self, scene_folder: Path) -> None:
        """Write poses.json, the file that makes the folder valid."""
        poses = {name: _to_json(matrix) for name, matrix in self.cam_from_map.items()}
        errors = {"error_given": self.error_given, "error_refined": self.error_refined}
        write_json(refined_folder(scene_folder) / POSES, {"format_version": FORMAT_VERSION, **errors, "cam_from_map": poses})

    @staticmethod
    def load(scene_folder: Path) -> RefinedMap | None:
        """The refined map of a scene, None where it has none. Raises FormatError when its file is damaged."""
        path = refined_folder(scene_folder) / POSES
        if not path.is_file():
            return None
        value = read_json(path)
        try:
            if value["format_version"] != FORMAT_VERSION:
                raise FormatError(
                    f"{path} has format version {value['format_version']}, not {FORMAT_VERSION}.", "Preprocess with --overwrite."
                )
            poses = {name: pose.from_qvec_tvec(entry["qvec"], entry["tvec"]) for name, entry in value["cam_from_map"].items()}
            return RefinedMap(poses, float(value["error_given"]), float(value["error_refined"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "Preprocess with --overwrite.") from error


def refined_folder(scene_folder: Path) -> Path:
    """Where a scene keeps its refined map."""
    return Path(scene_folder) / FOLDER


def _to_json(matrix: NDArray[np.float64]) -> dict[str, list[float]]:
    qvec, tvec = pose.to_qvec_tvec(matrix)
    return {"qvec": qvec.tolist(), "tvec": tvec.tolist()}
