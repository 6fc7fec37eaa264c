from __future__ import annotations

import numpy as np
import pytest

from d2s.matching.retrieval import global_descriptors, learn_codebook, most_similar


@pytest.fixture
def places():
    """Local descriptors of 12 images of 3 places, 4 of each: each place has its own set of visual words."""
    rng = np.random.default_rng(3)
    words = rng.normal(size=(3, 30, 16))
    local = []
    for image in range(12):
        rows = words[image // 4][rng.integers(0, 30, 200)] + 0.2 * rng.normal(size=(200, 16))
        local.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    return local


def test_global_descriptors_are_unit_and_repeatable(places):
    first, second = (global_descriptors(places, seed=5, num_words=8) for _ in range(2))
    assert first.shape == (12, 8 * 16)
    assert np.allclose(np.linalg.norm(first, axis=1), 1)
    assert np.array_equal(first, second)


def test_new_images_find_their_place_by_the_words_of_others(places):
    codebook = learn_codebook(places[::2], num_words=8)
    known = np.stack([codebook.describe(d) for d in places[::2]])
    new = np.stack([codebook.describe(d) for d in places[1::2]])
    assert (most_similar(new, known, 2) // 2 == np.arange(6)[:, None] // 2).all()


def test_fewer_images_than_asked_for_are_all_given():
    assert most_similar(np.eye(3), np.eye(3)[:2], 10).shape == (3, 2)


def test_image_without_features_is_like_no_other(places):
    assert not learn_codebook(places, num_words=8).describe(np.zeros((0, 16), np.float16)).any()
