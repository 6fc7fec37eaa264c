"""The files that localization writes and scoring reads: `results.txt` with poses, `predictions.jsonl` with everything else.

`results.txt` is hloc's format, one line per localized image: `name qw qx qy qz tx ty tz`, world to camera. It may come from any program.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, MissingFileError
from d2s.geometry import pose
from d2s.scene.atomic import write_text

Array = NDArray[np.float64]
RESULTS, PREDICTIONS = "results.txt", "predictions.jsonl"


def write_results(path: Path, poses: Mapping[str, Array]) -> None:
    """Write cam_from_world (3, 4) by image name, exact to the last bit of the quaternion and translation."""
    write_text(path, "".join(result_line(name, cam_from_world) for name, cam_from_world in poses.items()))


def result_line(name: str, cam_from_world: Array) -> str:
    """The line of one image, with its end."""
    qvec, tvec = pose.to_qvec_tvec(cam_from_world)
    return f"{name} {' '.join(repr(float(value)) for value in (*qvec, *tvec))}\n"


def read_results(path: Path) -> dict[str, Array]:
    """cam_from_world (3, 4) by image name. Raises FormatError naming the line that is wrong."""
    path = Path(path)
    if not path.is_file():
        remedy = "Run d2s eval without --score_only first, or write poses there: lines 'name qw qx qy qz tx ty tz', world to camera."
        raise MissingFileError(f"{path} does not exist.", remedy)
    poses: dict[str, Array] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, cam_from_world = _parse(line, f"{path}, line {number}")
            if name in poses:
                raise FormatError(f"{path}, line {number}: a second pose of image {name}.")
            poses[name] = cam_from_world
    return poses


def _parse(line: str, where: str) -> tuple[str, Array]:
    fields = line.rsplit(maxsplit=7)  # names may contain spaces
    try:
        values = [float(field) for field in fields[1:]]
    except ValueError:
        values = []
    if len(values) != 7 or not np.isfinite(values).all():
        raise FormatError(f"{where}: {line.strip()!r} is not 'name qw qx qy qz tx ty tz'.")
    try:
        return fields[0], pose.from_qvec_tvec(values[:4], values[4:])
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None


def write_predictions(path: Path, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Write one line of JSON per image, as `LocalizationResult.to_json` gives it."""
    write_text(path, "".join(json.dumps(prediction, allow_nan=False) + "\n" for prediction in predictions))


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """What `write_predictions` wrote, by image name; empty when there is no such file (poses of another program)."""
    path = Path(path)
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {line["image"]: line for line in lines}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "Evaluate again.") from None
