"""Which of our extractors gives what a feature file of hloc holds, so that queries can be localized later."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2s.errors import WeightsError
from d2s.features.table import FEATURES, FOREIGN
from d2s.features.weights import find_weights, sha256_of, weight_file
from d2s.scene.atomic import read_json
from processing.hloc.formats import HlocFeatures

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.005
ON_GRID = ("superpoint", "superpoint-open", "disk")
"""Features whose keypoints are whole pixels of the shrunk image."""


@dataclass(frozen=True)
class Recovered:
    """What a feature file says of its making. `name`: our feature, or `hloc:OUTPUT` where we have no equal; `options` of our extractor.

    `max_side`: the longer side to which hloc shrinks images, None where unknown. `on_grid`: keypoints are whole pixels of that image.
    """

    name: str
    options: Mapping[str, Any]
    max_side: int | None = None
    on_grid: bool = False

    @property
    def equal(self) -> bool:
        """Whether an extractor of ours gives the same."""
        return not self.name.startswith(FOREIGN)


def recover(path: Path) -> Recovered:
    """The settings of a feature file: from the record beside it, from its own attributes, or from hloc's names of its configurations."""
    own = _own_settings(path)
    if own is not None:
        options = {key: value for key, value in own.items() if key not in ("name", "num_keypoints", "weights_sha256")}
        return Recovered(own["name"], options, options.get("max_side"), own["name"] in ON_GRID)
    stem = path.stem
    side = _max_side(stem)
    if stem.startswith("feats-superpoint") and side is not None and "rmax" not in stem:
        options = {"max_side": side, "nms_radius": 4 if side == 1600 else 3, "score_threshold": _score_threshold(path), "sampling": "hloc"}
        return Recovered("superpoint", options, side, True)
    if stem.startswith("feats-d2net") and "d2net" in FEATURES:
        return Recovered("d2net", {"max_side": 1600, "max_sum_edges": None, "coordinates": "legacy"}, 1600)
    if stem.startswith("feats-disk"):
        return Recovered("disk", {"max_side": 1600}, 1600, True)
    if stem.startswith("feats-aliked-n16"):
        return Recovered("aliked", {"max_side": 1024}, 1024)
    return Recovered(f"{FOREIGN}{stem}", {}, side)


def _own_settings(path: Path) -> dict[str, Any] | None:
    """Settings of our own extractor, where it wrote the file for hloc."""
    record = record_path(path)
    settings = read_json(record).get("own_features") if record.is_file() else None
    return dict(settings) if settings else None


def record_path(path: Path) -> Path:
    """Where the settings of a file that hloc wrote for us are kept."""
    return path.with_name(path.name + ".json")


def _max_side(stem: str) -> int | None:
    """1024 of `feats-superpoint-n4096-r1024`."""
    found = re.search(r"-r(?:max)?(\d{3,5})(?:-|$)", stem)
    return int(found[1]) if found else None


def _score_threshold(path: Path) -> float:
    """SuperPoint's threshold was 0 where scores below hloc's default occur."""
    with HlocFeatures(path) as reader:
        names = reader.names()
        chosen = [names[int(i)] for i in np.unique(np.linspace(0, len(names) - 1, 10).astype(int))] if names else []
        scores = [reader.read(name).scores for name in chosen]
    lowest = min((float(s.min()) for s in scores if s is not None and len(s)), default=1.0)
    return 0.0 if lowest < 0.99 * DEFAULT_THRESHOLD else DEFAULT_THRESHOLD


def settings_record(recovered: Recovered, num_keypoints: int, descriptor_dim: int, weights: Path | None = None) -> dict[str, Any]:
    """What scene.json says of the features: enough to build the extractor again where we have an equal one."""
    if not recovered.equal:
        return {"name": recovered.name, "num_keypoints": num_keypoints, "descriptor_dim": descriptor_dim}
    spec = FEATURES[recovered.name]
    record = {"name": recovered.name, "num_keypoints": num_keypoints, **spec.options, **recovered.options}
    found = None if spec.weights is None else _weights_sha256(spec.weights, weights)
    return record if found is None else {**record, "weights_sha256": found}


def _weights_sha256(name: str, explicit: Path | None) -> str | None:
    """Checksum of the weights that queries will need; None where they are not at hand and have no known one."""
    try:
        path = explicit or find_weights(name)
    except WeightsError as error:
        logger.warning("%s", error)
        path = None
    return sha256_of(path) if path is not None and path.is_file() else weight_file(name).sha256
