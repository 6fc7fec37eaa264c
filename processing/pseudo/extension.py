"""New points from photos that were placed in the map: what they see and the map does not know yet."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import ReconstructionError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.matching.table import Matcher, make_matcher
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader, Labels, write_labels
from d2s.scene.manifest import Scene
from processing.labels import LabelOptions, PointTable, good_points, point_table
from processing.pipeline import Settings, save_model
from processing.pseudo.transfer import label_weight
from processing.sfm.colmap import match_known_poses, triangulate
from processing.sfm.matching import ReadFeatures, cached

logger = logging.getLogger(__name__)

TRANSFERRED, MODEL = "transferred.h5", "extension"
"""Labels before the extension, and the COLMAP model of the new points, in the folder of the photos."""

Rows = dict[str, NDArray[np.int64]]


def extend_map(settings: Settings, mapped: Scene, place: Path, photos: Scene, records: Mapping[str, Any]) -> dict[str, Any]:
    """Triangulate the keypoints that got no label among all photos that were placed, and write labels.h5 with the new points added.

    `mapped` is the scene. The photos keep the poses that they have from its map, and the labels that they have. Photos that see nothing
    new in common are no error: then the labels are those that were transferred.
    """
    scene = placed_photos(photos, records)
    with FeatureReader(place / "features.h5") as features, LabelReader(place / TRANSFERRED) as labels:
        free = {image.name: np.flatnonzero(~labels.read(image.name).valid) for image in scene.images}
        matcher = make_matcher(settings.matcher, mapped.features["name"], settings.device)
        table = _triangulate(settings, place, scene, matcher, _free_features(features, free))
        good = None if table is None else good_points(table, settings.labels)
        added: dict[str, int] = {}

        def items() -> Iterator[tuple[str, Labels]]:
            for name, rows in free.items():
                known = labels.read(name)
                new = known if table is None or good is None else with_points(known, rows, table, good, name, settings.labels)
                added[name] = int(new.valid.sum() - known.valid.sum())
                yield name, new

        write_labels(place / "labels.h5", items())
    return {"points": 0 if good is None else int(good.sum()), "labels": added}


def placed_photos(photos: Scene, records: Mapping[str, Any]) -> Scene:
    """The labelled photos, with the poses that were found for them."""
    placed = (image for image in photos.images if records[image.name]["labels"])
    return photos.with_images(
        replace(i, cam_from_world=pose.from_qvec_tvec(records[i.name]["qvec"], records[i.name]["tvec"])) for i in placed
    )


def _free_features(features: FeatureReader, free: Rows) -> ReadFeatures:
    """Reads the features that have no label yet."""

    def read(name: str) -> LocalFeatures:
        every, rows = features.read(name), free[name]
        return LocalFeatures(every.keypoints[rows], every.scores[rows], every.descriptors[rows], every.image_size)

    return cached(read, read(next(iter(free))))


def _triangulate(settings: Settings, place: Path, scene: Scene, matcher: Matcher, read: ReadFeatures) -> PointTable | None:
    """The new points; None where there are none."""
    try:
        matches = match_known_poses(scene, read, matcher, settings.sfm)
        model = triangulate(scene, {image.name: read(image.name).keypoints for image in scene.images}, matches, settings.sfm, place)
    except ReconstructionError as nothing:
        logger.warning("The photos add no point to the map: %s", nothing.problem)
        return None
    save_model(model, place / MODEL)
    return point_table(model)


def with_points(
    labels: Labels, rows: NDArray[np.int64], table: PointTable, good: NDArray[np.bool_], name: str, options: LabelOptions
) -> Labels:
    """The labels of photo `name` (K rows) with the good points of a model whose keypoints are its given `rows`."""
    index = table.row_of_keypoint.get(name, np.full(len(rows), -1))
    found = index >= 0
    found[found] = good[index[found]]
    rows, index = rows[found], index[found]
    votes = table.track_length[index] - 1  # the other photos that see the point
    new = Labels(
        labels.xyz.copy(), labels.valid.copy(), labels.track_length.copy(), labels.error.copy(), labels.weights().copy(),
        np.zeros(len(labels), np.int32) if labels.votes is None else labels.votes.copy(),
    )  # fmt: skip
    assert new.weight is not None and new.votes is not None
    new.xyz[rows], new.valid[rows], new.track_length[rows], new.error[rows] = (
        table.xyz[index], True, table.track_length[index], table.error[index],
    )  # fmt: skip
    new.weight[rows], new.votes[rows] = label_weight(votes, table.error[index], options.max_error_px), votes
    return new
