"""Which local feature to take when the user names none."""

from __future__ import annotations

import logging

from d2s.errors import D2SError
from d2s.features.table import make_extractor
from d2s.features.weights import find_weights

logger = logging.getLogger(__name__)

BEST, ALWAYS = "aliked", "sift"
COST = "SIFT is less exact: 43 % of its matches lie within 2 pixels of the truth, 71 % of ALIKED's (docs/features.md)"


def best_feature() -> str:
    """ALIKED where its weights and its package are on this machine, else SIFT, which needs nothing; the log says why and what
    that costs.
    """
    try:
        if find_weights(BEST) is not None:
            make_extractor(BEST, device="cpu")
            return BEST
        reason = "its weights are not on this machine (d2s doctor says how to get them)"
    except D2SError as error:
        reason = error.problem
    logger.info("Features: %s, since %s cannot be used: %s. %s.", ALWAYS, BEST, reason.rstrip("."), COST)
    return ALWAYS
