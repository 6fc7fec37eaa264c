"""What localizing one image gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import format_camera
from d2s.localization.covariance import spread_r_deg, spread_t
from d2s.localization.lens import Free

Array = NDArray[np.float64]
STAGES = ("features", "regressor", "pnp", "total")
EVEN = 0.5
GIVEN, ESTIMATED, MENDED = "given", "estimated", "mended"


@dataclass(frozen=True)
class Trust:
    """How far a pose can be trusted, see `d2s.localization.trust`.

    `confidence`: probability that it is right. `covariance` (6, 6): of rotation and camera centre as `d2s.localization.covariance`
    parametrises them, None where the inliers do not fix the pose.
    """

    confidence: float
    covariance: Array | None = field(default=None, repr=False)

    @property
    def sigma_t(self) -> float | None:
        """Root mean square distance of the camera centre from the true one, in the scene's unit."""
        return None if self.covariance is None else spread_t(self.covariance)

    @property
    def sigma_r_deg(self) -> float | None:
        """Root mean square angle to the true rotation, in degrees."""
        return None if self.covariance is None else spread_r_deg(self.covariance)


@dataclass(frozen=True)
class Rival:
    """Another pose that the image supports about as well: its cam_from_world (3, 4) and its inliers."""

    cam_from_world: Array
    num_inliers: int

    def to_json(self) -> dict[str, Any]:
        """JSON values: qvec (w x y z), tvec, center, inliers."""
        return {**_pose_to_json(self.cam_from_world), "inliers": self.num_inliers}


@dataclass(frozen=True)
class LocalizationResult:
    """The pose of one image, or why there is none; a failure is a result, never an exception.

    `cam_from_world` (3, 4) and `center` (3,) in the scene's unit, None on failure. `num_inliers` of the `kept` reliable keypoints, of
    `extracted` ones, agree with the pose. `trust`: confidence and covariance. `refused_pose`: a pose that was found but is not to be
    believed; it is then not in `cam_from_world`. `ms`: milliseconds of "features", "regressor", "pnp" and "total", and
    of "effort" and its looks ("more_keypoints", "views", "turned") where the first answer was not enough.
    For reports: `keypoints` (extracted, 2) pixels, `xyz` (extracted, 3) predicted scene coordinates, `reliability` (extracted,), and the
    masks `used` (given to PnP) and `inliers`, row-aligned with them. `cam_from_map`: the pose that explains the inliers, which differs from
    `cam_from_world` where the map was made at refined poses. `doubt`: see `d2s.localization.doubt`.
    `from_prior`: found by searching near a pose prior. `rival`: a pose elsewhere that is as good, which only the prior decided against.
    `camera`: the one that the pose goes with, None where it is unknown. `camera_from`: GIVEN, also where it is that of the mapping images;
    ESTIMATED with the pose; MENDED, since the given one does not fit the image. Of the latter two, what was `free`, and `sigma_focal`, the
    relative standard deviation of the focal length.
    """

    success: bool
    cam_from_world: Array | None
    reason: str
    ms: dict[str, float]
    keypoints: NDArray[np.float32] = field(repr=False)
    xyz: NDArray[np.float32] = field(repr=False)
    reliability: NDArray[np.float32] = field(repr=False)
    used: NDArray[np.bool_] = field(repr=False)
    inliers: NDArray[np.bool_] = field(repr=False)
    cam_from_map: Array | None = field(default=None, repr=False)
    doubt: float = field(default=0.0, repr=False)
    trust: Trust | None = field(default=None, repr=False)
    refused_pose: Array | None = field(default=None, repr=False)
    from_prior: bool = False
    rival: Rival | None = field(default=None, repr=False)
    camera: pycolmap.Camera | None = field(default=None, repr=False)
    camera_from: str = GIVEN
    free: Free = ()
    sigma_focal: float | None = None

    def with_rival(self, rival: Rival) -> LocalizationResult:
        """The result beside a pose that is as good."""
        return replace(self.without_certainty(), rival=rival)

    def without_certainty(self) -> LocalizationResult:
        """The result of an image that fits other places too: it is no more than an even chance."""
        trust = None if self.trust is None else replace(self.trust, confidence=min(self.trust.confidence, EVEN))
        return replace(self, trust=trust)

    @property
    def center(self) -> Array | None:
        """Camera centre in the world (3,)."""
        return None if self.cam_from_world is None else pose.center(self.cam_from_world)

    @property
    def num_inliers(self) -> int:
        """Keypoints that the pose explains within the inlier threshold."""
        return int(self.inliers.sum())

    @property
    def kept(self) -> int:
        """Keypoints that were given to PnP."""
        return int(self.used.sum())

    @property
    def extracted(self) -> int:
        """Keypoints of the image."""
        return len(self.keypoints)

    @property
    def confidence(self) -> float:
        """Probability that the pose is right; 0 without a pose. Of a refused pose too."""
        return 0.0 if self.trust is None else self.trust.confidence

    def to_json(self, image_name: str, with_prior: bool = False) -> dict[str, Any]:
        """JSON values: image, success, reason, qvec (w x y z), tvec, center, inliers, kept, extracted, confidence, sigma_t, sigma_r_deg,
        covariance, refused_pose, camera, camera_from, sigma_focal, ms; `with_prior`: from_prior and rival as well.
        """
        rival = None if self.rival is None else self.rival.to_json()
        prior = {"from_prior": self.from_prior, "rival": rival} if with_prior else {}
        return {
            "image": image_name,
            "success": self.success,
            "reason": self.reason,
            **_pose_to_json(self.cam_from_world),
            "inliers": self.num_inliers,
            "kept": self.kept,
            "extracted": self.extracted,
            "confidence": round(self.confidence, 4),
            **_trust_to_json(self.trust),
            "refused_pose": None if self.refused_pose is None else _pose_to_json(self.refused_pose),
            "camera": None if self.camera is None else format_camera(self.camera),
            "camera_from": None if self.camera is None else self.camera_from,
            "sigma_focal": None if self.sigma_focal is None or not isfinite(self.sigma_focal) else float(f"{self.sigma_focal:.6g}"),
            "ms": {stage: round(self.ms[stage], 2) for stage in dict.fromkeys((*STAGES, *self.ms)) if stage in self.ms},
            **prior,
        }


def _pose_to_json(cam_from_world: Array | None) -> dict[str, Any]:
    if cam_from_world is None:
        return {"qvec": None, "tvec": None, "center": None}
    qvec, tvec = (v.tolist() for v in pose.to_qvec_tvec(cam_from_world))
    return {"qvec": qvec, "tvec": tvec, "center": pose.center(cam_from_world).tolist()}


def _trust_to_json(trust: Trust | None) -> dict[str, Any]:
    """Six significant digits: nobody knows an uncertainty better."""
    if trust is None or trust.covariance is None:
        return {"sigma_t": None, "sigma_r_deg": None, "covariance": None}
    rows = [[float(f"{value:.6g}") for value in row] for row in trust.covariance]
    return {"sigma_t": float(f"{trust.sigma_t:.6g}"), "sigma_r_deg": float(f"{trust.sigma_r_deg:.6g}"), "covariance": rows}
