"""The stage that extracts features: in parts, so that a killed run goes on where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from d2s.errors import InputError
from d2s.features.base import Extractor
from d2s.features.extraction import extract_all
from d2s.scene.feature_store import FeatureReader, FeatureWriter
from d2s.scene.manifest import Scene, SceneImage
from processing.progress import track

logger = logging.getLogger(__name__)

PART = 16
"""Images per part: what a kill loses at most."""


def extract_scene(
    path: Path, scene: Scene, images: Sequence[SceneImage], extractor: Extractor, batch_size: int | None, skip_bad_images: bool
) -> list[dict[str, str]]:
    """Write the feature file of the given images; gives the images that were left out, with the reason.

    Raises InputError for an image that cannot be read, unless `skip_bad_images`.
    """
    settings = extractor.settings()
    if is_published(path, settings, [image.name for image in images]):
        return []
    writer = FeatureWriter(path, settings)
    todo = [(image.name, scene.path(image)) for image in images if image.name not in writer.done]
    if len(todo) < len(images):
        logger.info("Going on: %d of %d images have their features", len(images) - len(todo), len(images))
    dropped: list[dict[str, str]] = []

    def on_error(name: str, error: InputError) -> None:
        if not skip_bad_images:
            raise InputError(error.problem, "Replace or remove the image, or leave such images out with --skip_bad_images.") from error
        logger.warning("Left out %s: %s", name, error.problem)
        dropped.append({"name": name, "reason": f"unreadable: {error.problem}"})

    found = track(extract_all(extractor, todo, batch_size=batch_size, on_error=on_error), len(todo), f"{extractor.name} features")
    while part := list(islice(found, PART)):
        writer.write(part)
    kept = [image.name for image in images if image.name in writer.done]
    if not kept:
        raise InputError(f"None of the {len(images)} images in {scene.image_dir} can be read.")
    writer.finish(kept)
    return dropped


def is_published(path: Path, settings: dict[str, Any], names: Sequence[str]) -> bool:
    """Whether the file is whole: a run may be killed between publishing it and noting that."""
    if not path.is_file():
        return False
    with FeatureReader(path) as reader:
        return reader.settings == settings and all(name in reader for name in names)
