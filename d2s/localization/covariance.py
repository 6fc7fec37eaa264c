"""How uncertain a pose is, from how the inliers that it explains are spread and how well they fit.

Parametrisation, everywhere in this project: six numbers (w, c). The true pose is `cam_from_world` with its rotation multiplied from the
left by the rotation vector w (radians, axes of the camera) and its camera centre moved by c (the scene's unit, axes of the world). To
first order, a left perturbation (w, tau) of the whole pose moves the centre by -R^T tau, whatever w is.

The pose is an M-estimate: it minimises a Cauchy loss of the reprojection errors. Its covariance is A^-1 B A^-1, where A is the curvature of
the loss and B the scatter of its gradient (Huber, Robust Statistics, 1981, 7.6), with both moments of the residuals pooled over the
inliers, so that a dozen points are enough. What the residuals cannot show is added by a model's calibration (`d2s.localization.trust`):
errors that the points share, those of the map and of the poses that it was made from.
"""

from __future__ import annotations

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.localization.lens import Free, kept_jacobian, lens_jacobian, size_of
from d2s.localization.refine import pose_jacobian

Array = NDArray[np.float64]
PARAMETERS = 6
FEWEST = 4
"""Points below which residuals say nothing: three fit any pose."""
LEAST_PIXELS = 0.05
"""Least standard deviation that a keypoint is believed to have: a perfect fit of few points is luck."""


def pose_covariance(cam_from_world: Array, pixels: Array, xyz: Array, camera: pycolmap.Camera, free: Free = ()) -> Array | None:
    """Covariance (6, 6) of (w, c), see above, of a pose (3, 4) with inliers xyz (N, 3) seen at pixels (N, 2).

    `free`: what of the camera was estimated with the pose, which is the less certain for it. None where the points do not fix the pose:
    fewer than FEWEST, behind the camera, or all but on one line.
    """
    whole = joint_covariance(cam_from_world, pixels, xyz, camera, free)
    return None if whole is None else centre_from_left(cam_from_world, whole[:PARAMETERS, :PARAMETERS])


def joint_covariance(cam_from_world: Array, pixels: Array, xyz: Array, camera: pycolmap.Camera, free: Free) -> Array | None:
    """Covariance of a left perturbation (w, tau) of the pose, then of what is `free` of the camera; arguments as `pose_covariance`.

    Where something is free, nobody knows the rest of the camera either: what it may be off moves the estimates, too.
    """
    local = pose.transform(cam_from_world, xyz)
    projected, _ = project(camera, local)
    residuals = projected - pixels
    valid = np.isfinite(residuals).all(axis=1) & (local[:, 2] > 0)
    count = PARAMETERS + size_of(free)
    if valid.sum() < FEWEST or 2 * valid.sum() <= count:
        return None
    jacobian, residuals = pose_jacobian(camera, local[valid]), residuals[valid]
    if free:
        jacobian = np.concatenate([jacobian, lens_jacobian(camera, local[valid], projected[valid], free)], axis=2)
    curvature, scatter = _moments(residuals, count)
    inverse = _inverse(np.einsum("nij,nik->jk", jacobian, jacobian))
    if inverse is None:
        return None
    covariance = inverse * scatter / curvature**2
    if free:
        moved = inverse @ np.einsum("nij,nik->jk", jacobian, kept_jacobian(camera, local[valid], free))
        covariance = covariance + moved @ moved.T
    return covariance


def centre_from_left(cam_from_world: Array, left: Array) -> Array:
    """Covariance (6, 6) of (w, c) from that of a left perturbation (w, tau) of the pose (3, 4)."""
    change = np.eye(PARAMETERS)
    change[3:, 3:] = -cam_from_world[:, :3].T
    return np.asarray(change @ left @ change.T)


def left_from_centre(cam_from_world: Array, covariance: Array) -> Array:
    """The inverse of `centre_from_left`."""
    change = np.eye(PARAMETERS)
    change[3:, 3:] = -cam_from_world[:, :3]
    return np.asarray(change @ covariance @ change.T)


def in_world(covariance: Array, cam_from_map: Array, cam_from_world: Array) -> Array:
    """Covariance (6, 6) of (w, c) of the pose in the world from that of the same camera's pose in the map.

    The two differ by a small motion in camera axes (`d2s.geometry.pose_field`), which hardly changes over the error of a pose, so it only
    turns the error; its own uncertainty is added in `d2s.localization.trust`.
    """
    moved = pose.compose(cam_from_world, pose.inverse(cam_from_map))
    rotation, t = moved[:, :3], moved[:, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    change = np.zeros((PARAMETERS, PARAMETERS))
    change[:3, :3] = change[3:, 3:] = rotation
    change[3:, :3] = cross @ rotation
    return centre_from_left(cam_from_world, change @ left_from_centre(cam_from_map, covariance) @ change.T)


def pose_difference(estimated: Array, true: Array) -> Array:
    """The perturbation (6,) of the estimated pose (3, 4) that gives the true one, in the parametrisation above."""
    sine = estimated[:, :3] @ true[:, :3].T
    angle = np.radians(pose.rotation_angle_deg(sine))
    axis = np.array([sine[1, 2] - sine[2, 1], sine[2, 0] - sine[0, 2], sine[0, 1] - sine[1, 0]])
    length = np.linalg.norm(axis)
    rotation = axis * (angle / length) if length > 0 else np.zeros(3)
    return np.concatenate([rotation, pose.center(true) - pose.center(estimated)])


def spread_t(covariance: Array) -> float:
    """Root mean square distance of the camera centre from the true one, in the scene's unit."""
    return float(np.sqrt(np.trace(covariance[3:, 3:])))


def spread_r_deg(covariance: Array) -> float:
    """Root mean square angle to the true rotation, in degrees."""
    return float(np.degrees(np.sqrt(np.trace(covariance[:3, :3]))))


def _moments(residuals: Array, parameters: int) -> tuple[float, float]:
    """Mean curvature of the Cauchy loss and variance of its gradient, per coordinate, over residuals (N, 2) of a fit of so many numbers."""
    squared = (residuals**2).sum(axis=1)
    scale2 = max(float(np.median(squared)), LEAST_PIXELS**2)
    influence = 1 / (1 + squared / scale2)
    slopes = influence - influence**2 * squared / scale2  # of r / (1 + |r|^2 / s^2), averaged over the two coordinates
    curvature = float(slopes.mean())
    count = 2 * len(residuals)
    few = 1 + parameters / count * float(slopes.var()) / curvature**2  # Huber's correction, 7.6.8
    scatter = few**2 * float((influence**2 * squared).sum() / (count - parameters))
    return curvature, max(scatter, (LEAST_PIXELS * curvature) ** 2)


def _inverse(matrix: Array) -> Array | None:
    """The inverse of a symmetric matrix, balanced first: radians and metres differ by orders of magnitude."""
    scale = 1 / np.sqrt(np.maximum(matrix.diagonal(), 1e-300))
    values, vectors = np.linalg.eigh(matrix * np.outer(scale, scale))
    if values[0] <= 1e-12 * values[-1]:
        return None
    return np.asarray((vectors / values) @ vectors.T * np.outer(scale, scale))
