"""How far a pose can be trusted: the probability that it is right, and how far it may be off.

The probability is a product. The first factor, the evidence, is that the image shows this place and supports the pose: a logistic function
of `d2s.localization.signals`. The second is that the pose is right and not at a look-alike, which no support can tell: a logistic
function of `d2s.localization.doubt`. Both are fitted across places by benchmarks/trust.py, which writes the constants to trust.json
beside this file. Right means within `tolerance`: 25 cm and 2 degrees, or 5 % of the extent of the mapping
cameras' path and 5 degrees where a scene has no scale. A model's own record (`Calibration`), made at the end of training from the
validation images, moves the probability of its place and adds to the covariance what residuals cannot show. A model without a record
has the general constants alone.

A pose below the threshold is refused: success is False with a reason, `cam_from_world` is None, and the pose stays in `refused_pose`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError
from d2s.geometry.pose_field import PoseField
from d2s.localization.covariance import in_world, pose_covariance
from d2s.localization.result import LocalizationResult, Trust
from d2s.localization.signals import SIGNALS, signals_of
from d2s.scene.atomic import read_json

Array = NDArray[np.float64]
METRES_TOLERANCE, RELATIVE_TOLERANCE = 0.25, 0.05
DEGREES_TOLERANCE, RELATIVE_DEGREES_TOLERANCE = 2.0, 5.0
"""In a scene without scale, reference poses are often no better than 2 degrees: photos of strangers, their focal lengths guessed."""
DOUBTFUL = 0.5
"""`doubt` from which a refusal is put down to look-alikes."""
WIDER, AS_MAPPED = 3.5, 2.0
"""What standard deviations are multiplied with in the end: a few errors are far larger than the others, more so on another day. The second
is for photos that fit as well as those of the recording do, see ALIKE.
"""
ALIKE = 1.1
"""Residual, in units of what validation images have, up to which a photo fits as well as they do: another day shows in the residuals."""
FARTHEST = 4.0
"""Standard deviations from the mean at which a signal stops counting for more: no single one decides alone."""


@dataclass(frozen=True)
class Constants:
    """What benchmarks/trust.py found: evidence = logistic(bias + weights . (signals - mean) / scale); refuse below `threshold`.

    `alike`: log odds that a supported pose is right where nothing else fits, and what a doubt of 1 takes from them. `factor`: what
    standard deviations from residuals have to be multiplied with where the place has no calibration.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    alike: tuple[float, float]
    threshold: float
    factor: float

    def evidence(self, signals: Array) -> float:
        """Log odds that the image shows this place and supports the pose."""
        return self.bias + float(self.standardise(signals) @ np.array(self.weights))

    def score(self, signals: Array, doubt: float) -> float:
        """Log odds that a pose with these signals and this doubt is right."""
        supported, no_other = self.evidence(signals), self.alike[0] - self.alike[1] * doubt
        return -float(np.logaddexp.reduce([-supported, -no_other, -supported - no_other]))  # of the product of both probabilities

    def standardise(self, signals: Array) -> Array:
        """Signals (..., S) in standard deviations from the mean, at most FARTHEST."""
        return np.clip((signals - np.array(self.mean)) / np.array(self.scale), -FARTHEST, FARTHEST)


@dataclass(frozen=True)
class Calibration:
    """What the validation images of a place say: log odds to add, and standard deviations that poses have beside their residuals'.

    `t` in the scene's unit and `r` in radians, both per axis; `images`: how many it was made from. `tolerance_t` and `tolerance_r_deg`:
    what "right" means here. `residual`: median of theirs, in units of the threshold (None: unknown).
    """

    shift: float = 0.0
    t: float = 0.0
    r: float = 0.0
    images: int = 0
    tolerance_t: float | None = None
    tolerance_r_deg: float = DEGREES_TOLERANCE
    residual: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values for `ModelInfo.trust`."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """Raises FormatError for a record that is none."""
        try:
            record = Calibration(**value)
            numbers = [record.shift, record.t, record.r, record.tolerance_r_deg, record.tolerance_t or 0.0, record.residual or 0.0]
            if not all(math.isfinite(number) for number in numbers) or record.t < 0 or record.r < 0:
                raise ValueError(f"{numbers}")
            return record
        except (TypeError, ValueError) as error:
            raise FormatError(f"The model's record of trust is damaged ({error}).", "Train again, or copy the model again.") from None

    def widening(self, residual: float) -> float:
        """What standard deviations of a pose with this residual are multiplied with in the end."""
        return AS_MAPPED if self.residual is not None and residual <= ALIKE * self.residual else WIDER


class Weighed(NamedTuple):
    """Log odds that the image supports a pose (`evidence`) and that the pose is right (`score`), the signal `residual`, its covariance
    (6, 6) by residuals, and the standard deviations per axis of the pose field there, in radians and in the scene's unit.
    """

    evidence: float
    score: float
    residual: float
    covariance: Array | None
    field: tuple[float, float] = (0.0, 0.0)

    @property
    def known_covariance(self) -> Array | None:
        """Covariance (6, 6) by residuals and field, before what a place's calibration adds."""
        return None if self.covariance is None else self.covariance + isotropic(*self.field)


