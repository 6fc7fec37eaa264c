"""The place in 3D on a page: points, mapping cameras and queries for the viewer in `scene_view.js`, which needs no network and no GPU."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.evaluation.grades import COLORS
from d2s.geometry import pose
from d2s.geometry.camera import unproject

Array = NDArray[np.float64]
MAX_MAPPING, MAX_QUERIES = 1_200, 1_000
STEPS = 65_535


@dataclass(frozen=True)
class Query:
    """One query as the viewer shows it: poses cam_from_world (3, 4), `estimated` None where there is none; `text` says how good it is."""

    name: str
    true: Array
    estimated: Array | None
    grade: int
    text: str


@dataclass(frozen=True)
class SceneView:
    """What the viewer shows, all in the world frame: points (P, 3) with rgb (P, 3), mapping poses (N, 3, 4), queries.

    `up` (3,) is the direction that is drawn upwards; `camera` gives the cameras' shape; `grades` names the four grades.
    """

    points: Array
    rgb: NDArray[np.uint8]
    mapping: Array
    queries: Sequence[Query]
    up: Array
    camera: pycolmap.Camera
    grades: Sequence[str]
    unit: str

    def html(self) -> str:
        """The viewer with its data. Without scripts it stays hidden."""
        data = json.dumps(self._data(), separators=(",", ":")).replace("<", "\\u003c")  # no name can end the script element
        return f'{_CONTROLS}<script type="application/json" id="scene-data">{data}</script>\n<script>{_script()}</script>'

    def _data(self) -> dict[str, Any]:
        low, size = self._box()
        shown = ((self.points >= low) & (self.points <= low + size)).all(axis=1)  # points far outside would cost all others their precision
        corner = np.abs(unproject(self.camera, [[self.camera.width - 1, self.camera.height - 1]])[0])
        return {
            "low": _rounded(low),
            "size": _rounded(size),
            "xyz": _base64(np.rint((self.points[shown] - low) / size * STEPS).astype("<u2")),
            "rgb": _base64(self.rgb[shown]),
            "mapping": [_camera(p) for p in self.mapping[:: 1 + len(self.mapping) // MAX_MAPPING]],
            "queries": [_query(q) for q in self.queries[:: 1 + len(self.queries) // MAX_QUERIES]],
            "up": _rounded(self.up),
            "half": _rounded(np.where(np.isfinite(corner), corner, 0.5)),
            "colors": COLORS,
            "grades": list(self.grades),
            "unit": self.unit,
        }

    def _box(self) -> tuple[Array, Array]:
        """Corner and size (3,) of the box that holds the cameras and most points."""
        centers = pose.center(np.concatenate([self.mapping, [q.true for q in self.queries]]).reshape(-1, 3, 4))
        low, high = centers.min(axis=0), centers.max(axis=0)
        if len(self.points):
            inner_low, inner_high = np.quantile(self.points, [0.01, 0.99], axis=0)
            low, high = np.minimum(low, inner_low), np.maximum(high, inner_high)
        return low, np.maximum(high - low, 1e-9)


def _camera(cam_from_world: Array) -> list[float]:
    """Centre and quaternion w x y z."""
    return _rounded([*pose.center(cam_from_world), *pose.to_qvec_tvec(cam_from_world)[0]])


def _query(query: Query) -> dict[str, Any]:
    estimated = None if query.estimated is None else _camera(query.estimated)
    return {"n": query.name, "t": _camera(query.true), "e": estimated, "g": query.grade, "s": query.text}


def _rounded(values: Any) -> list[float]:
    """Six figures: a tenth of a millimetre in a hundred metres."""
    return [float(f"{value:.6g}") for value in values]


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _script() -> str:
    return resources.files("d2s.evaluation").joinpath("scene_view.js").read_text(encoding="utf-8")


_CONTROLS = """<div id="scene3d" hidden>
<div class="view3d"><canvas tabindex="0" role="img" aria-label="The place in 3D: points, mapping cameras and queries"></canvas>
<div class="tip" hidden></div></div>
<div class="keys small"></div>
<p class="soft small"><span class="mouse">Drag to turn, wheel to zoom, Shift and drag to move; arrow keys and + - do the same.</span>
<span class="touch">One finger sideways turns, two fingers zoom and move.</span> Point at a query to see its error.
Queries stand where they truly were; a line leads to where the answer put them.</p>
</div>
<noscript><p class="soft">The view in 3D needs JavaScript; the map further down shows the same from above.</p></noscript>
"""
