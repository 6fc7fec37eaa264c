"""`report_data.npz`: what a page shows beside scores, so that it can be drawn again without localizing anything.

Points of the map, in the colour of the queries' pixels that found them; keypoints of the queries that the page has pictures of.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.features.images import read_image
from d2s.localization.result import LocalizationResult
from d2s.regressor.base import HasLandmarks, SceneRegressor
from d2s.scene.atomic import atomic_path
from d2s.scene.manifest import Scene

DATA = "report_data.npz"
MAX_POINTS = 12_000
MAX_COLORING = 80
"""Queries whose pixels colour the points: more of them colour few more."""


class Marked(Protocol):
    """Keypoints (N, 2) in pixels of an image, and the masks (N,) of those that went to PnP and of those that agree with the pose."""

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """Pixels (N, 2)."""
        ...

    @property
    def used(self) -> NDArray[np.bool_]:
        """Given to PnP."""
        ...

    @property
    def inliers(self) -> NDArray[np.bool_]:
        """Explained by the pose."""
        ...


@dataclass(frozen=True)
class Keypoints:
    """What is kept of a `LocalizationResult` for its picture; a `Marked`."""

    keypoints: NDArray[np.float32]
    used: NDArray[np.bool_]
    inliers: NDArray[np.bool_]


def _no_points() -> NDArray[np.float32]:
    return np.zeros((0, 3), np.float32)


@dataclass(frozen=True)
class ReportData:
    """`points` (P, 3) of the map in the world, rgb (P, 3) uint8, `found` (P,) True where a query saw the point; keypoints by image name."""

    points: NDArray[np.float32] = field(default_factory=_no_points)
    rgb: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), np.uint8))
    found: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    keypoints: Mapping[str, Marked] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, by rename."""
        marked = list(self.keypoints.values())
        arrays: dict[str, Any] = {
            "points": self.points,
            "rgb": self.rgb,
            "found": self.found,
            "names": np.array(list(self.keypoints), dtype=np.str_),
            "counts": np.array([len(m.used) for m in marked], dtype=np.int64),
            "keypoints": np.concatenate([np.zeros((0, 2), np.float32), *(m.keypoints for m in marked)]),
            "used": np.concatenate([np.zeros(0, bool), *(m.used for m in marked)]),
            "inliers": np.concatenate([np.zeros(0, bool), *(m.inliers for m in marked)]),
        }
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: Path) -> ReportData:
        """Read the file; nothing where there is none. Raises FormatError."""
        if not path.is_file():
            return ReportData()
        try:
            with np.load(path, allow_pickle=False) as file:
                ends = np.cumsum(file["counts"])[:-1]
                rows = zip(*(np.split(file[name], ends) for name in ("keypoints", "used", "inliers")), strict=True)
                keypoints = {str(name): Keypoints(*row) for name, row in zip(file["names"], rows, strict=False)}
                return ReportData(file["points"], file["rgb"], file["found"], keypoints)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise FormatError(f"{path} is damaged ({type(error).__name__}: {error}).", "Remove it, or evaluate again.") from None


def collect(
    scene: Scene, results: Mapping[str, LocalizationResult], pictures: Sequence[str], landmarks: NDArray[Any] | None = None
) -> ReportData:
    """Points and keypoints from results by image name; `pictures` names the images that the page shows.

    `landmarks` (M, 3) are the model's; a model without any is drawn by what it predicted for the queries.
    """
    points = _unique(_inlier_points(results) if landmarks is None or len(landmarks) == 0 else landmarks)
    rgb, found = _colors(scene, results, points)
    chosen = {name: results[name] for name in pictures if name in results}
    return ReportData(points, rgb, found, {name: Keypoints(r.keypoints, r.used, r.inliers) for name, r in chosen.items()})


def landmarks_of(regressor: SceneRegressor) -> NDArray[np.float64] | None:
    """Points (M, 3) that a model compares images with; None for one that has none."""
    landmarks = regressor.landmark_map() if isinstance(regressor, HasLandmarks) else None
    return None if landmarks is None else landmarks.xyz


def _inlier_points(results: Mapping[str, LocalizationResult]) -> NDArray[np.float32]:
    return np.concatenate([_no_points(), *(r.xyz[r.inliers] for r in results.values() if r.success)])


def _unique(points: NDArray[Any]) -> NDArray[np.float32]:
    """Each point once, and at most MAX_POINTS of them."""
    points = np.unique(np.asarray(points, dtype=np.float32), axis=0)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) > MAX_POINTS:
        points = points[np.sort(np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False))]
    return points


def _colors(
    scene: Scene, results: Mapping[str, LocalizationResult], points: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Mean colour (P, 3) of the pixels that agreed with each point, and whether there were any."""
    row = {point.tobytes(): index for index, point in enumerate(points)}
    total, count = np.zeros((len(points), 3)), np.zeros(len(points))
    for name, result in _spread({name: r for name, r in results.items() if r.inliers.any()}):
        for index, color in _pixels_of(scene, name, result, row):
            total[index] += color
            count[index] += 1
    return np.rint(total / np.maximum(count, 1)[:, None]).astype(np.uint8), count > 0


def _spread(results: Mapping[str, LocalizationResult]) -> list[tuple[str, LocalizationResult]]:
    items = list(results.items())
    return items[:: max(1, len(items) // MAX_COLORING)]


def _pixels_of(scene: Scene, name: str, result: LocalizationResult, row: Mapping[bytes, int]) -> list[tuple[int, NDArray[np.uint8]]]:
    """Row of the point and colour (3,) of each keypoint of an image that shows one of the points; none where the image is not there."""
    try:
        image = read_image(scene.image_dir / name)
    except InputError:
        return []  # it was there when it was localized; a page without a colour is still a page
    pixels = np.rint(result.keypoints[result.inliers]).astype(int).clip(0, [image.shape[1] - 1, image.shape[0] - 1])
    rows = [row.get(point.tobytes()) for point in result.xyz[result.inliers].astype(np.float32)]
    return [(index, image[y, x]) for index, (x, y) in zip(rows, pixels, strict=True) if index is not None]
