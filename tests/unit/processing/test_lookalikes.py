"""A second chance for photos that were placed in front of a look-alike."""

from __future__ import annotations

import types

import numpy as np

from processing.sfm import lookalikes
from processing.sfm.links import Link
from processing.sfm.lookalikes import reconsider, without_lookalikes

ORDERED = [f"{i:02d}.jpg" for i in range(40)]
PART = ORDERED[20:30]
PAIRS = [(0, 1), (0, 22), (19, 20), (21, 28), (14, 22), (29, 38)]
MATCHES = {(ORDERED[a], ORDERED[b]): np.zeros((50, 2), np.int32) for a, b in PAIRS}


def test_only_matches_between_the_group_and_far_photos_go():
    kept = set(without_lookalikes(MATCHES, PART, ORDERED))
    assert set(MATCHES) - kept == {("00.jpg", "22.jpg"), ("29.jpg", "38.jpg")}


def reconstruction(doubts: int):
    """Stands for a reconstruction of whose photos so many are to be doubted."""
    return types.SimpleNamespace(model=[Link("00.jpg", "22.jpg", 90, tuple(PART[:doubts]))] if doubts else [])


def test_a_second_reconstruction_is_taken_where_it_leaves_less_to_doubt(monkeypatch):
    monkeypatch.setattr(lookalikes, "doubted", lambda model, ordered: model)
    first, asked = reconstruction(10), []

    def again(left: int):
        def reconstruct(matches):
            asked.append(set(matches))
            return reconstruction(left)

        return reconstruct

    assert reconsider(reconstruction(0), MATCHES, ORDERED, again(0)).model == [] and not asked  # nothing to doubt, nothing to do
    assert reconsider(first, MATCHES, ORDERED, again(0)).model == []
    assert ("00.jpg", "22.jpg") not in asked[0] and ("19.jpg", "20.jpg") in asked[0]
    assert reconsider(first, MATCHES, ORDERED, again(10)) is first
