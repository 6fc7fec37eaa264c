"""Reconstructing again, with more keypoints, where parts of the first reconstruction hang on the rest by too little.

A map needs no more keypoints than it has landmarks for; structure from motion does where photos overlap little. Asking for more from the
start would cost every reconstruction several times as long, so that only a doubtful one pays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from d2s.errors import ReconstructionError
from processing.sfm.hinges import Hinge, loose_parts
from processing.sfm.reconstruction import Reconstructed
from processing.unplaced import named

logger = logging.getLogger(__name__)

LIMIT = 0.01
"""Share of the extent of the path by which a part may be out of place without being doubted: what a verdict of "well" allows."""
MORE = 2
"""Factor on the number of keypoints in the second try."""


def firmer(found: Reconstructed, again: Callable[[], Reconstructed]) -> Reconstructed:
    """The reconstruction, or a second one by `again` where parts of the first are loose and more photos have a firm place in the second."""
    loose = _loose(found)
    if not loose:
        return found
    logger.info("%s hang on the rest by too little; reconstructing again with more keypoints", "; ".join(named(one.part) for one in loose))
    try:
        second = again()
    except ReconstructionError as error:
        logger.info("The first reconstruction stays: %s", error.problem)
        return found
    left = _loose(second)
    before, after = _firm(found, loose), _firm(second, left)
    logger.info("Photos with a firm place: %d, were %d", after, before)
    return second if after > before else found


def _loose(found: Reconstructed) -> list[Hinge]:
    return loose_parts(found.model, sorted(image.name for image in found.model.images.values() if image.has_pose), LIMIT)


def _firm(found: Reconstructed, loose: list[Hinge]) -> int:
    """Placed photos that are not in a loose part."""
    return int(found.model.num_reg_images()) - len({name for hinge in loose for name in hinge.part})
