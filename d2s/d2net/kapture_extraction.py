"""D2-Net features of all images of a kapture tree, written into the tree; what is there is kept, so that a killed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.d2net.kapture_features import DescriptorsConfig, FeatureFolder, KeypointsConfig
from d2s.d2net.kapture_tree import KaptureTree
from d2s.errors import D2SError, SettingsMismatchError
from d2s.features.d2net.extractor import D2NetExtractor, ScaledFeatures
from d2s.features.extraction import OnError, extract_all
from d2s.geometry.camera import colmap_from_pixels
from d2s.scene.atomic import read_json, write_json

log = logging.getLogger(__name__)

NAME = "d2net"
SETTINGS = "d2s_settings.json"
"""File beside the config: what the features were made with. Kapture does not look at it."""


def extract_into(
    tree: KaptureTree, extractor: D2NetExtractor, keypoints_type: str, descriptors_type: str, batch: int | None, on_error: OnError
) -> int:
    """Write what is missing, image after image; gives the number of images that were extracted.

    Keypoints are (x, y, scale), the corrected ones in kapture's coordinates: the top-left pixel's corner is (0, 0). Raises
    SettingsMismatchError when features of these types were made with other settings.
    """
    names = tree.images()
    with tree.features("keypoints", keypoints_type) as keypoints, tree.features("descriptors", descriptors_type) as descriptors:
        _require_configs(keypoints, descriptors, keypoints_type, extractor)
        todo = [name for name in names if not is_complete(keypoints, descriptors, name)]
        log.info("%d of %d images have their features; extracting %d", len(names) - len(todo), len(names), len(todo))
        items = [(name, tree.image_path(name)) for name in todo]
        failed: set[str] = set()

        def note(name: str, error: Any) -> None:
            failed.add(name)
            on_error(name, error)

        for name, features in extract_all(extractor, items, batch_size=batch, on_error=note):
            assert isinstance(features, ScaledFeatures)
            keypoints.write(name, kapture_keypoints(features, extractor.legacy))
            descriptors.write(name, features.descriptors)
        _check_all(keypoints, descriptors, [name for name in names if name not in failed])
    return len(todo) - len(failed)


def kapture_keypoints(features: ScaledFeatures, legacy: bool) -> NDArray[np.float32]:
    """x, y, scale (N, 3), as kapture wants them; legacy ones as published, with the top-left pixel's centre at (0, 0)."""
    keypoints = features.with_scales()
    if not legacy:
        keypoints[:, :2] = colmap_from_pixels(keypoints[:, :2])  # kapture's convention is COLMAP's
    return keypoints


def is_complete(keypoints: FeatureFolder, descriptors: FeatureFolder, name: str) -> bool:
    """Whether an image has both, whole, and of equal length."""
    rows = keypoints.rows(name)
    return rows is not None and rows == descriptors.rows(name)


def _require_configs(keypoints: FeatureFolder, descriptors: FeatureFolder, keypoints_type: str, extractor: D2NetExtractor) -> None:
    """Write the configs, or check that those that are there describe the same features."""
    wanted = {
        keypoints: KeypointsConfig(NAME, "float32", 3),
        descriptors: DescriptorsConfig(NAME, "float32", extractor.descriptor_dim, keypoints_type, "L2"),
    }
    for store, config in wanted.items():
        if store.config is not None and {**asdict(store.config), "name": ""} != {**asdict(config), "name": ""}:
            raise SettingsMismatchError(f"{store.folder} holds {store.config}, not {config}.", "Choose another type.")
        _require_settings(store.folder, extractor.settings(), store.config is not None)
        store.repair()
        if store.config is None:
            store.write_config(config)


def _require_settings(folder: Path, settings: dict[str, Any], existing: bool) -> None:
    """Never mix features of different settings: compare with what was noted, or note it."""
    path = folder / SETTINGS
    if path.is_file():
        noted = read_json(path)
        changed = [key for key in sorted({*noted, *settings}) if noted.get(key) != settings.get(key)]
        if changed:
            differences = ", ".join(f"{key} {noted.get(key)} (now {settings.get(key)})" for key in changed)
            raise SettingsMismatchError(
                f"Features in {folder} were made with other settings: {differences}.", "Choose another type, or delete the folder."
            )
    elif existing:
        log.warning("Features in %s were made by another program; whether its settings are the same is not known", folder)
    else:
        write_json(path, settings)


def _check_all(keypoints: FeatureFolder, descriptors: FeatureFolder, names: Sequence[str]) -> None:
    """Raises D2SError when something is missing at the end."""
    missing = [name for name in names if not is_complete(keypoints, descriptors, name)]
    if missing:
        raise D2SError(f"{len(missing)} images have no features at the end, {missing[0]} among them.", "Run the same command again.")
