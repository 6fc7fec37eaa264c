"""hloc's SfM model as ours: training images alone, points2D in the rows of our features, poses and cameras of the scene."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import ReconstructionError
from d2s.geometry.colmap_log import quiet_colmap
from d2s.scene.manifest import Scene
from processing.sfm.database import image_ids, posed_model

logger = logging.getLogger(__name__)

Ids = NDArray[np.int64]
Rows = Mapping[str, Ids]


def convert(
    model: pycolmap.Reconstruction,
    train: Scene,
    keypoints: Mapping[str, ArrayLike],
    hloc_name: Mapping[str, str],
    new_row: Rows,
    refine: bool | None = None,
) -> pycolmap.Reconstruction:
    """Our model of the training images from hloc's.

    `keypoints` (N, 2): of our features, by our image name. `hloc_name`: hloc's name of each of our images. `new_row` (M,): for each
    keypoint of hloc's model the row of our features, -1 where we did not keep it. Points keep at least two images. `refine`: optimise
    points anew at fixed poses; None does so where an image (of validation or test, say) was taken out, so that nothing of it stays.
    """
    point, image, row = _observations(model, train, hloc_name, new_row)
    if len(point) == 0:
        raise ReconstructionError("No 3D point of hloc's model is seen by the training images.", "Check that both are of one scene.")
    ours = posed_model(train, keypoints)
    _add_points(ours, model, point, image, row)
    if refine or (refine is None and ours.compute_num_observations() < model.compute_num_observations()):
        refine_points(ours)
    ours.update_point_3d_errors()
    return ours


def _observations(model: pycolmap.Reconstruction, train: Scene, hloc_name: Mapping[str, str], new_row: Rows) -> tuple[Ids, Ids, Ids]:
    """Point id, our image id and our row of every observation that we keep, sorted by point."""
    images = {image.name: image for image in model.images.values()}
    parts = []
    for name, image_id in image_ids(train.images).items():
        image = images.get(hloc_name[name])
        if image is None:
            continue
        seen = np.asarray(image.get_observation_point2D_idxs(), dtype=np.int64)
        ids = np.array([p.point3D_id for p in image.get_observation_points2D()], dtype=np.int64)
        rows = new_row[name][seen]
        parts.append(np.column_stack([ids, np.full(len(ids), image_id), rows])[rows >= 0])
    table = np.concatenate(parts) if parts else np.zeros((0, 3), np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return table[:, 0], table[:, 1], table[:, 2]


def _add_points(ours: pycolmap.Reconstruction, model: pycolmap.Reconstruction, point: Ids, image: Ids, row: Ids) -> None:
    starts = np.flatnonzero(np.diff(point, prepend=point[0] - 1))
    ends = [*starts[1:].tolist(), len(point)]
    images, rows = image.tolist(), row.tolist()
    for start, end in zip(starts.tolist(), ends, strict=True):
        if len(set(images[start:end])) < 2:
            continue
        source = model.points3D[int(point[start])]
        elements = [pycolmap.TrackElement(images[k], rows[k]) for k in range(start, end)]
        ours.add_point3D(source.xyz, pycolmap.Track(elements), source.color)


def refine_points(model: pycolmap.Reconstruction) -> None:
    """Least reprojection error of the points; poses and cameras stay as they are."""
    pycolmap.ObservationManager(model).filter_observations_with_negative_depth()
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in model.images:
        config.add_image(image_id)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    for name in (
        "refine_focal_length", "refine_principal_point", "refine_extra_params", "refine_rig_from_world", "refine_sensor_from_rig",
    ):  # fmt: skip
        setattr(options, name, False)
    with quiet_colmap():  # the adjuster itself: pycolmap.bundle_adjustment prints a headline that nothing silences
        pycolmap.create_default_bundle_adjuster(options, config, model).solve()
