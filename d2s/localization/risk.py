"""Which confidence to ask for so that wrong poses stay rare: conformal risk control (Angelopoulos et al., 2022).

benchmarks/trust.py keeps, for photos of the place and of other places, how many there were and the confidences of those that got a
wrong pose, each by constants that never saw its place. A photo does harm when it gets a wrong pose that is accepted. If the next photo is
exchangeable with the n of a condition, the lowest confidence for which (harmful ones + 1) / (n + 1) <= max_wrong keeps the probability of
harm within max_wrong; the highest of all conditions does so whatever their mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from d2s.errors import FormatError, InputError
from d2s.scene.atomic import read_json

LEAST = 0.01
"""Nothing below it is ever asked for: who accepts that accepts everything."""


@dataclass(frozen=True)
class Condition:
    """So many photos asked under one condition, and the confidences from LEAST on of those that got a wrong pose, highest first."""

    name: str
    photos: int
    wrong: tuple[float, ...]

    @property
    def smallest(self) -> float:
        """The lowest risk that so few photos can speak for: even of none that did harm, the next one may."""
        return 1 / (self.photos + 1)

    def least_confidence(self, max_wrong: float) -> float:
        """What keeps harm within `max_wrong`, which is at least `smallest`."""
        allowed = math.floor(max_wrong * (self.photos + 1) + 1e-9) - 1
        return LEAST if allowed >= len(self.wrong) else math.nextafter(self.wrong[allowed], math.inf)


def confidence_for(max_wrong: float, conditions: Sequence[Condition] | None = None) -> float:
    """Poses of at least this confidence are wrong for no more than the share `max_wrong` of all photos, under each of the conditions.

    `conditions`: None are those of trust.json. Raises InputError for a share that they cannot speak for.
    """
    conditions = calibrated() if conditions is None else conditions
    fewest = min(condition.photos for condition in conditions)
    smallest = Condition("", fewest, ()).smallest
    if not smallest <= max_wrong <= 1:
        raise InputError(
            f"max_wrong {max_wrong:g} is not between {ceiled(smallest):g} and 1.",
            f"{ceiled(smallest):g} is the smallest share of wrong poses that {fewest} photos can speak for.",
        )
    return max(condition.least_confidence(max_wrong) for condition in conditions)


def promise(max_wrong: float, confidence: float) -> str:
    """What is promised, and for which photos, in one line."""
    about = ", ".join(f"{condition.name} ({condition.photos})" for condition in calibrated())
    return (
        f"Poses of confidence below {confidence:.4g} are refused: at most {100 * max_wrong:g} % of photos get a wrong pose, if they are "
        f"like those that this was calibrated on, by efforts fast and auto: {about}."
    )


def ceiled(share: float) -> float:
    """Rounded up to two digits, so that it is allowed as it is printed."""
    digits = 10 ** (1 - math.floor(math.log10(share)))
    return math.ceil(share * digits) / digits


@lru_cache
def calibrated() -> tuple[Condition, ...]:
    """The conditions of trust.json. Raises FormatError where there are none."""
    with resources.as_file(resources.files("d2s.localization").joinpath("trust.json")) as path:
        return conditions_from_json(read_json(path).get("conditions"), str(path))


def conditions_from_json(value: Any, where: str) -> tuple[Condition, ...]:
    """Raises FormatError for anything but what benchmarks/trust.py writes."""
    if not isinstance(value, dict) or not value:
        raise FormatError(f"{where} holds no conditions that wrong poses were counted under.", "Run benchmarks/trust.py --fit.")
    return tuple(Condition(name, int(one["photos"]), tuple(float(v) for v in one["wrong"])) for name, one in value.items())
