"""What localizing one image gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.geometry import pose

Array = NDArray[np.float64]
ENOUGH_INLIERS = 50.0
STAGES = ("features", "regressor", "pnp", "total")


@dataclass(frozen=True)
class LocalizationResult:
    """The pose of one image, or why there is none; a failure is a result, never an exception.

    `cam_from_world` (3, 4) and `center` (3,) in the scene's unit, None on failure. `num_inliers` of the `kept` reliable keypoints, of
    `extracted` ones, agree with the pose. `confidence`: see `confidence`. `ms`: milliseconds of "features", "regressor", "pnp" and "total".
    For reports: `keypoints` (extracted, 2) pixels, `xyz` (extracted, 3) predicted scene coordinates, `reliability` (extracted,), and the
    masks `used` (given to PnP) and `inliers`, row-aligned with them. `cam_from_map`: the pose that explains the inliers, which differs from
    `cam_from_world` where the map was made at refined poses. `first_from_map`: the pose before the second look, None where there was none.
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
    first_from_map: Array | None = field(default=None, repr=False)

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
        """Trust in the pose, see `confidence`."""
        return confidence(self.num_inliers, self.kept) if self.success else 0.0

    def to_json(self, image_name: str) -> dict[str, Any]:
        """JSON values: image, success, reason, qvec (w x y z), tvec, center, inliers, kept, extracted, confidence, ms."""
        qvec = tvec = center = None
        if self.cam_from_world is not None:
            qvec, tvec = (v.tolist() for v in pose.to_qvec_tvec(self.cam_from_world))
            center = pose.center(self.cam_from_world).tolist()
        return {
            "image": image_name,
            "success": self.success,
            "reason": self.reason,
            "qvec": qvec,
            "tvec": tvec,
            "center": center,
            "inliers": self.num_inliers,
            "kept": self.kept,
            "extracted": self.extracted,
            "confidence": round(self.confidence, 4),
            "ms": {stage: round(self.ms[stage], 2) for stage in STAGES if stage in self.ms},
        }


def confidence(num_inliers: int, kept: int) -> float:
    """Trust in [0, 1], growing with the number of inliers and with their share: share * (1 - exp(-inliers / 50)).

    It orders poses by how much supports them; it is not a calibrated probability.
    """
    return num_inliers / kept * -math.expm1(-num_inliers / ENOUGH_INLIERS) if kept else 0.0
