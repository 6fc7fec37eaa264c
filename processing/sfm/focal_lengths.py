"""What of a camera the photos themselves leave open: focal lengths, those named in EXIF data among them, and distortion.

Along a straight street, or from a drone above flat ground, a longer focal length and a longer way do equally well: bundle adjustment then
walks away from a right focal length for next to nothing, and depths with it. A focal length that was named is given up only where the
photos fit clearly better without it; one that no lens has goes, and its photo with it. Where every photo has a camera of its own, a
coefficient of distortion each is one number too many for some: it is kept only where the photos fit better with it.
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

PLAUSIBLE = (0.1, 10.0)
"""Focal lengths per longer image side that lenses have, and COLMAP's bounds. Where a photo fixes none, it leaves for infinity: longer ones
hold photos from one spot together."""
FLATTER = 0.02
"""By how much the reprojection error may grow where all cameras go without distortion. Ten internet photos of a church: 0.005, and the
focal lengths then are a third closer to those of a model of 15 photos."""
OWN = 2
"""Cameras of so few photos have no distortion of their own to learn from."""

Cameras = Mapping[int, pycolmap.Camera]


def moved(model: pycolmap.Reconstruction, named: Cameras) -> set[int]:
    """Cameras of a model whose focal length was named (`has_prior_focal_length`) and came out as another one."""
    return {index for index, change in _changes(model, named).items() if change > math.log(1 + MOVED)}


def _changes(model: pycolmap.Reconstruction, named: Cameras) -> dict[int, float]:
    """By how much each named focal length was changed, as the logarithm of the ratio, without sign."""
    own = {index: camera for index, camera in model.cameras.items() if named[index].has_prior_focal_length}
    return {index: abs(math.log(camera.mean_focal_length() / named[index].mean_focal_length())) for index, camera in own.items()}


def as_good(held: pycolmap.Reconstruction, free: pycolmap.Reconstruction, named: Cameras) -> bool:
    """Whether a model at named focal lengths explains the photos nearly as well as one that chose them freely."""
    if held.num_reg_images() < free.num_reg_images():
        return False
    growth = _error(held, free) - 1
    return bool(growth <= SHARPNESS * max(_changes(free, named).values()) ** 2)


def one_by_one(named: Cameras, photos: int) -> bool:
    """Whether the cameras have so few photos each that their distortion is a guess."""
    return photos < (OWN + 1) * len(named) and photos > 1


def as_good_without_distortion(plain: pycolmap.Reconstruction, bent: pycolmap.Reconstruction) -> bool:
    """Whether a model of cameras without distortion explains the photos nearly as well as one with."""
    if plain.num_reg_images() < bent.num_reg_images():
        return False
    return bool(_error(plain, bent) <= 1 + FLATTER)


def _error(model: pycolmap.Reconstruction, other: pycolmap.Reconstruction) -> float:
    """Its reprojection error over the other's; what a model no longer explains counts like error."""
    error = model.compute_mean_reprojection_error() / other.compute_mean_reprojection_error()
    return float(error * other.compute_num_observations() / max(model.compute_num_observations(), 1))


def without_lens(model: pycolmap.Reconstruction) -> dict[str, float]:
    """Photos, by name, whose focal length came out as one that no lens has, and how many times the longer image side it is."""
    found = {}
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        focal = camera.mean_focal_length() / max(camera.width, camera.height)
        if image.has_pose and not PLAUSIBLE[0] <= focal <= PLAUSIBLE[1]:
            found[image.name] = float(focal)
    return found