@dataclass(frozen=True)
class Judge:
    """Says of results how far they can be trusted, and refuses those below `min_confidence`.

    None refuses by the general constants and their threshold, before the place's calibration: photos of other places. `field`: what brings
    poses of the map into the frame of the given ones.
    """

    calibration: Calibration = Calibration()
    min_confidence: float | None = None
    constants: Constants | None = None
    field: PoseField | None = None

    @property
    def least(self) -> float:
        """Poses with a lower confidence are refused."""
        return (self.constants or general_constants()).threshold if self.min_confidence is None else self.min_confidence

    def __call__(self, result: LocalizationResult, camera: pycolmap.Camera, max_error: float) -> LocalizationResult:
        """The result with its trust, refused where that is too little."""
        if result.cam_from_world is None:
            return result
        weighed = self.weigh(result, camera, max_error)
        evidence, confidence = probability(weighed.evidence), probability(weighed.score + self.calibration.shift)
        covariance = None if weighed.covariance is None else self._with_map(weighed.covariance, weighed)
        result = replace(result, trust=Trust(confidence, covariance))
        # By default the evidence in the image decides, whatever the place: where parts of it look alike, confidence is low even for right
        # poses, and refusing half of these keeps no other place out.
        decisive = evidence if self.min_confidence is None else confidence
        return refuse(result, evidence, decisive, self.least) if decisive < self.least else result

    def weigh(self, result: LocalizationResult, camera: pycolmap.Camera, max_error: float) -> Weighed:
        """What speaks for a result with a pose, before what the place's calibration adds."""
        assert result.cam_from_map is not None and result.cam_from_world is not None
        rows = result.inliers
        seen = result.keypoints[rows].astype(float), result.xyz[rows].astype(float)
        covariance = pose_covariance(result.cam_from_map, *seen, camera, result.free)
        signals, constants = signals_of(result, camera, max_error, covariance), self.constants or general_constants()
        in_the_world = None if covariance is None else in_world(covariance, result.cam_from_map, result.cam_from_world)
        field = (0.0, 0.0) if self.field is None else self.field.deviations(result.cam_from_map)
        residual = float(signals[SIGNALS.index("residual")])
        return Weighed(constants.evidence(signals), constants.score(signals, result.doubt), residual, in_the_world, field)

    def _with_map(self, covariance: Array, weighed: Weighed) -> Array:
        factor = 1.0 if self.calibration.images else (self.constants or general_constants()).factor
        whole = factor**2 * covariance + isotropic(self.calibration.r, self.calibration.t) + isotropic(*weighed.field)
        return np.asarray(self.calibration.widening(weighed.residual) ** 2 * whole)


def isotropic(r: float, t: float) -> Array:
    """Covariance (6, 6) with these standard deviations per axis, in radians and in the scene's unit."""
    return np.diag(np.repeat([r**2, t**2], 3))


def refuse(result: LocalizationResult, evidence: float, decisive: float, least: float) -> LocalizationResult:
    """The result as a failure, since `decisive` is below `least`; its pose is kept as `refused_pose`."""
    alike = result.doubt >= DOUBTFUL and evidence >= least
    why = "the image fits another part of this place about as well" if alike else "probably not in this place"
    reason = f"{why}: confidence {decisive:.2f} is below {least:.2f}"
    return replace(result, success=False, reason=reason, cam_from_world=None, refused_pose=result.cam_from_world)


def probability(log_odds: float) -> float:
    """Of log odds."""
    return 1 / (1 + math.exp(-log_odds))


@lru_cache
def general_constants() -> Constants:
    """The constants of trust.json. Raises FormatError where they are for other signals."""
    with resources.as_file(resources.files("d2s.localization").joinpath("trust.json")) as path:
        return constants_from_json(read_json(path), str(path))


def constants_from_json(value: Any, where: str) -> Constants:
    """Raises FormatError for anything but what benchmarks/trust.py writes."""
    if not isinstance(value, dict) or value.get("signals") != list(SIGNALS):
        raise FormatError(f"{where} does not hold constants for the signals {', '.join(SIGNALS)}.", "Run benchmarks/trust.py --fit.")
    lists = {name: tuple(float(v) for v in value[name]) for name in ("mean", "scale", "weights")}
    alike = (float(value["alike"][0]), float(value["alike"][1]))
    return Constants(**lists, alike=alike, bias=value["bias"], threshold=value["threshold"], factor=value["factor"])
