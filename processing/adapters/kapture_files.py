"""The text files of a kapture tree (format 1.0 and 1.1): sensors, rigs, trajectories and camera records."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera
from processing.adapters.lists import normal_name

UNKNOWN_CAMERA = "UNKNOWN_CAMERA"
_VERSION = re.compile(r"#\s*kapture format\s*:\s*(\d+)\.(\d+)", re.IGNORECASE)

Pose = NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """One line of records_camera.txt: when, by which sensor, and the image's path below records_data."""

    timestamp: int
    sensor: str
    name: str


@dataclass(frozen=True)
class KaptureTree:
    """What is needed of one kapture tree.

    `cameras`: by sensor id; None where the intrinsics are unknown. `rigs`: sensor id -> rig id -> (3, 4) sensor_from_rig. `trajectories`:
    (timestamp, device id) -> (3, 4) device_from_world. Where a pose lacks its rotation or translation, it is None.
    """

    folder: Path
    cameras: dict[str, pycolmap.Camera | None]
    records: tuple[Record, ...]
    trajectories: dict[tuple[int, str], Pose | None]
    rigs: dict[str, dict[str, Pose | None]]

    @property
    def image_dir(self) -> Path:
        """The folder that the names of the records are relative to."""
        return self.folder / "sensors" / "records_data"

    def poses(self, record: Record) -> Iterator[Pose | None]:
        """Every cam_from_world (3, 4) that the tree states for a record, None for an incomplete one.

        A rig's pose comes before the sensor's own: kapture's tools replace the latter by the former. Raises FormatError when rigs hold each
        other in a circle.
        """
        yield from self._poses(record.timestamp, record.sensor, ())

    def _poses(self, timestamp: int, device: str, path: tuple[str, ...]) -> Iterator[Pose | None]:
        if device in path:
            raise FormatError(f"{self.folder / 'sensors' / 'rigs.txt'}: {' in '.join((*path, device))} is a circle.")
        for rig, device_from_rig in self.rigs.get(device, {}).items():
            for rig_from_world in self._poses(timestamp, rig, (*path, device)):
                known = device_from_rig is not None and rig_from_world is not None
                yield pose.compose(device_from_rig, rig_from_world) if known else None  # type: ignore[arg-type]
        if (timestamp, device) in self.trajectories:
            yield self.trajectories[timestamp, device]


def read_tree(folder: Path) -> KaptureTree:
    """The tree in a folder that holds `sensors/`. trajectories.txt and rigs.txt may be missing. Raises FormatError or MissingFileError."""
    sensors = Path(folder) / "sensors"
    _check_version(sensors / "sensors.txt")
    return KaptureTree(
        folder=Path(folder),
        cameras=_read_cameras(sensors / "sensors.txt"),
        records=_read_records(sensors / "records_camera.txt"),
        trajectories=_read_trajectories(sensors / "trajectories.txt") if (sensors / "trajectories.txt").is_file() else {},
        rigs=_read_rigs(sensors / "rigs.txt") if (sensors / "rigs.txt").is_file() else {},
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        remedy = "A kapture tree needs sensors/sensors.txt and sensors/records_camera.txt."
        raise MissingFileError(f"{path} does not exist.", remedy) from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not a text file.") from None


def _check_version(path: Path) -> None:
    found = _VERSION.match(_text(path))
    if found is not None and (int(found[1]), int(found[2])) not in ((1, 0), (1, 1)):
        raise FormatError(f"{path} has kapture format {found[1]}.{found[2]}.", "Formats 1.0 and 1.1 are read.")


def _rows(path: Path, fewest: int, most: int | None, fields: str) -> Iterator[tuple[str, list[str]]]:
    """`file:line` and the fields of every line that is neither blank nor a comment."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        values = [field.strip() for field in line.split(",")]
        if len(values) < fewest or (most is not None and len(values) > most):
            raise FormatError(f"{path}:{number} has {len(values)} fields: {line.strip()[:80]!r}.", f"Each line must be: {fields}.")
        yield f"{path}:{number}", values


def _read_cameras(path: Path) -> dict[str, pycolmap.Camera | None]:
    cameras: dict[str, pycolmap.Camera | None] = {}
    for where, (sensor, _, kind, *params) in _rows(path, 3, None, "sensor_id, name, sensor_type, parameters"):
        if kind.lower() != "camera":
            continue
        if sensor in cameras:
            raise FormatError(f"{where} defines sensor {sensor} again.")
        cameras[sensor] = _camera(params, where)
    return cameras


def _camera(params: list[str], where: str) -> pycolmap.Camera | None:
    """Names, order and pixel convention of the parameters are COLMAP's."""
    if len(params) < 3:
        raise FormatError(f"{where}: a camera needs a model, a width and a height, not {', '.join(params) or 'nothing'}.")
    if params[0] == UNKNOWN_CAMERA:
        return None
    width, height, *values = (_number(field, where) for field in params[1:])
    if not (width.is_integer() and height.is_integer()):
        raise FormatError(f"{where}: {width:g}x{height:g} is not an image size.")
    try:
        return make_camera(params[0], int(width), int(height), values)
    except InputError as error:
        raise FormatError(f"{where}: {error}") from None


def _number(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise FormatError(f"{where}: {field!r} is not a number.") from None
    if not math.isfinite(value):
        raise FormatError(f"{where}: {field!r} is not a finite number.")
    return value


def _timestamp(field: str, where: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise FormatError(f"{where}: timestamp {field!r} is not a whole number.") from None


def _read_records(path: Path) -> tuple[Record, ...]:
    records: dict[str, Record] = {}
    for where, (timestamp, sensor, name) in _rows(path, 3, 3, "timestamp, device_id, image_path"):
        record = Record(_timestamp(timestamp, where), sensor, normal_name(name))
        if records.setdefault(record.name, record) != record:
            raise FormatError(f"{where}: image {record.name} is recorded a second time, at another time or by another sensor.")
    return tuple(records.values())


def _read_trajectories(path: Path) -> dict[tuple[int, str], Pose | None]:
    poses: dict[tuple[int, str], Pose | None] = {}
    for where, (timestamp, device, *fields) in _rows(path, 9, 9, "timestamp, device_id, qw, qx, qy, qz, tx, ty, tz"):
        key = (_timestamp(timestamp, where), device)
        if key in poses:
            raise FormatError(f"{where} gives the pose of {device} at {key[0]} a second time.")
        poses[key] = _pose(fields, where)
    return poses


def _read_rigs(path: Path) -> dict[str, dict[str, Pose | None]]:
    rigs: dict[str, dict[str, Pose | None]] = defaultdict(dict)
    for where, (rig, device, *fields) in _rows(path, 9, 9, "rig_id, device_id, qw, qx, qy, qz, tx, ty, tz"):
        if rig in rigs[device]:
            raise FormatError(f"{where} places {device} on rig {rig} a second time.")
        rigs[device][rig] = _pose(fields, where)
    return dict(rigs)


def _pose(fields: list[str], where: str) -> Pose | None:
    """(3, 4) pose of qw qx qy qz tx ty tz; None where a field is empty or not a number, which is how kapture states half a pose."""
    if any(field.lower() in ("", "nan", "-nan") for field in fields):
        return None
    values = [_number(field, where) for field in fields]
    try:
        return pose.from_qvec_tvec(values[:4], values[4:])
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
