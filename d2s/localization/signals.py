"""How well an image supports the pose that was found: numbers without a unit, comparable between places, cameras and image sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.localization.acceptance import hit_probability, log10_false_alarms
from d2s.localization.correspondences import Correspondences
from d2s.localization.covariance import PARAMETERS, spread_r_deg, spread_t

if TYPE_CHECKING:
    from d2s.localization.result import LocalizationResult

Array = NDArray[np.float64]
CELLS = 8
MOST_ZEROS = 200
"""Zeros after which a chance is no smaller: what is that improbable by chance has no other cause."""
SIGNALS = ("surprise", "cells", "residual", "angle")
"""
surprise: log of the zeros of the chance that unrelated points would agree as well, by the test of `d2s.localization.acceptance`. cells:
share of the cells of a grid with keypoints that hold an inlier. residual: median reprojection error of inliers in units of the threshold,
1 at most. angle: log of the pose's standard deviation as seen from the inliers, degrees of rotation and of translation over depth.

None of them asks how alike two descriptors are or which share of all keypoints agrees: another day, other light and another side change
that without making the pose wrong.
"""


def signals_of(result: LocalizationResult, camera: pycolmap.Camera, max_error: float, covariance: Array | None) -> Array:
    """The SIGNALS (len(SIGNALS),) of a result with a pose; `covariance` (6, 6) of `pose_covariance`, None where there is none."""
    rows = np.flatnonzero(result.inliers)
    pixels, xyz = result.keypoints[rows].astype(np.float64), result.xyz[rows].astype(np.float64)
    assert result.cam_from_map is not None
    local = pose.transform(result.cam_from_map, xyz)
    projected = project(camera, local)[0]
    errors = np.linalg.norm(projected - pixels, axis=1)
    depth = float(np.median(local[:, 2])) if len(rows) else 1.0
    values = {
        "surprise": _surprise(result, camera, max_error),
        "cells": _cells(pixels, camera) / max(_cells(result.keypoints, camera), 1),
        "residual": min(_residual(errors) / max_error, 1.0),
        "angle": _angle(covariance, depth),
    }
    return np.array([values[name] for name in SIGNALS])


def _residual(errors: Array) -> float:
    """Median, as it would be for points that the pose was not fitted to; infinite where three points fit any pose."""
    spare = 2 * len(errors) - PARAMETERS
    return float(np.median(np.nan_to_num(errors, nan=np.inf))) * math.sqrt(2 * len(errors) / spare) if spare > 0 else math.inf


def _surprise(result: LocalizationResult, camera: pycolmap.Camera, max_error: float) -> float:
    """Log of one more than the zeros, MOST_ZEROS at most, of the false alarms among the keypoints that were given to PnP."""
    points = Correspondences.clean(result.keypoints[result.used], result.xyz[result.used], camera, None)
    if len(points) < 2:
        return 0.0
    alarms = log10_false_alarms(result.num_inliers, len(points), hit_probability(points, max_error))
    return math.log1p(min(max(-alarms, 0.0), MOST_ZEROS))


def _cells(pixels: NDArray[np.floating], camera: pycolmap.Camera) -> int:
    """Occupied cells of a grid of CELLS x CELLS."""
    place = (pixels / np.array([camera.width, camera.height]) * CELLS).astype(int).clip(0, CELLS - 1)
    return len(np.unique(place[:, 0] * CELLS + place[:, 1]))


def _angle(covariance: Array | None, depth: float) -> float:
    """Log of the degrees by which the view is uncertain."""
    if covariance is None:
        return math.log(90.0)
    degrees = math.hypot(spread_r_deg(covariance), math.degrees(spread_t(covariance) / max(depth, 1e-9)))
    return math.log(min(max(degrees, 1e-3), 90.0))
