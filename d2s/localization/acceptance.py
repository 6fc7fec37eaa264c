"""Whether a pose is more than chance.

Among thousands of hypotheses, RANSAC finds one that fits a few points even when nothing is right. The number of inliers that is still
chance depends on how many points there are, how large the threshold is and how large the image is, so a fixed minimum is wrong
somewhere. The a-contrario test of Desolneux, Moisan and Morel (used for pose by Moisan, Moulon and Monasse, IPOL 2012) counts the false
alarms to expect: the number of hypotheses times the probability that k of n uniformly spread points fall within the threshold by chance.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from d2s.localization.correspondences import Correspondences

SAMPLE, SOLUTIONS = 3, 4  # P3P: three points, up to four poses
FOCAL_SAMPLE, FOCAL_SOLUTIONS = 4, 10  # P4Pf: four points, up to ten poses with a focal length
# No back end found less than -0.7 among unrelated points (5 to 2000 of them, images of 640 and 1920 pixels), nor less than -0.4 for a
# network that sees one spot everywhere. Right poses are far below -10.
MAX_LOG10_FALSE_ALARMS = -3.0


def is_by_chance(num_inliers: int, points: Correspondences, max_error: float, sample: int = SAMPLE) -> bool:
    """True when a pose with this many inliers would be found among unrelated points too, by a solver that takes `sample` of them."""
    return log10_false_alarms(num_inliers, len(points), hit_probability(points, max_error), sample) > MAX_LOG10_FALSE_ALARMS


def hit_probability(points: Correspondences, max_error: float) -> float:
    """Probability that an unrelated point comes within `max_error` pixels of one given keypoint.

    The larger of two: for points thrown anywhere into the box around the keypoints, and for points thrown where another keypoint is. The
    latter matters for a network that has learned nothing: it sees one spot everywhere, so all keypoints of a dense cluster agree.
    """
    extent = np.ptp(points.pixels, axis=0) + 2 * max_error
    area = min(float(extent.prod()), float(points.camera.width * points.camera.height))
    return min(1.0, max(math.pi * max_error**2 / area, _share_of_close_pairs(points, max_error)))


def _share_of_close_pairs(points: Correspondences, max_error: float) -> float:
    n = len(points)
    tree = cKDTree(points.pixels)
    return float(tree.count_neighbors(tree, max_error) - n) / (n * (n - 1))


def log10_false_alarms(k: int, n: int, probability: float, sample: int = SAMPLE) -> float:
    """log10 of the expected number of poses with at least `k` inliers among `n` points that are unrelated to the pixels."""
    if k <= sample:
        return math.inf
    solutions = SOLUTIONS if sample == SAMPLE else FOCAL_SOLUTIONS
    hypotheses = math.log(solutions) + _log_binomial(n, sample)
    return (hypotheses + _log_tail(k - sample, n - sample, probability)) / math.log(10)


def _log_tail(k: int, n: int, probability: float) -> float:
    """Log P[Binomial(n, probability) >= k]."""
    if probability >= 1:
        return 0.0
    i = np.arange(k, n + 1)
    terms = np.array([_log_binomial(n, int(j)) for j in i]) + i * math.log(probability) + (n - i) * math.log1p(-probability)
    return float(np.logaddexp.reduce(terms))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
