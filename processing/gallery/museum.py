"""The museum: ten rooms and a hall, ten times the gallery, behind thick walls with passages from room to room.

World frame: metres, x east, y north, z up, origin in the south-west room's corner. Rooms 0 to 10 are the rooms in the order of ROOMS;
passages follow, one for every entry of PASSAGES.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from processing.gallery.room import Array, Door, Place, Room, Surface, box, shell

THICKNESS = 0.3  # metres: of the walls between rooms, which is the length of a passage
PASSAGE_WIDTH, PASSAGE_HEIGHT = 1.6, 2.4
SEAM = 0.01  # metres by which an opening that fills a whole side is larger than it, so that no ray gets lost at its border
COLUMNS, ROWS = (8.0, 7.0, 9.0, 7.5), (6.0, 5.0, 6.5)


@dataclass(frozen=True)
class Plan:
    """One room on the floor plan: first and last column, row, height in metres, look of its walls, floor and ceiling, what stands in it."""

    columns: tuple[int, int]
    row: int
    height: float
    walls: str
    floor: str
    ceiling: str
    pieces: str


ROOMS = (
    Plan((0, 0), 0, 3.2, "wall-crimson", "floor-parquet", "ceiling-coffers", "partition plinth plinth"),
    Plan((1, 1), 0, 3.4, "wall-brick", "floor-marble", "ceiling-skylight", "bench plinth column"),
    Plan((2, 2), 0, 3.6, "wall-navy", "floor-rugs", "ceiling-coffers", "partition crates plinth"),
    Plan((3, 3), 0, 3.2, "wall-panel", "floor-parquet", "ceiling-plain", "showcase column plinth"),
    Plan((3, 3), 1, 3.2, "wall-sage", "floor-marble", "ceiling-skylight", "bench plinth plinth"),
    Plan((1, 2), 1, 4.2, "wall-paper", "floor-rugs", "ceiling-skylight", "partition showcase column"),
    Plan((0, 0), 1, 3.2, "wall-plaster", "floor-marble", "ceiling-plain", "showcase plinth crates"),
    Plan((0, 0), 2, 3.6, "wall-ochre", "floor-parquet", "ceiling-coffers", "bench column plinth"),
    Plan((1, 1), 2, 3.2, "wall-plum", "floor-rugs", "ceiling-plain", "partition plinth crates"),
    Plan((2, 2), 2, 3.8, "wall-crimson", "floor-marble", "ceiling-skylight", "showcase plinth column"),
    Plan((3, 3), 2, 3.4, "wall-slate", "floor-parquet", "ceiling-coffers", "partition crates plinth"),
)
"""In the order in which the walk visits them: each one and the next are connected."""

PASSAGES = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (0, 6), (1, 5), (5, 9), (4, 10))


def extent(number: int) -> tuple[Array, tuple[float, float, float]]:
    """South-west corner on the floor (3,) and size (width, depth, height) of a room."""
    plan = ROOMS[number]
    first, last = plan.columns
    starts_x = np.cumsum((0.0, *(c + THICKNESS for c in COLUMNS)))
    starts_y = np.cumsum((0.0, *(r + THICKNESS for r in ROWS)))
    width = float(starts_x[last + 1] - THICKNESS - starts_x[first])
    return np.array([starts_x[first], starts_y[plan.row], 0.0]), (width, ROWS[plan.row], plan.height)


def passage(number: int) -> tuple[Array, Array]:
    """Middle of a passage on the floor (3,) and the direction (3,) from its first room to its second one."""
    (at_a, size_a), (at_b, size_b) = (extent(room) for room in PASSAGES[number])
    low, high = np.maximum(at_a, at_b), np.minimum(at_a + size_a, at_b + size_b)
    direction = np.where(high < low, np.sign(at_b - at_a), 0.0)
    return np.array([*(low + high)[:2] / 2, 0.0]), direction


def make_museum() -> Place:
    """Rooms, and passages as small rooms with two open sides."""
    passages = [_passage(number) for number in range(len(PASSAGES))]
    return Place(tuple(_room(number, passages) for number in range(len(ROOMS))) + tuple(passages))


def _room(number: int, passages: list[Room]) -> Room:
    plan, (at, size) = ROOMS[number], extent(number)
    sides = shell(size, at, f"room{number}-", (plan.walls,) * 4 + (plan.floor, plan.ceiling))
    doors = []
    for k, pair in enumerate(PASSAGES):
        if number in pair:
            opening = passages[k].doors[pair.index(number)].side
            doors.append(_door_to(sides, passages[k].shell[opening], len(ROOMS) + k))
    return Room(sides, tuple(_furniture(number)), tuple(doors))


def _door_to(sides: tuple[Surface, ...], opening: Surface, room: int) -> Door:
    """The door in the wall behind which a passage's open side lies."""
    side = min(
        range(4), key=lambda i: float(abs(sides[i].normal @ (opening.origin - sides[i].origin)) + abs(sides[i].normal @ opening.right))
    )
    wall = sides[side]
    corner = (
        opening.origin + opening.size[0] * opening.right - wall.origin
    )  # the opening is seen from the other side: its right is the left
    return Door(side, float(corner @ wall.right), float(corner @ wall.down), *opening.size, room)


