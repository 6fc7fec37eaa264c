"""Every data set format that can be read: name -> module. A module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from d2s.errors import unknown_choice
from processing.adapters.base import AdapterOptions, SceneSource

ADAPTERS: dict[str, tuple[str, str]] = {
    "7scenes": ("processing.adapters.seven_scenes", "RGB-D sequences with pose files, or pseudo ground truth of Brachmann et al."),
    "12scenes": ("processing.adapters.twelve_scenes", "Structure sensor sequences with pose files, or an SfM model"),
    "Cambridge": ("processing.adapters.cambridge", "Cambridge Landmarks: lists of poses, or the retriangulated models"),
    "indoor6": ("processing.adapters.indoor6", "Indoor-6: COLMAP models with test and validation lists"),
    "BKC": ("processing.adapters.bkc", "BKC Ritsumeikan: COLMAP models with lists of test sequences"),
    "colmap": ("processing.adapters.colmap", "images and a COLMAP model, binary or text"),
    "nerfstudio": ("processing.adapters.nerfstudio", "images and a transforms.json of nerfstudio or instant-ngp"),
    "kapture": ("processing.adapters.kapture", "kapture trees: mapping/ and query/, or one tree"),
    "photos": ("processing.adapters.photos", "photos alone; poses from structure from motion"),
    "demo": ("processing.adapters.demo", "rendered places with exact poses: gallery (default), stairs, museum"),
}
"""name -> (module with a function `load`, what it reads)."""


def load_source(dataset: str, options: AdapterOptions) -> SceneSource:
    """Read a place in the named format. Raises InputError (one clear line) for an unknown name or for data that cannot be used."""
    if dataset not in ADAPTERS:
        raise unknown_choice("dataset", dataset, ADAPTERS)
    source: SceneSource = import_module(ADAPTERS[dataset][0]).load(options)
    return source
