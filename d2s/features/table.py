"""The local features by name. What a name stands for is imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2s.errors import InputError, MissingPackageError, WeightsError, unknown_choice
from d2s.features.base import Extractor


@dataclass(frozen=True)
class FeatureSpec:
    """What is known about a feature without importing it.

    `factory`: `module:class`, called as `factory(name=…, num_keypoints=…, device=…, weights=…, **options)`. `options`: every option with
    its default; they are part of the settings, so that a change of a default never changes an existing scene.
    `weights`: the checkpoint that it needs (a key of `d2s.features.weights.WEIGHTS`), None where there is none. `package`: what has to
    be installed beyond what the project demands on every Python.
    """

    factory: str
    descriptor_dim: int
    description: str
    code_licence: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""


SUPERPOINT_OPTIONS = {"max_side": 1024, "nms_radius": 3, "border": 4, "score_threshold": 0.0, "sampling": "exact"}

FEATURES: dict[str, FeatureSpec] = {
    "superpoint": FeatureSpec(
        "d2s.features.superpoint:SuperPointExtractor",
        256,
        "SuperPoint, Magic Leap's weights (non-commercial use only)",
        "Apache-2.0 (this project)",
        weights="superpoint",
        options=SUPERPOINT_OPTIONS,
    ),
    "superpoint-open": FeatureSpec(
        "d2s.features.superpoint:SuperPointExtractor",
        256,
        "SuperPoint, weights free for any use",
        "Apache-2.0 (this project)",
        weights="superpoint-open",
        options=SUPERPOINT_OPTIONS,
    ),
    "sift": FeatureSpec(
        "d2s.features.sift:SiftExtractor",
        128,
        "RootSIFT of OpenCV; no weights, works everywhere",
        "Apache-2.0 (OpenCV)",
        options={"max_side": 1600, "contrast_threshold": 0.004, "edge_threshold": 10.0},
    ),
    "disk": FeatureSpec(
        "d2s.features.disk:DiskExtractor",
        128,
        "DISK, depth-supervised, through kornia",
        "Apache-2.0 (kornia)",
        weights="disk",
        package="kornia >= 0.8.2",
        options={"max_side": 1024, "window_size": 5, "score_threshold": 0.0},
    ),
    "aliked": FeatureSpec(
        "d2s.features.aliked:AlikedExtractor",
        128,
        "ALIKED-N16, sub-pixel keypoints; kornia's network with a forward pass of our own",
        "Apache-2.0 (kornia)",
        weights="aliked",
        package="kornia >= 0.8.3, which is for Python >= 3.11",
        options={"max_side": 1024},
    ),
    "xfeat": FeatureSpec(
        "d2s.features.xfeat:XFeatExtractor",
        64,
        "XFeat, small and fast, through kornia",
        "Apache-2.0 (kornia)",
        weights="xfeat",
        package="kornia >= 0.8.3, which is for Python >= 3.11",
        options={"max_side": 1024, "score_threshold": 0.05},
    ),
    "d2net": FeatureSpec(
        "d2s.features.d2net.extractor:D2NetExtractor",
        512,
        "D2-Net, one network that describes and detects",
        "Apache-2.0 (this project)",
        weights="d2net",
        options={
            "max_side": 1600,
            "max_sum_edges": 2800,
            "scales": (1.0,),
            "preprocessing": "caffe",
            "use_relu": True,
            "coordinates": "corrected",
            "half": False,
        },
    ),
}


def feature_spec(name: str) -> FeatureSpec:
    """The entry of `name`. Raises InputError listing the names when there is none."""
    if name not in FEATURES:
        raise unknown_choice("feature", name, FEATURES)
    return FEATURES[name]


def make_extractor(name: str, num_keypoints: int = 2048, device: str = "cpu", weights: Path | None = None, **options: Any) -> Extractor:
    """The extractor `name` that keeps the best `num_keypoints` of each image.

    `weights`: a checkpoint file instead of the resolved one. `options`: those of the feature's entry in FEATURES.
    Raises InputError for unknown names, options and values, WeightsError when the weights cannot be had.
    """
    spec = feature_spec(name)
    unknown = sorted(set(options) - set(spec.options))
    if unknown:
        raise InputError(f"Feature {name} has no option {', '.join(unknown)}.", f"It has: {', '.join(spec.options) or 'none'}.")
    if num_keypoints < 1:
        raise InputError(f"The number of keypoints must be at least 1, not {num_keypoints}.")
    max_side = options.get("max_side")
    if max_side is not None and (not isinstance(max_side, int) or max_side < 16):
        raise InputError(f"max_side must be a whole number of pixels, at least 16, or None, not {max_side!r}.")
    if weights is not None and spec.weights is None:
        raise InputError(f"Feature {name} has no weights; {weights} cannot be used.", "Leave out --weights.")
    create = _import_factory(name, spec)
    extractor: Extractor = create(name=name, num_keypoints=num_keypoints, device=device, weights=weights, **{**spec.options, **options})
    return extractor


def _import_factory(name: str, spec: FeatureSpec) -> Callable[..., Extractor]:
    """What makes the extractor. Raises MissingPackageError when the package that brings the network is missing or too old."""
    module, _, factory = spec.factory.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)  # type: ignore[no-any-return]
    except ImportError as error:
        if not spec.package:
            raise
        raise MissingPackageError(
            f"Feature {name} needs {spec.package} ({error}).", "Install that, or choose another of --features (sift needs nothing)."
        ) from None


FOREIGN = "hloc:"
"""Begins the name of features that hloc made and no extractor here makes."""


def is_foreign(settings: Mapping[str, Any]) -> bool:
    """Whether settings are those of another program's features, which can be used where they are stored, but not extracted."""
    return str(settings.get("name", "")).startswith(FOREIGN)


def extractor_from_settings(settings: Mapping[str, Any], device: str = "cpu", weights: Path | None = None) -> Extractor:
    """The extractor whose `settings()` gave `settings`.

    Raises InputError when they describe none, WeightsError when the weights found here are not those that were used then.
    """
    options = dict(settings)
    if is_foreign(settings):
        raise InputError(
            f"The scene's features are hloc's {settings['name'].removeprefix(FOREIGN)}, for which there is no equal extractor here.",
            "Evaluate from stored features (d2s eval), or preprocess with one of --features.",
        )
    try:
        name, num_keypoints = options.pop("name"), options.pop("num_keypoints")
    except KeyError as missing:
        raise InputError(f"The settings of the local features lack {missing}: {dict(settings)}.", "Extract the features again.") from None
    expected = options.pop("weights_sha256", None)
    extractor = make_extractor(name, num_keypoints, device, weights, **options)
    found = extractor.settings().get("weights_sha256")
    if expected is not None and found != expected:  # unknown where another program extracted
        raise WeightsError(
            f"The weights of feature {name} found here (sha256 {found}) are not those that the scene was made with (sha256 {expected}).",
            "Give the right file with --weights, or preprocess and train the scene again.",
        )
    return extractor
