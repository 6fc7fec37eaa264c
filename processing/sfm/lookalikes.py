"""Reconstructing again without the matches that put a group of photos in front of a look-alike.

Where two facades look alike, a few wrong matches can outweigh no right ones: photos of one are placed in front of the other. The group is
recognized afterwards (`processing.sfm.doubts`); the matches between it and photos that were not taken just before or after it go,
and structure from motion gets a second chance. Either the group finds its place through its true neighbours, or it stays out of the map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pycolmap

from processing.sfm.colmap import Matches
from processing.sfm.doubts import doubtful
from processing.sfm.links import Link, shared_points, weak_links
from processing.sfm.reconstruction import Reconstructed
from processing.unplaced import named

logger = logging.getLogger(__name__)

NEAR = 8
"""Photos before and after a group whose matches with it are believed."""


def doubted(model: pycolmap.Reconstruction, ordered: Sequence[str]) -> list[Link]:
    """The groups of a model that probably lie in the wrong place; `ordered`: all photos as they were taken."""
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values() if image.has_pose}
    placed = [name for name in ordered if name in poses]
    return doubtful(weak_links(shared_points(model, placed), placed), ordered, poses)


def without_lookalikes(matches: Matches, part: Sequence[str], ordered: Sequence[str]) -> Matches:
    """The matches without those between a group and photos far from it in the order."""
    rows, inside = {name: row for row, name in enumerate(ordered)}, set(part)
    own = [rows[name] for name in part]
    near = {name for name in ordered if min(abs(rows[name] - row) for row in own) <= NEAR}
    return {(a, b): found for (a, b), found in matches.items() if (a in inside) == (b in inside) or (a in near and b in near)}


def reconsider(found: Reconstructed, matches: Matches, ordered: Sequence[str], again: Callable[[Matches], Reconstructed]) -> Reconstructed:
    """The reconstruction, or a second one without the matches that its doubtful groups hang on, where that leaves less to doubt."""
    doubts = doubted(found.model, ordered)
    if not doubts:
        return found
    fewer = matches
    for link in doubts:
        logger.info("%s probably lie in front of a look-alike; reconstructing again without those matches", named(link.part))
        fewer = without_lookalikes(fewer, link.part, ordered)
    second = again(fewer)
    left = doubted(second.model, ordered)
    return second if _photos(left) < _photos(doubts) else found


def _photos(links: Sequence[Link]) -> int:
    return len({name for link in links for name in link.part})
