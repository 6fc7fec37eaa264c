"""Positions in photos, and metres between them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from processing.world.gps import Fix, east_north_up, fix_of_tags, read_fix

Tag = ExifTags.GPS


def dms(degrees: float) -> tuple[IFDRational, ...]:
    """Degrees, minutes and seconds as phones write them."""
    whole, rest = divmod(abs(degrees), 1)
    minutes, rest = divmod(rest * 60, 1)
    return IFDRational(int(whole)), IFDRational(int(minutes)), IFDRational(round(rest * 60 * 10000), 10000)


def write_photo(path, latitude, longitude, altitude=None):
    exif = Image.Exif()
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[Tag.GPSLatitude], gps[Tag.GPSLatitudeRef] = dms(latitude), "S" if latitude < 0 else "N"
    gps[Tag.GPSLongitude], gps[Tag.GPSLongitudeRef] = dms(longitude), "W" if longitude < 0 else "E"
    if altitude is not None:
        gps[Tag.GPSAltitude], gps[Tag.GPSAltitudeRef] = IFDRational(round(abs(altitude) * 100), 100), bytes([altitude < 0])
    Image.new("RGB", (8, 6)).save(path, exif=exif)


def test_a_photo_says_where_it_was_taken(tmp_path):
    write_photo(tmp_path / "a.jpg", -33.856784, 151.215297, -2.5)
    fix = read_fix(tmp_path / "a.jpg")
    assert fix.latitude == pytest.approx(-33.856784, abs=1e-7) and fix.longitude == pytest.approx(151.215297, abs=1e-7)
    assert fix.altitude == -2.5
    write_photo(tmp_path / "b.jpg", 40.689247, -74.044502)
    assert read_fix(tmp_path / "b.jpg") == Fix(pytest.approx(40.689247), pytest.approx(-74.044502), None)


def test_photos_without_a_position(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    assert read_fix(tmp_path / "a.jpg") is None and read_fix(tmp_path / "b.jpg") is None


@pytest.mark.parametrize(
    "latitude",
    [None, (math.nan, 0.0, 0.0), ("x", 0, 0), 5, (), (91.0, 0.0, 0.0), (IFDRational(0, 0),) * 3],
)
def test_impossible_tags_are_no_position(latitude):
    assert fix_of_tags({Tag.GPSLatitude: latitude, Tag.GPSLatitudeRef: "N", Tag.GPSLongitude: (8.0, 0.0, 0.0)}) is None


def test_null_island_is_no_position():
    """Phones without a fix write zeros."""
    assert fix_of_tags({Tag.GPSLatitude: (0.0, 0.0, 0.0), Tag.GPSLongitude: (0.0, 0.0, 0.0)}) is None


def test_metres_east_north_and_up():
    """A second of latitude is 30.9 m at 47 degrees; the meridians are as far apart as the cosine says (WGS 84: 111 412.84 cos(lat) m)."""
    origin = Fix(47.0, 8.0, 400.0)
    local = east_north_up([origin, Fix(47.001, 8.0, 400.0), Fix(47.0, 8.001, 400.0), Fix(47.0, 8.0, 410.0)])
    np.testing.assert_allclose(local[0], 0)
    np.testing.assert_allclose(local[1], [0, 111.18, 0], atol=0.02)
    np.testing.assert_allclose(local[2], [76.06, 0, 0], atol=0.02)
    np.testing.assert_allclose(local[3], [0, 0, 10], atol=1e-6)


def test_without_altitudes_the_ground_is_flat():
    assert not east_north_up([Fix(47.0, 8.0, 400.0), Fix(47.1, 8.0, None)])[:, 2].any()
