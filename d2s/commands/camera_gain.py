"""How well the cameras of a map fit its own images, which says what a misfit is there."""

from __future__ import annotations

import numpy as np

from d2s.localization.correspondences import Correspondences
from d2s.localization.misfit import FEWEST, gain
from d2s.training.data import TrainingSet

MOST = 30
"""Images that are asked; each takes some 50 ms."""
ALMOST_ALL = 0.1
"""Share of the images that may gain more: single wrong poses say nothing of the cameras."""


def measure_gain(data: TrainingSet, max_error: float) -> float:
    """What nine in ten mapping images leave of their reprojection error where their cameras are freed; 1 where there is none to ask."""
    images = [i for i in range(data.num_real) if bool(data.has_pose[i]) and int(data.valid[i].sum()) >= FEWEST]
    images = images[:: max(1, -(-len(images) // MOST))]
    gains = [gain(data.cam_from_world[i].numpy().astype(np.float64), _labelled(data, i), max_error) for i in images]
    return round(min(1.0, float(np.quantile(gains, ALMOST_ALL))), 4) if gains else 1.0


def _labelled(data: TrainingSet, image: int) -> Correspondences:
    """The labelled keypoints of an image."""
    rows = data.valid[image] & data.mask[image]
    return Correspondences.clean(data.keypoints[image][rows].numpy(), data.xyz[image][rows].numpy(), data.cameras[int(data.camera[image])])
