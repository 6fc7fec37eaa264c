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
from d2s.localization.lens import Free, believable, lens_jacobian, moved_lens

Array = NDArray[np.float64]
State = tuple[Array, pycolmap.Camera]
POSE = 6  # numbers of a rigid motion
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
    return refine_camera(cam_from_world, points, max_error, ())[0]


def refine_camera(cam_from_world: Array, points: Correspondences, max_error: float, free: Free) -> tuple[Array, pycolmap.Camera]:
    """As `refine_pose`, with what is `free` of the camera: the pose and the camera.

    A focal length can trade a few inliers at the threshold for many that fit better, so the cost decides then.
    """
    best, inliers = (cam_from_world, points.camera), find_inliers(cam_from_world, points, max_error)
    for _ in range(ROUNDS):
        if 2 * inliers.sum() < POSE + 2 + len(free):
            return best
        refined = _problem(points, inliers, max_error, free).minimise(*best)
        found = find_inliers(refined[0], points.seen_by(refined[1]), max_error)
        if found.sum() < inliers.sum() and not (free and _cheaper(refined, best, points, max_error)):
            return best
        best, unchanged, inliers = refined, bool((found == inliers).all()), found
        if unchanged:
            break
    return best


def _cheaper(a: State, b: State, points: Correspondences, max_error: float) -> bool:
    costs = [robust_cost(cam_from_world, points.seen_by(camera), max_error) for cam_from_world, camera in (a, b)]
    return costs[0] < costs[1]


def robust_cost(cam_from_world: Array, points: Correspondences, max_error: float) -> float:
    """What `refine_pose` minimises, over all points: pixels squared, those of a far-off point limited."""
    errors = np.minimum(reprojection_errors(cam_from_world, points), max_error)
    scale = max_error * LOSS_SCALE
    return float((points.weights * scale**2 * np.log1p(errors**2 / scale**2)).sum())


def promise(cam_from_world: Array, points: Correspondences, max_error: float, free: Free) -> float:
    """Share of the cost of the inliers that one step with the lens freed would leave: little time for a first idea."""
    problem = _problem(points, find_inliers(cam_from_world, points, max_error), max_error, free)
    hessian, gradient = problem.normal_equations(cam_from_world, points.camera)
    cost = problem.cost(cam_from_world, points.camera)
    return 1 - float(gradient @ np.linalg.lstsq(hessian, gradient, rcond=None)[0]) / cost if cost > 0 else 1.0


def _problem(points: Correspondences, mask: NDArray[np.bool_], max_error: float, free: Free) -> _Problem:
    return _Problem(points.xyz[mask], points.pixels[mask], points.weights[mask], max_error * LOSS_SCALE, free)


@dataclass(frozen=True)
class _Problem:
    """sum of weight * scale^2 * log(1 + |residual|^2 / scale^2) over points, to be minimised over pose and free lens."""

    xyz: Array
    seen: Array
    weights: Array
    scale: float
    free: Free = ()

    def cost(self, cam_from_world: Array, camera: pycolmap.Camera) -> float:
        """Infinite when a point falls behind the camera or out of the domain of its distortion model, or when no lens is like that."""
        if self.free and not believable(camera):
            return np.inf
        pixels, _ = project(camera, pose.transform(cam_from_world, self.xyz))
        squared = ((pixels - self.seen) ** 2).sum(axis=1)
        total = float((self.weights * self.scale**2 * np.log1p(squared / self.scale**2)).sum())
        return total if np.isfinite(total) else np.inf

    def normal_equations(self, cam_from_world: Array, camera: pycolmap.Camera) -> tuple[Array, Array]:
        """Gauss-Newton matrix (P, P) and gradient (P,) for a left perturbation of the pose (rotation, translation), then of the lens."""
        points = pose.transform(cam_from_world, self.xyz)
        pixels, _ = project(camera, points)
        residuals = pixels - self.seen
        influence = self.weights / (1 + (residuals**2).sum(axis=1) / self.scale**2)
        jacobian = pose_jacobian(camera, points)
        if self.free:
            jacobian = np.concatenate([jacobian, lens_jacobian(camera, points, pixels, self.free)], axis=2)
        rows = jacobian.reshape(2 * len(points), -1)
        weighted = rows.T * np.repeat(influence, 2)
        return weighted @ rows, weighted @ residuals.ravel()

    def minimise(self, cam_from_world: Array, camera: pycolmap.Camera) -> State:
        """Levenberg-Marquardt with reweighting."""
        damping, cost, state = 1e-4, self.cost(cam_from_world, camera), (cam_from_world, camera)
        for _ in range(MAX_STEPS):
            hessian, gradient = self.normal_equations(*state)
            candidate, new_cost, damping = self._step(state, hessian, gradient, damping, cost)
            if not new_cost < cost:
                break
            converged = cost - new_cost <= RELATIVE_GAIN * cost
            state, cost = candidate, new_cost
            if converged:
                break
        return state

    def _step(self, state: State, hessian: Array, gradient: Array, damping: float, cost: float) -> tuple[State, float, float]:
        """The first damped step that lowers the cost: where it leads, its cost, and the damping to start the next one with."""
        diagonal = np.diag(hessian.diagonal() + 1e-12)
        while damping < MAX_DAMPING:
            delta: Array = -np.linalg.solve(hessian + damping * diagonal, gradient).astype(np.float64)
            candidate = pose.compose(_small_motion(delta[:POSE]), state[0]), moved_lens(state[1], self.free, delta[POSE:])
            new_cost = self.cost(*candidate)
            if new_cost < cost:
                return candidate, new_cost, max(damping / 10, 1e-9)
            damping *= 10
        return state, cost, damping


def pose_jacobian(camera: pycolmap.Camera, points: Array) -> Array:
    """Derivative (N, 2, 6) of pixels with respect to a left perturbation of the pose, at points (N, 3) in the camera frame."""
    depth = points[:, 2, None]
    rays = points[:, :2] / depth
    x, y = _projection_jacobian(camera, rays)
    u, v = rays[:, :1], rays[:, 1:]
    z = -(x * u + y * v)  # x, y, z over the depth are the derivatives with respect to the point
    # rotating by w moves a point p by w x p, and J (w x p) = (p x J_row) . w for every row of J
    columns = np.stack([v * z - y, x - u * z, u * y - v * x, x / depth, y / depth, z / depth])
    return np.moveaxis(columns, 0, 2)


def _projection_jacobian(camera: pycolmap.Camera, rays: Array) -> Array:
    """Derivatives (2, N, 2) of pixels with respect to x and y of rays (N, 2) on the plane z = 1, by differences: for every camera model."""
    on_plane = np.ones((2, 2, len(rays), 3))  # moved along x and y, ahead and back
    on_plane[..., :2] = rays
    for axis in (0, 1):
        on_plane[axis, 0, :, axis] += STEP
        on_plane[axis, 1, :, axis] -= STEP
    pixels = project(camera, on_plane)[0].reshape(2, 2, -1, 2)
    return np.asarray((pixels[:, 0] - pixels[:, 1]) / (2 * STEP))


def _small_motion(delta: Array) -> Array:
    """Rigid motion (3, 4) of a rotation vector and a translation (6,)."""
    return np.concatenate([cv2.Rodrigues(delta[:3])[0], delta[3:, None]], axis=1)
