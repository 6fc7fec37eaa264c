"""Focal lengths that photos name in their EXIF data, where the photos themselves leave them open.

Along a straight street, or from a drone above flat ground, a longer focal length and a longer way do equally well: bundle adjustment then
walks away from a right focal length for next to nothing, and depths with it. A focal length that was named is given up only where the
photos fit clearly better without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pycolmap

MOVED = 0.1
"""Relative change up to which a refined focal length is what was named: EXIF data is rounded."""
SHARPNESS = 1.0
"""A focal length is open where the reprojection error grows by less than this times the squared logarithm of a change. Measured: 0.3 on
photos along a street, 3 on photos around a desk."""

Cameras = Mapping[int, pycolmap.Camera]


def moved(model: pycolmap.Reconstruction, named: Cameras) -> set[int]:
    """Cameras of a model whose focal length was named (`has_prior_focal_length`) and came out as another one."""
    return {index for index, change in _changes(model, named).items() if change > math.log(1 + MOVED)}


def _changes(model: pycolmap.Reconstruction, named: Cameras) -> dict[int, float]:
    """By how much each named focal length was changed, as the logarithm of the ratio, without sign."""
    own = {index: camera for index, camera in model.cameras.items() if named[index].has_prior_focal_length}
    return {index: abs(math.log(camera.mean_focal_length() / named[index].mean_focal_length())) for index, camera in own.items()}


def as_good(held: pycolmap.Reconstruction, free: pycolmap.Reconstruction, named: Cameras) -> bool:
    """Whether a model at named focal lengths explains the photos nearly as well as one that chose them freely.

    What it explains no longer counts like error: the error grows by the loss of observations, too.
    """
    if held.num_reg_images() < free.num_reg_images():
        return False
    error = held.compute_mean_reprojection_error() / free.compute_mean_reprojection_error()
    growth = error * free.compute_num_observations() / max(held.compute_num_observations(), 1) - 1
    return bool(growth <= SHARPNESS * max(_changes(free, named).values()) ** 2)
