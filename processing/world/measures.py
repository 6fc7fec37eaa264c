"""What `--scale` says: distances between cameras or between things in a photo, a factor, GPS, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from d2s.errors import InputError

USAGE = "Write 'PHOTO_A PHOTO_B METRES', 'PHOTO X1,Y1 X2,Y2 METRES', METRES_PER_UNIT, gps, auto or none."
WORDS = ("auto", "gps", "none")
POINT = re.compile(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class CameraDistance:
    """Metres between the camera centres of two photos."""

    first: str
    second: str
    metres: float


@dataclass(frozen=True)
class PointDistance:
    """Metres between what is seen at two pixels of a photo."""

    photo: str
    pixels: tuple[tuple[float, float], tuple[float, float]]
    metres: float


Measure = CameraDistance | PointDistance


@dataclass(frozen=True)
class ScaleOptions:
    """How the scale is found: a word, a factor (metres per unit of the reconstruction), or measures, as texts."""

    word: str = "none"
    factor: float | None = None
    measures: tuple[str, ...] = ()

    def record(self) -> dict[str, object]:
        """As JSON values."""
        return {"word": self.word, "factor": self.factor, "measures": list(self.measures)}


def parse_scale(texts: Sequence[str]) -> ScaleOptions | None:
    """What the values of `--scale` ask for; None for nothing. Raises InputError for one that cannot mean anything."""
    texts = [" ".join(text.split()) for text in texts]
    words = [text.lower() for text in texts if text.lower() in WORDS]
    factors = [value for text in texts if (value := _number(text)) is not None]
    if (words or factors) and len(texts) > 1:
        raise InputError(f"--scale {words[0] if words else texts[0]!r} excludes any other --scale.", "Give one of them, or only distances.")
    if words:
        return None if words == ["none"] else ScaleOptions(words[0])
    if factors:
        return ScaleOptions("factor", _positive(factors[0], texts[0]))
    for text in texts:
        _split_metres(text)
    return ScaleOptions("measured", measures=tuple(texts)) if texts else None


def parse_measure(text: str, names: Collection[str]) -> Measure:
    """The distance that a text of `--scale` states between photos of a scene. Raises InputError where it names none of its photos."""
    rest, metres = _split_metres(text)
    points = re.fullmatch(rf"(.+) {POINT.pattern} {POINT.pattern}", rest)
    if points:
        x0, y0, x1, y1 = (float(value) for value in points.groups()[1:])
        return PointDistance(_photo(points[1], names, text), ((x0, y0), (x1, y1)), metres)
    words = rest.split(" ")
    for cut in range(1, len(words)):  # names may hold spaces: every cut that gives two known photos is right
        first, second = (_known(" ".join(part), names) for part in (words[:cut], words[cut:]))
        if first and second:
            if first == second:
                raise InputError(f"--scale {text!r} names the same photo twice.", USAGE)
            return CameraDistance(first, second, metres)
    if len(words) == 2:
        _photo(words[0], names, text)
        _photo(words[1], names, text)
    raise InputError(f"--scale {text!r} does not name two photos of the map.", _example(names))


def _photo(name: str, names: Collection[str], text: str) -> str:
    found = _known(name, names)
    if found is None:
        raise InputError(f"--scale {text!r}: the map has no photo {name}, or more than one of that name.", _example(names))
    return found


def _known(name: str, names: Collection[str]) -> str | None:
    """The photo of that name; without its folder, or without its extension too, where only one fits."""
    if name in names:
        return name
    for spell in (lambda n: n.rsplit("/", 1)[-1], lambda n: n.rsplit("/", 1)[-1].rsplit(".", 1)[0]):
        fitting = [known for known in names if spell(known) == name]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _example(names: Collection[str]) -> str:
    shown = sorted(names)
    return f"{USAGE} Its photos have names like {shown[0]}." if shown else USAGE


def _split_metres(text: str) -> tuple[str, float]:
    rest, _, last = text.removesuffix(" m").rpartition(" ")
    metres = _number(last.removesuffix("m"))
    if metres is None or len(rest.split()) < 2:
        raise InputError(f"--scale {text!r} is not understood.", USAGE)
    return rest, _positive(metres, text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _positive(value: float, text: str) -> float:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"--scale {text!r}: the number must be finite and greater than 0.", USAGE)
    return value
