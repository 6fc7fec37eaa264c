"""A second reconstruction where the first one is loose."""

from __future__ import annotations

import types

import pytest

from d2s.errors import ReconstructionError
from processing.sfm import second_try
from processing.sfm.hinges import Hinge
from processing.sfm.second_try import firmer


def reconstruction(placed: int, loose: int):
    """Stands for a reconstruction that placed so many photos, of which so many are in a loose part."""
    images = {i: types.SimpleNamespace(name=f"{i}.jpg", has_pose=True) for i in range(placed)}
    parts = [Hinge("9.jpg", "0.jpg", tuple(f"{i}.jpg" for i in range(loose)), 0.05, 0.1, 15.0, "0.jpg", 0.8)] if loose else []
    return types.SimpleNamespace(model=types.SimpleNamespace(images=images, parts=parts, num_reg_images=lambda: placed))


@pytest.fixture(autouse=True)
def _parts_are_given(monkeypatch):
    monkeypatch.setattr(second_try, "loose_parts", lambda model, names, limit: model.parts)


@pytest.mark.parametrize(("second", "taken"), [((20, 0), True), ((20, 4), True), ((20, 5), False), ((14, 0), False)])
def test_the_second_is_taken_where_more_photos_are_firm(second, taken):
    first, other = reconstruction(20, 5), reconstruction(*second)
    assert firmer(first, lambda: other) is (other if taken else first)


def test_a_firm_reconstruction_is_not_made_again():
    first = reconstruction(20, 0)
    assert firmer(first, lambda: pytest.fail("made again")) is first


def test_the_first_stays_where_the_second_fails(caplog):
    def fail():
        raise ReconstructionError("No model could be started.", "Take more photos.")

    first = reconstruction(20, 5)
    with caplog.at_level("INFO"):
        assert firmer(first, fail) is first
    assert "0.jpg to 4.jpg (5 photos) hang on the rest by too little" in caplog.text and "No model could be started" in caplog.text
