"""Rigid poses as 3x4 matrices.

A pose named `b_from_a` maps coordinates in frame a to frame b: `x_b = R @ x_a + t`. Everything in this project stores `cam_from_world`,
float64, translations in the scene's unit (metres where the data set says so). Quaternions are in COLMAP order, w x y z.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2s.errors import FormatError

Array = NDArray[np.float64]

IDENTITY: Array = np.eye(3, 4)
IDENTITY.flags.writeable = False


def homogeneous(pose: ArrayLike) -> Array:
    """(..., 3, 4) -> (..., 4, 4)."""
    pose = np.asarray(pose, dtype=np.float64)
    bottom = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (*pose.shape[:-2], 1, 4))
    return np.concatenate([pose, bottom], axis=-2)


def compose(c_from_b: ArrayLike, b_from_a: ArrayLike) -> Array:
    """c_from_a, (..., 3, 4)."""
    return (homogeneous(c_from_b) @ homogeneous(b_from_a))[..., :3, :]


def inverse(b_from_a: ArrayLike) -> Array:
    """a_from_b, (..., 3, 4)."""
    b_from_a = np.asarray(b_from_a, dtype=np.float64)
    rotation = np.swapaxes(b_from_a[..., :3], -1, -2)
    return np.concatenate([rotation, -rotation @ b_from_a[..., 3:]], axis=-1)


def transform(b_from_a: ArrayLike, points_a: ArrayLike) -> Array:
    """Points (N, 3) of frame a in frame b."""
    b_from_a = np.asarray(b_from_a, dtype=np.float64)
    return np.asarray(points_a, dtype=np.float64) @ b_from_a[:, :3].T + b_from_a[:, 3]


def center(cam_from_world: ArrayLike) -> Array:
    """Camera centre(s) in the world, (..., 3)."""
    return inverse(cam_from_world)[..., 3]


def rotation_from_qvec(qvec: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions w x y z (..., 4) of any non-zero length."""
    q = np.asarray(qvec, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def qvec_from_rotation(rotation: ArrayLike) -> Array:
    """Unit quaternions w x y z with w >= 0, (..., 4), of rotation matrices (..., 3, 3).

    The quaternion is the dominant eigenvector of Bar-Itzhack's symmetric matrix, which is stable for every angle.
    """
    r = np.asarray(rotation, dtype=np.float64)
    m = np.empty((*r.shape[:-2], 4, 4))
    m[..., 0, 0] = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    m[..., 1, 1] = r[..., 0, 0] - r[..., 1, 1] - r[..., 2, 2]
    m[..., 2, 2] = r[..., 1, 1] - r[..., 0, 0] - r[..., 2, 2]
    m[..., 3, 3] = r[..., 2, 2] - r[..., 0, 0] - r[..., 1, 1]
    m[..., 0, 1] = m[..., 1, 0] = r[..., 2, 1] - r[..., 1, 2]
    m[..., 0, 2] = m[..., 2, 0] = r[..., 0, 2] - r[..., 2, 0]
    m[..., 0, 3] = m[..., 3, 0] = r[..., 1, 0] - r[..., 0, 1]
    m[..., 1, 2] = m[..., 2, 1] = r[..., 0, 1] + r[..., 1, 0]
    m[..., 1, 3] = m[..., 3, 1] = r[..., 0, 2] + r[..., 2, 0]
    m[..., 2, 3] = m[..., 3, 2] = r[..., 1, 2] + r[..., 2, 1]
    qvec = np.linalg.eigh(m)[1][..., -1]
    return np.where(qvec[..., :1] < 0, -qvec, qvec)


def from_qvec_tvec(qvec: ArrayLike, tvec: ArrayLike) -> Array:
    """(3, 4) pose of a quaternion w x y z and a translation."""
    qvec = np.asarray(qvec, dtype=np.float64)
    if not np.isfinite(qvec).all() or np.linalg.norm(qvec) < 1e-9:
        raise FormatError(f"{qvec.tolist()} is not a rotation quaternion (w x y z, non-zero, finite).")
    return np.concatenate([rotation_from_qvec(qvec), np.asarray(tvec, dtype=np.float64).reshape(3, 1)], axis=1)


def to_qvec_tvec(pose: ArrayLike) -> tuple[Array, Array]:
    """Quaternion w x y z (4,) and translation (3,) of a (3, 4) pose."""
    pose = np.asarray(pose, dtype=np.float64)
    return qvec_from_rotation(pose[:, :3]), pose[:, 3].copy()


def from_matrix(matrix: ArrayLike, tolerance: float = 1e-2) -> Array:
    """A checked (3, 4) pose from a 3x4 or 4x4 matrix read from a file.

    The rotation is projected to the nearest one (text files round); it must be a rotation up to `tolerance`.
    Raises FormatError for non-finite values, scale, shear or a reflection.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise FormatError(f"A pose must be a finite 3x4 or 4x4 matrix, not one of shape {matrix.shape} with values {matrix.ravel()[:4]}…")
    u, singular, vt = np.linalg.svd(matrix[:3, :3])
    if np.abs(singular - 1).max() > tolerance or np.linalg.det(u @ vt) < 0:
        raise FormatError(f"The left 3x3 block of a pose is not a rotation (singular values {np.round(singular, 4).tolist()}).")
    return np.concatenate([u @ vt, matrix[:3, 3:]], axis=1)


def rotation_angle_deg(rotation: ArrayLike) -> Array:
    """Angle of rotation matrices (..., 3, 3) in degrees, accurate for small angles too."""
    r = np.asarray(rotation, dtype=np.float64)
    sine = 0.5 * np.linalg.norm(
        np.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], axis=-1), axis=-1
    )
    cosine = 0.5 * (np.trace(r, axis1=-2, axis2=-1) - 1)
    return np.degrees(np.arctan2(sine, cosine))


def pose_error(estimated: ArrayLike, true: ArrayLike) -> tuple[float, float]:
    """Distance of the camera centres (scene unit) and angle between the rotations (degrees) of two cam_from_world."""
    estimated, true = np.asarray(estimated, dtype=np.float64), np.asarray(true, dtype=np.float64)
    distance = float(np.linalg.norm(center(estimated) - center(true)))
    return distance, float(rotation_angle_deg(true[:, :3].T @ estimated[:, :3]))
