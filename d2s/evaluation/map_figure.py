"""The place from above and from the side, as SVG: where it was mapped, where queries stood, and where localization should work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from d2s.evaluation.coverage import Coverage
from d2s.evaluation.figures import BLUE, INK, RED, STYLE, new_figure, svg
from d2s.evaluation.grades import COLORS, FAILED
from d2s.features.upright import quarter_turns
from d2s.geometry import pose
from d2s.scene.manifest import AXES, EAST_NORTH_UP, Scene, SceneImage

Array = NDArray[np.float64]
WIDTH = 5.0
"""Inches: a phone shows them as 10 cm, on which the text can be read."""
MAX_POINTS = 15_000
LEVELS = (0.25, 0.5, 0.75)
"""Shares of the directions that separate the shades of a cell."""
SHADES = (0.08, 0.2, 0.34, 0.5)
TOPS = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""Where the top of a photo lies in the stored image (x, y), by its number of quarter turns."""
MAX_TURNS_READ = 200
"""Photos of which about so many are asked how they were held: reading their headers takes time."""
MAPPING, POINTS = "#4a70ab", "#98a3b0"


@dataclass(frozen=True)
class PlaceMap:
    """What a map shows; all in the world frame. `mapping`, `true` and `estimated` are poses (N, 3, 4), `grades` (N,) those of the queries.

    `estimated` rows are NaN where a query failed; they are row-aligned with `true`. `points` (M, 3). `coverage`, where known, shades the
    cells. `axes` (2, 3) are those of `view_from_above`, where they are known better than from the poses.
    """

    mapping: Array
    true: Array
    estimated: Array
    grades: Sequence[int]
    points: Array
    unit: str
    names: Sequence[str] = ("good", "fair", "poor", "not localized")
    coverage: Coverage | None = None
    axes: Array | None = None

    def from_above(self) -> str:
        """The figure as SVG, the longer extent across."""
        return self._draw(self._axes(), legend=True)

    def from_the_side(self) -> str:
        """The same with up upwards."""
        right, forward = self._axes()
        return self._draw(np.stack([right, np.cross(right, forward)]), legend=False)

    def _axes(self) -> Array:
        return view_from_above(np.concatenate([self.mapping, self.true])) if self.axes is None else self.axes

    def _draw(self, axes_from_world: Array, legend: bool) -> str:
        flat = {
            "points": _thinned(self.points) @ axes_from_world.T,
            "mapping": pose.center(self.mapping) @ axes_from_world.T,
            "true": pose.center(self.true) @ axes_from_world.T,
            "estimated": pose.center(self.estimated) @ axes_from_world.T,
        }
        low, high = _frame(flat)
        width, height = np.maximum(high - low, 1e-9)
        with matplotlib.rc_context(STYLE):
            figure, axes = new_figure(WIDTH, float(np.clip(0.9 * WIDTH * height / width, 0.9, 0.9 * WIDTH)) + (1.15 if legend else 0.5))
            if self.coverage is not None:
                _draw_cells(axes, self.coverage, axes_from_world)
            if len(self.points):
                _dots(axes, flat["points"], "points of the map", s=0.9, color=POINTS, alpha=0.5, linewidths=0, rasterized=True)
            _draw_views(axes, flat["mapping"], self.mapping, axes_from_world, 0.025 * max(width, height))
            self._draw_queries(axes, flat["true"], flat["estimated"])
            axes.set_xlim(low[0], high[0])
            axes.set_ylim(low[1], high[1])
            axes.set_aspect("equal", adjustable="box")
            axes.set_xlabel(self.unit)
            if legend:
                _legend(figure, axes)
            return svg(figure)

    def _draw_queries(self, axes: Axes, true: Array, estimated: Array) -> None:
        grades = np.asarray(self.grades, dtype=int)
        found = np.isfinite(estimated).all(axis=1)
        lines = np.stack([true[found], estimated[found]], axis=1)
        axes.add_collection(LineCollection(list(lines), colors=[COLORS[g] for g in grades[found]], linewidths=0.9, zorder=4))
        for grade, name in enumerate(self.names):
            shown = grades == grade
            if shown.any():
                mark: dict[str, Any] = {"marker": "x", "s": 26, "linewidths": 1.5} if grade == FAILED else {"s": 13, "linewidths": 0}
                _dots(axes, true[shown], f"query {name}", color=COLORS[grade], zorder=5 + grade, **mark)


def shade_legend() -> str:
    """What the shades of the cells mean, as HTML."""
    edges = [0, *(f"{100 * level:.0f}" for level in LEVELS), 100]
    rgb = ", ".join(str(int(BLUE[i : i + 2], 16)) for i in (1, 3, 5))
    squares = (
        f'<span><i class="cell" style="background: rgba({rgb}, {alpha})"></i>{low} to {high} %</span>'
        for alpha, low, high in zip(SHADES, edges[:-1], edges[1:], strict=True)
    )
    return f'<p class="legend small">of all directions: {"".join(squares)}<span><i class="cell weak"></i>little</span></p>'


