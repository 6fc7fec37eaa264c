"""Where photos were taken, from the GPS tags in them, in metres east, north and up of the first one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags

from d2s.errors import InputError
from processing.adapters.folders import open_image

Array = NDArray[np.float64]

EARTH_AXIS_M, EARTH_FLATTENING = 6378137.0, 1 / 298.257223563
"""The ellipsoid of WGS 84."""


@dataclass(frozen=True)
class Fix:
    """One position: degrees north and east, metres above the ellipsoid or the sea (None where the photo does not say)."""

    latitude: float
    longitude: float
    altitude: float | None


def read_fixes(folder: Path, names: Sequence[str]) -> dict[str, Fix]:
    """The positions of those photos that have one; unreadable photos and damaged tags count as none."""
    found = {name: read_fix(folder / name) for name in names}
    return {name: fix for name, fix in found.items() if fix is not None}


def read_fix(path: Path) -> Fix | None:
    """Position in a photo's EXIF data, or None."""
    try:
        with open_image(path) as image:
            tags = dict(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except (InputError, OSError, ValueError, SyntaxError, TypeError, KeyError):
        return None
    return fix_of_tags(tags)


def fix_of_tags(tags: Mapping[int, Any]) -> Fix | None:
    """Position of the tags of EXIF's GPS folder, or None where they give no possible one (0/0 and NaN occur in real photos)."""
    latitude = _degrees(tags.get(ExifTags.GPS.GPSLatitude), tags.get(ExifTags.GPS.GPSLatitudeRef), "S")
    longitude = _degrees(tags.get(ExifTags.GPS.GPSLongitude), tags.get(ExifTags.GPS.GPSLongitudeRef), "W")
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180 or latitude == longitude == 0:
        return None
    altitude = _number(tags.get(ExifTags.GPS.GPSAltitude))
    if altitude is not None and tags.get(ExifTags.GPS.GPSAltitudeRef) in (1, b"\x01", "1"):
        altitude = -altitude
    return Fix(latitude, longitude, altitude)


def _degrees(value: Any, reference: Any, negative: str) -> float | None:
    try:
        parts = [_number(part) for part in value]
    except TypeError:
        return None
    if not 1 <= len(parts) <= 3 or any(part is None for part in parts):
        return None
    degrees = sum(part / 60**index for index, part in enumerate(parts) if part is not None)
    return -degrees if str(reference or "").strip("\0 ").upper() == negative else degrees


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def east_north_up(fixes: Sequence[Fix]) -> Array:
    """Metres (N, 3) east, north and up of the first fix; up is 0 for all where any of them lacks its altitude."""
    flat = any(fix.altitude is None for fix in fixes)
    points = np.array([_earth_centred(fix, 0.0 if flat else fix.altitude or 0.0) for fix in fixes])
    local = (points - points[0]) @ _axes(fixes[0]).T
    if flat:  # the Earth's curve is no difference in height
        local[:, 2] = 0.0
    return local


def _earth_centred(fix: Fix, altitude: float) -> Array:
    lat, lon = math.radians(fix.latitude), math.radians(fix.longitude)
    squared_eccentricity = EARTH_FLATTENING * (2 - EARTH_FLATTENING)
    normal = EARTH_AXIS_M / math.sqrt(1 - squared_eccentricity * math.sin(lat) ** 2)
    across = (normal + altitude) * math.cos(lat)
    return np.array([across * math.cos(lon), across * math.sin(lon), (normal * (1 - squared_eccentricity) + altitude) * math.sin(lat)])


def _axes(origin: Fix) -> Array:
    """Rows: east, north and up at the origin, in the Earth's frame."""
    lat, lon = math.radians(origin.latitude), math.radians(origin.longitude)
    east = [-math.sin(lon), math.cos(lon), 0.0]
    north = [-math.sin(lat) * math.cos(lon), -math.sin(lat) * math.sin(lon), math.cos(lat)]
    up = [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
    return np.array([east, north, up])
