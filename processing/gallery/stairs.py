"""The staircase: landings and flights in a row, each like the next, told apart by a few details alone.

World frame: metres, x along the stairs and up, y across, z up, origin at the foot of the lowest landing's south-west corner.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from processing.gallery.room import Array, Door, Place, Room, Surface, bar, box, hanging, shell

LANDINGS = 4
LANDING, WIDTH, HEIGHT = 4.2, 2.4, 2.8
STEPS, TREAD, RISE = 8, 0.29, 0.165
FLIGHT, CLIMB = STEPS * TREAD, STEPS * RISE
LENGTH = LANDINGS * LANDING + (LANDINGS - 1) * FLIGHT
SEAM = 0.01  # metres by which an opening that fills a whole side is larger than it, so that no ray gets lost at its border
LANDING_SIDES = ("landing-south", "landing-west", "landing-north", "landing-east", "landing-floor", "landing-ceiling")


def floor_height(x: float) -> float:
    """Height of the floor, with flights as ramps."""
    storey, along = divmod(min(max(x, 0.0), LENGTH - 1e-9), LANDING + FLIGHT)
    return CLIMB * (storey + max(0.0, along - LANDING) / FLIGHT)


def make_stairs() -> Place:
    """Landing, flight, landing, …: rooms with even numbers are landings."""
    rooms: list[Room] = []
    for k in range(LANDINGS):
        rooms.append(_landing(k))
        if k < LANDINGS - 1:
            rooms.append(_flight(k))
    return Place(tuple(rooms))


def _landing(k: int) -> Room:
    at = np.array([k * (LANDING + FLIGHT), 0.0, k * CLIMB])
    sides = shell((LANDING, WIDTH, HEIGHT), at, f"landing{k}-", LANDING_SIDES)
    doors = [_opening(sides, side, room) for side, room, there in ((1, 2 * k - 1, k > 0), (3, 2 * k + 1, k < LANDINGS - 1)) if there]
    closed = [side for side in (1, 3) if side not in {door.side for door in doors}]
    shared = (sides[i] if i in closed else replace(sides[i], model=sides[i].material) for i in range(len(sides)))
    x, z = at[0], at[2]
    furniture = (
        hanging(box(f"landing{k}-radiator", "radiator", (x + 2.1, WIDTH - 0.08), (0.9, 0.12), 0.6, base=z + 0.12)),
        box(f"landing{k}-planter", "planter", (x + 0.45, 0.22), (0.34, 0.34), 0.55, base=z),
    )
    return Room(tuple(shared), tuple(tuple(_like_its_kind(side, f"landing{k}-") for side in piece) for piece in furniture), tuple(doors))


def _flight(k: int) -> Room:
    at = np.array([k * (LANDING + FLIGHT) + LANDING, 0.0, k * CLIMB])
    x, y, z = np.eye(3)
    slope = np.array([FLIGHT, 0, CLIMB]) / np.hypot(FLIGHT, CLIMB)
    top, tall, long = at + (HEIGHT + CLIMB) * z, HEIGHT + CLIMB, float(np.hypot(FLIGHT, CLIMB))
    parts: tuple[tuple[str, Array, Array, Array, tuple[float, float]], ...] = (
        ("south", top + FLIGHT * x, -x, -z, (FLIGHT, tall)),
        ("west", at + HEIGHT * z, y, -z, (WIDTH, HEIGHT)),
        ("north", top + WIDTH * y, x, -z, (FLIGHT, tall)),
        ("east", top + FLIGHT * x + WIDTH * y, -y, -z, (WIDTH, HEIGHT)),
        ("floor", at + WIDTH * y, slope, -y, (long, WIDTH)),
        ("ceiling", at + HEIGHT * z, slope, y, (long, WIDTH)),
    )
    sides = tuple(
        Surface(f"flight{k}-{name}", f"flight-{name}", origin, right, down, size, model=f"flight-{name}")
        for name, origin, right, down, size in parts
    )
    steps = [box(f"flight{k}-step{i}", "step", *_step(at, i), RISE, base=at[2] + i * RISE) for i in range(STEPS)]
    rails = [_rail(k, at, y) for y in (0.07, WIDTH - 0.07)]
    solids = tuple(tuple(_like_its_kind(side, f"flight{k}-") for side in rail) for rail in rails)
    solids += tuple(tuple(replace(side, model="step-" + side.name.rsplit("-", 1)[1]) for side in step) for step in steps)
    return Room(sides, solids, (_opening(sides, 1, 2 * k), _opening(sides, 3, 2 * k + 2)))


def _step(at: Array, i: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Centre and size on the ground of the i-th step."""
    return (at[0] + (i + 0.5) * TREAD, WIDTH / 2), (TREAD, WIDTH)


def _rail(k: int, at: Array, y: float) -> tuple[Surface, ...]:
    lower, upper = (at + np.array([along, y, 0.92 + along * RISE / TREAD]) for along in (0.05, FLIGHT - 0.05))
    return bar(f"flight{k}-rail{int(y > 1)}", "rail", lower, upper, 0.05, 0.06)


def _opening(sides: tuple[Surface, ...], side: int, room: int) -> Door:
    """A door as large as the side."""
    width, height = sides[side].size
    return Door(side, -SEAM, -SEAM, width + 2 * SEAM, height + 2 * SEAM, room)


def _like_its_kind(side: Surface, prefix: str) -> Surface:
    """Every storey's furniture looks the same."""
    return replace(side, model=side.name.removeprefix(prefix))
