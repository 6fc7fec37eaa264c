"""Extracting again what hloc extracted: to see whether our extractor gives the same, and to undo the loss of halved keypoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import D2SError, InputError
from d2s.features.base import Extractor
from d2s.features.images import read_image
from d2s.features.table import FEATURES, extractor_from_settings
from d2s.features.weights import find_weights
from processing.hloc.formats import RawFeatures
from processing.hloc.precision import is_half, spacing

logger = logging.getLogger(__name__)

PLACE_PX = 0.75
"""How far apart, rounding aside, two programs may find the same keypoint."""
ENOUGH_FOUND, ENOUGH_ALIKE = 0.7, 0.9
"""Share of the keypoints found again, and similarity of their descriptors, of extractors that are the same."""


@dataclass(frozen=True)
class Comparison:
    """Share of hloc's keypoints that our extractor finds again, and the median cosine of their descriptors."""

    found: float
    similarity: float

    @property
    def equal(self) -> bool:
        """Whether queries extracted by ours fit a map made from hloc's features."""
        return self.found >= ENOUGH_FOUND and self.similarity >= ENOUGH_ALIKE


def compare(extractor: Extractor, image: Path, raw: RawFeatures, count: int) -> Comparison:
    """Our features of one image beside the best `count` of hloc's."""
    ours = extractor.extract([read_image(image)])[0]
    best = raw.best(count)
    theirs = raw.take(best)
    if len(ours) == 0 or len(theirs) == 0:
        return Comparison(0.0, 0.0)
    row = same_places(raw.keypoints[best], ours.keypoints)
    kept = row >= 0
    one, other = theirs.descriptors[kept].astype(np.float64), ours.descriptors[row[kept]].astype(np.float64)
    if one.shape[1] != other.shape[1] or not kept.any():
        return Comparison(float(kept.mean()), 0.0)
    cosine = (one * other).sum(axis=1) / np.maximum(np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1), 1e-12)
    return Comparison(float(kept.mean()), float(np.median(cosine)))


def check_extractor(settings: Mapping[str, Any], image: Path, raw: RawFeatures, weights: Path | None) -> dict[str, Any]:
    """Warn when the extractor that queries will use does not give what hloc stored; says what was found, for the record."""
    needed = FEATURES[settings["name"]].weights
    if needed is not None and weights is None and find_weights(needed) is None:  # a download only where features are needed
        logger.info("The weights of %s are not here: not checked whether our extractor gives what hloc stored.", settings["name"])
        return {"checked": False}
    try:
        found = compare(extractor_from_settings(settings, weights=weights), image, raw, int(settings["num_keypoints"]))
    except D2SError as error:  # weights or a package that are not here: nothing of the map depends on them
        logger.warning("Not checked whether our %s extractor gives what hloc stored: %s", settings["name"], error)
        return {"checked": False}
    text = (
        f"Our {settings['name']} finds {found.found:.0%} of hloc's keypoints of {image.name}, descriptors alike to {found.similarity:.3f}"
    )
    if not found.equal:
        logger.warning("%s: queries may fit the map badly. Was the file made with other settings or weights?", text)
    else:
        logger.info("%s.", text)
    return {"checked": True, "found": found.found, "similarity": found.similarity}


def same_places(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.int64]:
    """For each old keypoint (M, 2) the row of the new one (N, 2) at its place, -1 for none: mutually nearest, up to old's rounding."""
    if len(old) == 0 or len(new) == 0:
        return np.full(len(old), -1, dtype=np.int64)
    a, b = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
    nearest, back = squared.argmin(axis=1), squared.argmin(axis=0)
    rounding = 0.5 * spacing(old).max(axis=1) if is_half(old) else 0.0
    distance = np.linalg.norm(a - b[nearest], axis=1)
    agree = (back[nearest] == np.arange(len(a))) & (distance <= PLACE_PX + rounding)
    return np.where(agree, nearest, -1)


def require_found(name: str, row: NDArray[np.int64], least: float = 0.5) -> None:
    """Raise InputError when too few of an image's keypoints were found again for labels to be carried over."""
    share = float((row >= 0).mean()) if len(row) else 1.0
    if share < least:
        raise InputError(
            f"--hloc_reextract found only {share:.0%} of hloc's keypoints of image {name} again.",
            "Its features were made otherwise: run hloc again with as_half=False, or take --sfm native.",
        )
