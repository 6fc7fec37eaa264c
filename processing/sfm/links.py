"""How the photos of a map hang together: which see the same 3D points, and where the map is held by few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

WEAK_SHARED, WEAK_SHARE = 60, 0.2
"""A link is weak when its photos share fewer points than the first, or than the second of what is typical here."""
ENOUGH_SHARED = 200
"""Never weak, however many points other photos share."""


@dataclass(frozen=True)
class Link:
    """The strongest connection between two parts of a map: its two photos, the points they share, and the smaller part."""

    first: str
    second: str
    shared: int
    part: tuple[str, ...]


def shared_points(model: pycolmap.Reconstruction, names: Sequence[str]) -> NDArray[np.int64]:
    """3D points that each pair of the named photos shares (n, n); the diagonal holds what each sees. Photos without points have zeros."""
    row = {name: index for index, name in enumerate(names)}
    ids = {image_id: row[image.name] for image_id, image in model.images.items() if image.name in row}
    shared = np.zeros((len(names), len(names)), np.int64)
    for point in model.points3D.values():
        seen = np.unique([ids[element.image_id] for element in point.track.elements if element.image_id in ids])
        if len(seen):
            shared[np.ix_(seen, seen)] += 1
    return shared


def strongest_tree(shared: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Edges of the maximum spanning tree: the connections that every other way between two photos is weaker than."""
    inside, best, origin = np.zeros(len(shared), bool), np.full(len(shared), -1), np.zeros(len(shared), np.intp)
    edges, current = [], 0
    for _ in range(len(shared) - 1):
        inside[current] = True
        better = shared[current] > best
        best[better], origin[better] = shared[current][better], current
        current = int(np.where(inside, -2, best).argmax())
        edges.append((int(origin[current]), current))
    return edges


def weak_links(shared: NDArray[np.int64], names: Sequence[str]) -> list[Link]:
    """Connections that hold a part of the map and are much weaker than is typical, weakest first.

    A part of one photo at the end of the path counts, too: `part` says which photos hang on the link.
    """
    edges = strongest_tree(shared)
    if not edges:
        return []
    strength = np.array([shared[a, b] for a, b in edges])
    limit = min(max(WEAK_SHARED, WEAK_SHARE * float(np.median(strength))), ENOUGH_SHARED)
    weak = [index for index in np.argsort(strength, kind="stable").tolist() if strength[index] < limit]
    return [_link(edges, index, int(strength[index]), names) for index in weak]


def _link(edges: Sequence[tuple[int, int]], index: int, shared: int, names: Sequence[str]) -> Link:
    first, second = sorted(edges[index])
    part = smaller_part(edges, index, len(names))
    return Link(names[first], names[second], shared, tuple(names[row] for row in sorted(part)))


def smaller_part(edges: Sequence[tuple[int, int]], cut: int, count: int) -> set[int]:
    """The smaller of the two sets of nodes that a tree falls into without one of its edges."""
    neighbours: dict[int, list[int]] = {node: [] for node in range(count)}
    for index, (a, b) in enumerate(edges):
        if index != cut:
            neighbours[a].append(b)
            neighbours[b].append(a)
    reached, waiting = set(), [edges[cut][0]]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += neighbours[node]
    rest = set(range(count)) - reached
    return min(reached, rest, key=len)