def _thinned(points: Array) -> Array:
    if len(points) <= MAX_POINTS:
        return points
    return points[np.random.default_rng(0).choice(len(points), MAX_POINTS, replace=False)]


def ups(scene: Scene, images: Sequence[SceneImage]) -> Array:
    """Which way is up, (N, 3): as the scene itself says, else where the top of some of the images is, which may be stored turned."""
    if scene.provenance.get(AXES) == EAST_NORTH_UP:
        return np.array([[0.0, 0.0, 1.0]])
    some = [image for image in images if image.cam_from_world is not None][:: 1 + len(images) // MAX_TURNS_READ]
    tops = np.array([TOPS[quarter_turns(scene.path(image))] for image in some])
    return np.einsum("ni,nij->nj", tops, np.stack([np.asarray(image.cam_from_world)[:2, :3] for image in some]))


def view_from_above(poses: Array, ups: Array | None = None) -> Array:
    """Rows: the horizontal axes (2, 3) of a view from above onto cameras (N, 3, 4), the longer extent first.

    Up is the mean of `ups` (M, 3), by default the tops of the images (people hold cameras upright); where they point everywhere, the
    flattest direction of the path is up.
    """
    centers = pose.center(poses)
    up = -poses[:, 1, :3].mean(axis=0) if ups is None else ups.mean(axis=0)
    if np.linalg.norm(up) < 0.3:
        up = np.linalg.svd(centers - centers.mean(axis=0))[2][-1]
    up = up / np.linalg.norm(up)
    flat = (centers - centers.mean(axis=0)) @ (np.eye(3) - np.outer(up, up))
    first = np.linalg.svd(flat)[2][0]
    if abs(first @ up) > 0.5:  # all cameras in one place: any horizontal direction serves
        first = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    first = first - (first @ up) * up
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])


def _draw_cells(axes: Axes, coverage: Coverage, axes_from_world: Array) -> None:
    """Shaded squares: the more directions find enough of the map, the darker; weak ones have a red edge. Levels share a square."""
    columns: dict[tuple[int, int], list[int]] = {}
    for index, place in enumerate(np.floor(coverage.centers @ axes_from_world.T / coverage.size).astype(int).tolist()):
        columns.setdefault((place[0], place[1]), []).append(index)
    weak, size = coverage.weak(), coverage.size
    for shade, alpha in enumerate(SHADES):
        level = [c for c, rows in columns.items() if np.searchsorted(LEVELS, coverage.open[rows].mean(), side="right") == shade]
        squares = [Rectangle((x * size, y * size), size, size) for x, y in level]
        axes.add_collection(PatchCollection(squares, facecolor=BLUE, alpha=alpha, linewidths=0, zorder=0))
    corners = [(x + 0.06, y + 0.06) for (x, y), rows in columns.items() if weak[rows].any()]
    edges = [Rectangle((x * size, y * size), 0.88 * size, 0.88 * size) for x, y in corners]
    axes.add_collection(PatchCollection(edges, facecolor="none", edgecolor=RED, linewidths=0.9, linestyles=":", zorder=1))


def _draw_views(axes: Axes, places: Array, poses: Array, axes_from_world: Array, length: float) -> None:
    """Mapping cameras as dots with a short line along where they look."""
    ahead = poses[:, 2, :3] @ axes_from_world.T
    lines = np.stack([places, places + length * ahead], axis=1)
    many = len(places) > 1000
    axes.add_collection(LineCollection(list(lines), colors=MAPPING, linewidths=0.6, alpha=0.7, zorder=2, rasterized=many))
    _dots(axes, places, "mapping cameras", s=4, color=MAPPING, linewidths=0, zorder=3, rasterized=many)


def _dots(axes: Axes, points: Array, label: str, **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], label=label, **style)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    for handle in legend.legend_handles:
        handle.set_sizes([26])  # type: ignore[union-attr]
        handle.set_alpha(1)  # type: ignore[union-attr]


def _frame(flat: dict[str, Array]) -> tuple[Array, Array]:
    """Limits (2,), (2,) of every true camera and most points; far wrong estimates are cut off rather than shrinking everything else."""
    low, high = _limits(np.concatenate([flat["mapping"], flat["true"]]), (0, 1))
    if len(flat["points"]):
        point_low, point_high = _limits(flat["points"], (0.02, 0.98))
        low, high = np.minimum(low, point_low), np.maximum(high, point_high)
    margin = 0.05 * float((high - low).max()) or 1.0
    return low - margin, high + margin


def _limits(points: Array, quantiles: tuple[float, float]) -> tuple[Array, Array]:
    low, high = np.quantile(points, quantiles, axis=0)
    return low, high
