"""Which photos a map does without, to be tested on: spread over the path, some with a neighbour, so that not every one has a near copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from PIL import ExifTags

from d2s.errors import InputError
from processing.adapters.folders import open_image

SHARE = 0.12
FEWEST, MOST = 3, 25
SMALL = 20
"""Below this many photos each of them is dear: only every eighth is held out, and none together with its neighbour."""


def capture_order(folder: Path, names: Sequence[str]) -> list[str]:
    """The photos as they were taken: by folder, then by EXIF time where all of a folder have one, else by name with numbers as numbers."""
    times = {name: taken_at(folder / name) for name in names}
    timed = {place: all(times[name] is not None for name in names if _place(name) == place) for place in set(map(_place, names))}
    first = datetime.min

    def key(name: str) -> tuple[list[object], datetime, list[object]]:
        place = _place(name)
        return natural(place), (times[name] or first) if timed[place] else first, natural(name)

    return sorted(names, key=key)


def natural(name: str) -> list[object]:
    """A sort key under which IMG_9 comes before IMG_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part]


def _place(name: str) -> str:
    return name.rpartition("/")[0]


def taken_at(path: Path) -> datetime | None:
    """When a photo was taken, by its EXIF data, to the fraction of a second where it says so."""
    try:
        with open_image(path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        text = str(tags.get(ExifTags.Base.DateTimeOriginal, "")).strip("\0 ")
        fraction = re.sub(r"\D", "", str(tags.get(ExifTags.Base.SubsecTimeOriginal, "")))[:6]
        return datetime.strptime(f"{text}.{fraction or 0}", "%Y:%m:%d %H:%M:%S.%f")
    except (InputError, OSError, ValueError, SyntaxError, TypeError, KeyError):
        return None


def held_out(ordered: Sequence[str], share: float = SHARE) -> list[str]:
    """About `share` of the photos, in groups of one and of two in turn, spread evenly over their order; never the first or the last.

    Of few photos every eighth, whatever the share, unless that is 0.
    """
    count = len(ordered)
    if share == 0:
        return []
    if count < SMALL:
        return list(ordered[3 : count - 1 : 8])
    wanted = min(max(round(share * count), FEWEST), MOST)
    sizes = group_sizes(wanted)
    starts = [round((index + 0.5) * count / len(sizes) - size / 2) for index, size in enumerate(sizes)]
    return [ordered[start + offset] for start, size in zip(starts, sizes, strict=True) for offset in range(size)]


def group_sizes(wanted: int) -> list[int]:
    """1, 2, 1, 2, … with the given sum."""
    sizes: list[int] = []
    while sum(sizes) < wanted:
        sizes.append(min(1 + len(sizes) % 2, wanted - sum(sizes)))
    return sizes
