"""Changes of light: clear, clipped, the same colours, and decided by the image's name alone."""

from __future__ import annotations

import numpy as np
import pytest

from processing.augmentation.light import change_light, generator_of

GRADIENT = np.repeat(np.tile(np.arange(256, dtype=np.uint8), (64, 1))[..., None], 3, axis=2)


def copies(image, count=200):
    return [change_light(image, generator_of(0, "light", index)) for index in range(count)]


def test_every_copy_is_clearly_darker_or_brighter_and_both_happen():
    ratio = np.array([copy.mean() / 100 for copy in copies(np.full((40, 40, 3), 100, np.uint8))])
    darker = ratio < 1
    assert 0.35 < darker.mean() < 0.65
    assert (np.abs(np.log(ratio)) > 0.02).mean() > 0.9  # gamma may undo some of it
    assert ratio.min() > 0.35 and ratio.max() < 2


def test_what_becomes_too_bright_or_too_dark_is_clipped_and_never_comes_back():
    """An absolute value in the place of clipping would make the darkest pixels bright again."""
    for copy in copies(GRADIENT, 60):
        rows = copy[..., 0].astype(float).mean(axis=0)
        assert np.diff(np.convolve(rows, np.ones(9) / 9, "valid")).min() > -2.5  # monotone but for noise
        assert copy.dtype == np.uint8 and copy.shape == GRADIENT.shape


def test_gray_stays_gray_and_colours_keep_their_order():
    assert all(np.ptp(copy.astype(int), axis=2).max() == 0 for copy in copies(GRADIENT, 30))
    orange = np.zeros((20, 20, 3), np.uint8) + np.array([200, 120, 40], np.uint8)
    for copy in copies(orange, 60):
        red, green, blue = copy.reshape(-1, 3).mean(axis=0)
        assert red > green > blue or red > 250


def test_a_copy_depends_on_its_own_name_only():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    first = change_light(image, generator_of(0, "light", "a.jpg"))
    change_light(image, generator_of(0, "light", "b.jpg"))
    assert np.array_equal(first, change_light(image, generator_of(0, "light", "a.jpg")))
    assert not np.array_equal(first, change_light(image, generator_of(0, "light", "b.jpg")))
    assert not np.array_equal(first, change_light(image, generator_of(1, "light", "a.jpg")))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_gray_and_colour_images_keep_their_shape(shape):
    assert all(copy.shape == shape for copy in copies(np.full(shape, 90, np.uint8), 10))
