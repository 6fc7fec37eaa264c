"""The mapping images as far as a query can use them: where they were taken, and which landmarks each of them saw.

`views.safetensors` of a model holds them, some 3 kB a view. With them, landmarks can be shown to a query as one photo of the map would show
them: LightGlue asks for keypoints in an image, and the landmarks of a view, projected into it, are such (`d2s.localization.effort`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from d2s.errors import FormatError

Array = NDArray[np.float64]
MOST_VIEWS = 300
"""Views that a model keeps, evenly spread over the mapping images: the neighbours in a video show the same."""


@dataclass(frozen=True)
class Views:
    """V views: `cam_from_map` (V, 3, 4), `camera` (V,) index into `ModelInfo.cameras`, and the landmarks that each saw: those of view v are
    `landmark[start[v] : start[v + 1]]`; `start` (V + 1,).
    """

    cam_from_map: Array
    camera: NDArray[np.int64]
    start: NDArray[np.int64]
    landmark: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.camera)

    def seen(self, view: int) -> NDArray[np.int64]:
        """Landmarks of one view."""
        return self.landmark[self.start[view] : self.start[view + 1]]

    def most_alike(self, shown: NDArray[np.int64], count: int) -> list[int]:
        """The views, at most `count` and best first, that saw most of the landmarks `shown` (K,), for their own number."""
        size = np.diff(self.start)
        hits = np.isin(self.landmark, shown).astype(np.float64)
        votes = np.add.reduceat(np.append(hits, 0.0), self.start[:-1]) * (size > 0)
        order = np.argsort(-votes / np.sqrt(np.maximum(size, 1)), kind="stable")
        return [int(view) for view in order[:count] if votes[view] > 0]


def save_views(path: Path, views: Views) -> None:
    """Landmarks as 16-bit numbers where these are enough."""
    kind = np.uint16 if views.landmark.max(initial=0) < 2**16 else np.int32
    arrays = {"cam_from_map": views.cam_from_map.astype(np.float32), "camera": views.camera.astype(np.int32)}
    save_file({**arrays, "start": views.start.astype(np.int32), "landmark": views.landmark.astype(kind)}, path)


def load_views(path: Path, cameras: int, landmarks: int) -> Views:
    """The views of a model with so many cameras and landmarks. Raises FormatError for a file that does not fit it."""
    try:
        arrays = load_file(path)
        whole = {name: arrays[name].astype(np.int64) for name in ("camera", "start", "landmark")}
        views = Views(arrays["cam_from_map"].astype(np.float64).reshape(-1, 3, 4), **whole)
        _check(views, cameras, landmarks)
        return views
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"{path} is damaged ({' '.join(str(error).split())[:200]}).", "Copy the model again, or train again.") from None


def _check(views: Views, cameras: int, landmarks: int) -> None:
    start, number = views.start, len(views.cam_from_map)
    if len(views.camera) != number or len(start) != number + 1 or not np.isfinite(views.cam_from_map).all():
        raise ValueError(f"{number} poses, {len(views.camera)} cameras, {len(start)} beginnings")
    if start[0] != 0 or start[-1] != len(views.landmark) or (np.diff(start) < 0).any():
        raise ValueError("beginnings that do not ascend to the number of entries")
    for name, values, count in (("camera", views.camera, cameras), ("landmark", views.landmark, landmarks)):
        if len(values) and not (values.min() >= 0 and count > values.max()):
            raise ValueError(f"{name} {int(values.min())} to {int(values.max())} of {count}")
