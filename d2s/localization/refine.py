"""Non-linear refinement of a pose with the true camera: reprojection error in pixels of the original image, robust and weighted.

RANSAC libraries refine on undistorted points, where a pixel at the border of a wide image counts for many. Here every residual is a pixel
that the camera really has.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.localization.correspondences import Correspondences

Array = NDArray[np.float64]
ROUNDS = 3  # refine, find the inliers of the better pose, refine on them
MAX_STEPS = 15
RELATIVE_GAIN = 1e-5  # of the cost: poses then change by less than a hundredth of their error
LOSS_SCALE = 0.25  # residual from which a point loses influence, as a fraction of the inlier threshold
STEP = 1e-5  # for the derivative of the distortion, on the plane z = 1
MAX_DAMPING = 1e6


def reprojection_errors(cam_from_world: Array, points: Correspondences) -> Array:
    """Distance in pixels (M,) between where the points were seen and where the pose projects them; infinite behind the camera."""
    pixels, _ = project(points.camera, pose.transform(cam_from_world, points.xyz))
    return np.nan_to_num(np.linalg.norm(pixels - points.pixels, axis=1), nan=np.inf)


def find_inliers(cam_from_world: Array, points: Correspondences, max_error: float) -> NDArray[np.bool_]:
    """Points (M,) within `max_error` pixels."""
    return reprojection_errors(cam_from_world, points) <= max_error


def refine_pose(cam_from_world: Array, points: Correspondences, max_error: float) -> Array:
    """The pose (3, 4) that best explains its own inliers under a Cauchy loss, or the given one when that has more inliers."""
    best, inliers = cam_from_world, find_inliers(cam_from_world, points, max_error)
    for _ in range(ROUNDS):
        if inliers.sum() < 4:
            return best
        refined = _problem(points, inliers, max_error).minimise(best)
        found = find_inliers(refined, points, max_error)
        if found.sum() < inliers.sum():
            return best
        best, unchanged, inliers = refined, bool((found == inliers).all()), found
        if unchanged:
            break
    return best


def _problem(points: Correspondences, mask: NDArray[np.bool_], max_error: float) -> _Problem:
    return _Problem(points.xyz[mask], points.pixels[mask], points.weights[mask], points.camera, max_error * LOSS_SCALE)


@dataclass(frozen=True)
class _Problem:
    """sum of weight * scale^2 * log(1 + |residual|^2 / scale^2) over points, to be minimised over the pose."""

    xyz: Array
    seen: Array
    weights: Array
    camera: pycolmap.Camera
    scale: float

    def cost(self, cam_from_world: Array) -> float:
        """Infinite when a point falls behind the camera or out of the domain of its distortion model."""
        pixels, _ = project(self.camera, pose.transform(cam_from_world, self.xyz))
        squared = ((pixels - self.seen) ** 2).sum(axis=1)
        total = float((self.weights * self.scale**2 * np.log1p(squared / self.scale**2)).sum())
        return total if np.isfinite(total) else np.inf

    def normal_equations(self, cam_from_world: Array) -> tuple[Array, Array]:
        """Gauss-Newton matrix (6, 6) and gradient (6,) for a left perturbation (rotation vector, translation) of the pose."""
        points = pose.transform(cam_from_world, self.xyz)
        pixels, _ = project(self.camera, points)
        residuals = pixels - self.seen
        influence = self.weights / (1 + (residuals**2).sum(axis=1) / self.scale**2)
        jacobian = pose_jacobian(self.camera, points)
        weighted = jacobian * influence[:, None, None]
        return np.einsum("nij,nik->jk", weighted, jacobian), np.einsum("nij,ni->j", weighted, residuals)

    def minimise(self, cam_from_world: Array) -> Array:
        """Levenberg-Marquardt with reweighting."""
        damping, cost = 1e-4, self.cost(cam_from_world)
        for _ in range(MAX_STEPS):
            hessian, gradient = self.normal_equations(cam_from_world)
            candidate, new_cost, damping = self._step(cam_from_world, hessian, gradient, damping, cost)
            if not new_cost < cost:
                break
            converged = cost - new_cost <= RELATIVE_GAIN * cost
            cam_from_world, cost = candidate, new_cost
            if converged:
                break
        return cam_from_world

    def _step(self, cam_from_world: Array, hessian: Array, gradient: Array, damping: float, cost: float) -> tuple[Array, float, float]:
        """The first damped step that lowers the cost: its pose, its cost, and the damping to start the next one with."""
        diagonal = np.diag(hessian.diagonal() + 1e-12)
        while damping < MAX_DAMPING:
            delta: Array = -np.linalg.solve(hessian + damping * diagonal, gradient).astype(np.float64)
            candidate = pose.compose(_small_motion(delta), cam_from_world)
            new_cost = self.cost(candidate)
            if new_cost < cost:
                return candidate, new_cost, max(damping / 10, 1e-9)
            damping *= 10
        return cam_from_world, cost, damping


def pose_jacobian(camera: pycolmap.Camera, points: Array) -> Array:
    """Derivative (N, 2, 6) of pixels with respect to a left perturbation of the pose, at points (N, 3) in the camera frame."""
    depth = points[:, 2]
    rays = points[:, :2] / depth[:, None]
    of_ray = _projection_jacobian(camera, rays)
    ray_of_point = np.zeros((len(points), 2, 3))
    ray_of_point[:, 0, 0] = ray_of_point[:, 1, 1] = 1 / depth
    ray_of_point[:, :, 2] = -rays / depth[:, None]
    of_point = of_ray @ ray_of_point
    # rotating by w moves a point p by w x p, and J (w x p) = (p x J_row) . w for every row of J
    return np.concatenate([np.cross(points[:, None, :], of_point), of_point], axis=2)


def _projection_jacobian(camera: pycolmap.Camera, rays: Array) -> Array:
    """Derivative (N, 2, 2) of pixels with respect to rays (N, 2) on the plane z = 1, by differences: for every camera model."""
    moved = rays[None] + STEP * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[:, None, :]
    on_plane = np.concatenate([moved, np.ones((*moved.shape[:2], 1))], axis=2)
    pixels = project(camera, on_plane.reshape(-1, 3))[0].reshape(4, -1, 2)
    return np.stack([pixels[0] - pixels[1], pixels[2] - pixels[3]], axis=2) / (2 * STEP)


def _small_motion(delta: Array) -> Array:
    """Rigid motion (3, 4) of a rotation vector and a translation (6,)."""
    return np.concatenate([cv2.Rodrigues(delta[:3])[0], delta[3:, None]], axis=1)
