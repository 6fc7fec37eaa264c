"""Which local feature to take when the user names none."""

from __future__ import annotations

import logging

from d2s.errors import D2SError
from d2s.features.table import make_extractor
from d2s.features.weights import find_weights

logger = logging.getLogger(__name__)

BEST, ALWAYS = "aliked", "sift"


def best_feature() -> str:
    """ALIKED where its weights and its package are on this machine, else SIFT, which needs nothing; the log says which and why."""
    try:
        if find_weights(BEST) is not None:
            make_extractor(BEST, device="cpu")
            return BEST
        reason = "its weights are not on this machine (d2s doctor says how to get them)"
    except D2SError as error:
        reason = error.problem
    logger.info("Features: %s, since %s cannot be used: %s.", ALWAYS, BEST, reason.rstrip("."))
    return ALWAYS