def _passage(number: int) -> Room:
    middle, direction = passage(number)
    along_x = bool(abs(direction[0]) > 0.5)
    size = (THICKNESS, PASSAGE_WIDTH, PASSAGE_HEIGHT) if along_x else (PASSAGE_WIDTH, THICKNESS, PASSAGE_HEIGHT)
    at = middle - np.array([size[0], size[1], 0.0]) / 2
    sides = shell(size, at, f"passage{number}-", ("jamb",) * 4 + ("threshold", "jamb"))
    backward, forward = ((1, 3) if direction[0] > 0 else (3, 1)) if along_x else ((0, 2) if direction[1] > 0 else (2, 0))
    doors = []
    for side, room in zip((backward, forward), PASSAGES[number], strict=True):
        width, height = sides[side].size
        doors.append(Door(side, -SEAM, -SEAM, width + 2 * SEAM, height + 2 * SEAM, room))
    return Room(sides, (), tuple(doors))


def _furniture(number: int) -> list[tuple[Surface, ...]]:
    """One piece in the middle, two in corners; the hall has two in the middle."""
    at, (width, depth, height) = extent(number)
    middle = at[:2] + np.array([width, depth]) / 2
    central, *others = ROOMS[number].pieces.split()
    yaw = (7, -5, 11, -9)[number % 4]
    if width > 12:
        first, second = (middle + np.array([s * width / 4, 0.0]) for s in (-1, 1))
        corner = middle + np.array([width / 2 - 0.55, depth / 2 - 0.55])
        return [
            *_piece("partition", f"room{number}-a", first, height, yaw),
            *_piece("showcase", f"room{number}-b", second, height, -yaw),
            *_piece("column", f"room{number}-c", corner, height, 45),
        ]
    solids = _piece(central, f"room{number}-a", middle, height, yaw)
    for k, kind in enumerate(others):
        sign = ((1, 1), (-1, -1), (1, -1), (-1, 1))[(number + 2 * k) % 4] if k == 0 else ((-1, 1), (1, -1), (-1, -1), (1, 1))[number % 4]
        corner = middle + np.array(sign) * np.array([width / 2 - 0.6, depth / 2 - 0.6])
        solids += _piece(kind, f"room{number}-{'bc'[k]}", corner, height, yaw + 20 * k)
    return solids


def _piece(kind: str, name: str, where: ArrayLike, height: float, yaw: float) -> list[tuple[Surface, ...]]:
    x, y = (float(value) for value in np.asarray(where))
    if kind == "partition":
        return [box(f"{name}-partition", "pictures", (x, y), (2.4, 0.22), 2.2, yaw)]
    if kind == "bench":
        return [box(f"{name}-bench", "wood", (x, y), (1.6, 0.5), 0.45, yaw)]
    if kind == "showcase":
        return [
            box(f"{name}-base", "wood", (x, y), (1.7, 0.6), 0.8, yaw),
            box(f"{name}-top", "mosaic", (x, y), (1.5, 0.45), 0.35, yaw, base=0.8),
        ]
    if kind == "column":
        return [box(f"{name}-column", "abstract", (x, y), (0.35, 0.35), height, yaw)]
    if kind == "crates":
        lower = box(f"{name}-lower", "poster", (x, y), (0.7, 0.7), 0.6, yaw)
        return [lower, box(f"{name}-upper", "grid", (x, y), (0.42, 0.42), 0.45, yaw - 25, base=0.6)]
    return [box(f"{name}-plinth", ("strokes", "shapes", "marble")[len(name) % 3], (x, y), (0.45, 0.45), 1.1, yaw)]
