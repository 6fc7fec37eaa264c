"""Validation images: a few short stretches of the training sequence, held out of the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from d2s.scene.manifest import Scene

FRACTION = 0.05
SMALLEST, LARGEST = 4, 60
MIN_TRAIN = 30
MIN_BLOCKS = 5


def with_validation(scene: Scene) -> Scene:
    """The scene with about 5 % of its training images moved to "val", in blocks spread evenly over their order.

    Blocks, because single frames of a video have near copies among their neighbours. Unchanged when it has validation images already, or
    fewer than MIN_TRAIN training images.
    """
    train = [image.name for image in scene.split("train")]
    if scene.split("val") or len(train) < MIN_TRAIN:
        return scene
    chosen = {train[i] for i in validation_rows(len(train))}
    return scene.with_images(replace(image, split="val") if image.name in chosen else image for image in scene.images)


def validation_rows(num_train: int) -> list[int]:
    """Rows of the training images to hold out."""
    wanted = int(np.clip(round(FRACTION * num_train), SMALLEST, LARGEST))
    block = max(1, min(num_train // 100, wanted // MIN_BLOCKS))
    blocks = max(1, wanted // block)
    middles = (np.arange(blocks) + 0.5) * num_train / blocks
    starts = (middles - block / 2).astype(int)
    return [int(start) + offset for start in starts for offset in range(block)]
