"""Back ends by name. A back end's library is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from d2s.errors import unknown_choice
from d2s.localization.base import DEFAULT_MAX_ERROR, PoseEstimator

ESTIMATORS: dict[str, tuple[str, str]] = {
    "poselib": ("d2s.localization.poselib_ransac", "PoselibEstimator"),
    "pycolmap": ("d2s.localization.pycolmap_ransac", "PycolmapEstimator"),
    "opencv": ("d2s.localization.opencv_ransac", "OpencvEstimator"),
}
DEFAULT_ESTIMATOR = "poselib"


def make_estimator(name: str = DEFAULT_ESTIMATOR, max_error: float = DEFAULT_MAX_ERROR, **settings: Any) -> PoseEstimator:
    """The estimator of that name. Raises InputError listing the choices."""
    if name not in ESTIMATORS:
        raise unknown_choice("PnP back end", name, ESTIMATORS)
    module, cls = ESTIMATORS[name]
    estimator: PoseEstimator = getattr(importlib.import_module(module), cls)(max_error=max_error, **settings)
    return estimator
