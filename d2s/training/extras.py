"""The extra images to train on: augmented copies and pseudo-labelled images of a scene, all or some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2s.features.base import settings_hash
from d2s.features.weights import sha256_of
from d2s.scene.extra_images import MANIFEST, ExtraImage, ExtraImages, extra_folder
from d2s.scene.manifest import Scene
from d2s.training.draws import step_generator

LABELS = "labels.h5"


@dataclass(frozen=True)
class Extras:
    """Extra images to train on: of one kind, all or some of those in its folder.

    `extends`: they add points to the scene's map, and so take part in what it is made of, like the scene's own images.
    """

    kind: str
    images: tuple[ExtraImage, ...]
    extends: bool = False


def load_extras(folder: Path, scene: Scene, augment: bool = False, unlabel: bool = False, rate: float = 1.0, seed: int = 0) -> list[Extras]:
    """The extra images of a scene that are asked for; of the pseudo-labelled ones the share `rate`, drawn by `seed`.

    Raises MissingFileError naming the option of preprocessing where there are none.
    """
    kinds = ["augment"] if augment else []
    if unlabel:
        kinds += ["unlabel", *(["unlabel_augment"] if extra_folder(folder, "unlabel_augment").exists() else [])]
    found = []
    for kind in kinds:
        extra = ExtraImages.load(folder, kind)
        extra.require_features(scene.features.get("settings_hash", ""), folder)
        images = extra.images if kind == "augment" else _share(extra, rate, seed)
        found.append(Extras(kind, images, extends=bool(extra.info.get("extend", False))))
    return found


def _share(extra: ExtraImages, rate: float, seed: int) -> tuple[ExtraImage, ...]:
    """Some of the images, in their order; a greater rate adds to what a smaller one takes."""
    order = torch.randperm(len(extra.images), generator=step_generator(seed, f"share of {extra.kind}", 0))
    chosen = sorted(order[: round(rate * len(extra.images))].tolist())
    return tuple(extra.images[index] for index in chosen)


def extras_record(folder: Path, extras: Sequence[Extras]) -> dict[str, Any]:
    """What tells whether a run goes on with the extra images that it began with: for each kind their number, and a hash of all of it."""
    record: dict[str, Any] = {}
    for extra in extras:
        where = extra_folder(folder, extra.kind)
        content = {"names": [image.name for image in extra.images], "files": [sha256_of(where / name) for name in (MANIFEST, LABELS)]}
        record[extra.kind] = {"images": len(extra.images), "hash": settings_hash(content)}
    return record
