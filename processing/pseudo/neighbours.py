"""Which mapping images may show the same as a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2s.matching.retrieval import learn_codebook, most_similar
from processing.pseudo.photos import read_pairs
from processing.sfm.matching import ReadFeatures

CODEBOOK_IMAGES = 400
"""Images, spread over the map, from which the words are learnt: more do not change them, and all would not fit into memory."""


def from_pairs(path: Path, photos: Sequence[str], mapping: Sequence[str], count: int) -> dict[str, list[str]]:
    """The first `count` mapping images that a pairs file gives each photo; none for photos that it lacks."""
    return {name: found[:count] for name, found in read_pairs(path, photos, mapping).items()}


def retrieve(
    photos: Sequence[str], read_photo: ReadFeatures, mapping: Sequence[str], read_mapping: ReadFeatures, count: int, seed: int
) -> dict[str, list[str]]:
    """The `count` mapping images most alike each photo by global descriptors over a codebook of the map, best first."""
    some = np.unique(np.linspace(0, len(mapping) - 1, min(CODEBOOK_IMAGES, len(mapping))).astype(int))
    codebook = learn_codebook([read_mapping(mapping[i]).descriptors for i in some], seed)
    database = np.stack([codebook.describe(read_mapping(name).descriptors).astype(np.float32) for name in mapping])
    queries = np.stack([codebook.describe(read_photo(name).descriptors).astype(np.float32) for name in photos])
    rows = most_similar(queries, database, count)
    return {name: [mapping[i] for i in found] for name, found in zip(photos, rows, strict=True)}
