"""Depth images: read in metres, found by an image's name, and looked up along rays of the colour camera.

A depth image holds the distance along its camera's optical axis in millimetres, as a 16-bit PNG or a TIFF; 0, 65535, negative values and
anything beyond 1000 m mean that nothing was measured. Two cases of where it was taken from:

- aligned: by the colour camera itself (rendered from a mesh, or registered by the sensor, as in 12-Scenes), at any resolution;
- kinect: by the depth camera of a Kinect, beside the colour camera, as 7-Scenes publishes them: SIMPLE_PINHOLE 640 480 585 320 240, and
  COLOUR_FROM_DEPTH away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project, unproject
from processing.adapters.folders import open_image
from processing.adapters.rgbd_frames import COLOR_SUFFIXES, frame_stem
from processing.adapters.sfm_layout import scale_camera

Array = NDArray[np.float64]

MAX_DEPTH = 1000.0
NOT_MEASURED = 65535  # millimetres
EDGE = 0.05
"""Relative spread of four neighbouring depths beyond which they belong to different surfaces, and are not interpolated."""
ITERATIONS = 6
OFF_RAY = 2e-3
"""Distance from a ray, at unit depth (about a pixel), up to which a measured point counts as lying on it."""

KINECT = (640, 480, 585.0)
COLOUR_FROM_DEPTH: Array = pose.from_matrix(
    np.array([
        [0.999965, 0.002677, -0.007904, -0.025558],
        [-0.002741, 0.999963, -0.008150, 0.000101],
        [0.007882, 0.008172, 0.999936, 0.002032],
    ])
)  # fmt: skip
"""From the depth to the colour camera of a Kinect (a calibration of LIRIS, Lyon, metres). The published poses of the red kitchen and its
pseudo ground truth `dslam` differ by this transform, to 0.2 mm in every frame."""
SUFFIXES = (".depth.png", ".depth.tiff", ".pose.depth.tiff", ".depth.tif", ".png", ".tiff")


@dataclass(frozen=True)
class DepthMap:
    """Depths (H, W) in metres along the optical axis, NaN where there is none; the camera that took them, and where it was."""

    depth: Array
    camera: pycolmap.Camera
    depth_from_image: Array

    def along(self, rays: Array, guess: Array) -> Array:
        """Depths (N,) in the colour camera at which its rays (x, y, 1), given as (N, 2), meet the measured surface; NaN for none.

        `guess` (N,) is where the search begins. For a depth camera beside the colour camera, the point at the present depth is looked up,
        and the depth of what was measured there is tried next, until the measured point lies on the ray.
        """
        image_from_depth = pose.inverse(self.depth_from_image)
        z, found = np.array(guess), np.zeros((len(rays), 3))
        for _ in range(ITERATIONS):
            pixels, _ = project(self.camera, pose.transform(self.depth_from_image, _points(rays, z)))
            measured = sample(self.depth, pixels)
            found = pose.transform(image_from_depth, _points(unproject(self.camera, pixels), measured))
            if np.array_equal(z, found[:, 2], equal_nan=True):
                break
            z = found[:, 2]
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.linalg.norm(found[:, :2] / z[:, None] - rays, axis=1)
            return np.where((off <= OFF_RAY) & (z > 0), z, np.nan)


def _points(rays: Array, z: Array) -> Array:
    return np.column_stack([rays, np.ones(len(rays))]) * z[:, None]


def sample(depth: Array, pixels: Array) -> Array:
    """Depths (N,) at pixels (N, 2): bilinear on a surface, the nearest value at edges and beside holes; NaN in holes and outside."""
    height, width = depth.shape
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= -0.5) & (pixels <= np.array([width, height]) - 0.5)).all(axis=1)
    result = np.full(len(pixels), np.nan)
    x, y = np.clip(pixels[inside], 0, np.array([width, height]) - 1.0).T
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    corners = np.stack([depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]])
    u, v = x - left, y - top
    linear = (np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v]) * corners).sum(axis=0)
    smooth = np.ptp(corners, axis=0) <= EDGE * corners.min(axis=0)  # False beside NaN
    nearest = depth[np.rint(y).astype(int), np.rint(x).astype(int)]
    result[inside] = np.where(smooth, linear, nearest)
    return result


def read_depth(path: Path) -> Array:
    """Depths (H, W) of an image file in metres, NaN where nothing was measured. Raises MissingFileError or FormatError naming the file."""
    with open_image(path) as image:
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype == np.uint8:
        raise FormatError(f"{path} is not a depth image ({image.mode}).", "It must have one channel of 16 bits or more, in millimetres.")
    depth = values.astype(np.float64)
    invalid = ~np.isfinite(depth) | (depth <= 0) | (depth == NOT_MEASURED) | (depth > 1000 * MAX_DEPTH)
    return np.where(invalid, np.nan, depth / 1000)


def depth_file(name: str, image_dir: Path, depth_dir: Path | None) -> Path | None:
    """The depth image of a colour image: FRAME.depth.png beside it, or in `depth_dir` in one of the spellings that are around."""
    stem = frame_stem(name) if name.lower().endswith(COLOR_SUFFIXES) else str(PurePosixPath(name).with_suffix(""))
    if depth_dir is None:
        path = image_dir / f"{stem}.depth.png"
        return path if path.is_file() else None
    places = (depth_dir / f"{spelled}{suffix}" for spelled in _spellings(stem) for suffix in SUFFIXES)
    return next((path for path in places if path.is_file()), None)


def _spellings(stem: str) -> list[str]:
    """`seq-01/frame-000000`, `seq-01-frame-000000`, and `seq01_frame-000000` as rendered depth is published; 12-Scenes without `data/`."""
    folder, _, file = stem.rpartition("/")
    if not folder:
        return [stem]
    flat = folder.replace("/", "_")
    bare = [file] if folder == "data" else []
    return [stem, f"{flat}-{file}", f"{flat.replace('-', '')}_{file}", f"{flat}_{file}", *bare]


def read_depth_map(path: Path, camera: pycolmap.Camera, kinect: bool) -> DepthMap:
    """The depth image of a colour image with the given camera; `kinect` says that a depth camera beside it took it."""
    depth = read_depth(path)
    size = (depth.shape[1], depth.shape[0])
    if not kinect:
        return DepthMap(depth, scale_camera(camera, size, path), pose.IDENTITY)
    width, height, focal = KINECT
    if size != (width, height):
        raise InputError(f"{path} is {size[0]}x{size[1]}; a Kinect's depth images are {width}x{height}.", "Use --depth_camera aligned.")
    return DepthMap(depth, make_camera("SIMPLE_PINHOLE", width, height, [focal, width / 2, height / 2]), pose.inverse(COLOUR_FROM_DEPTH))
