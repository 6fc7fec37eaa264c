"""What `--scale` may say."""

from __future__ import annotations

import pytest

from d2s.errors import InputError
from processing.world.measures import CameraDistance, PointDistance, ScaleOptions, parse_measure, parse_scale

NAMES = ["hall/IMG_1.jpg", "hall/IMG_2.jpg", "yard/IMG_2.jpg", "my photo 3.jpg", "photo 3.jpg"]


def test_words_factors_and_distances():
    assert parse_scale([]) is None and parse_scale(["none"]) is None
    assert parse_scale(["GPS"]) == ScaleOptions("gps") and parse_scale(["auto"]) == ScaleOptions("auto")
    assert parse_scale(["0.25"]) == ScaleOptions("factor", 0.25)
    assert parse_scale([" a.jpg  b.jpg 1.5 m ", "a.jpg c.jpg 2m"]) == ScaleOptions(
        "measured", None, ("a.jpg b.jpg 1.5 m", "a.jpg c.jpg 2m")
    )


@pytest.mark.parametrize(
    "text", ["a.jpg b.jpg", "1.5 m", "a.jpg 1.5", "a.jpg b.jpg -1", "a.jpg b.jpg nan", "a.jpg b.jpg inf", "-2", "0", "", "x"]
)
def test_what_means_nothing_is_refused(text):
    with pytest.raises(InputError, match="--scale"):
        parse_scale([text])


def test_words_and_factors_stand_alone():
    for texts in (["gps", "a b 1"], ["2", "a b 1"], ["gps", "auto"], ["1", "2"]):
        with pytest.raises(InputError, match="excludes"):
            parse_scale(texts)


def test_photos_are_named_as_people_do():
    assert parse_measure("IMG_1.jpg hall/IMG_2.jpg 1.5", NAMES) == CameraDistance("hall/IMG_1.jpg", "hall/IMG_2.jpg", 1.5)
    assert parse_measure("IMG_1 yard/IMG_2.jpg 2 m", NAMES).second == "yard/IMG_2.jpg"


def test_names_may_hold_spaces():
    assert parse_measure("my photo 3.jpg photo 3.jpg 0.8", NAMES) == CameraDistance("my photo 3.jpg", "photo 3.jpg", 0.8)


def test_things_in_a_photo():
    found = parse_measure("my photo 3.jpg 10,20.5 30,40 0.9", NAMES)
    assert found == PointDistance("my photo 3.jpg", ((10.0, 20.5), (30.0, 40.0)), 0.9)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("IMG_1.jpg IMG_9.jpg 1", "no photo IMG_9.jpg"),
        ("IMG_2.jpg IMG_1.jpg 1", "no photo IMG_2.jpg, or more than one"),
        ("IMG_1.jpg IMG_1.jpg 1", "same photo twice"),
        ("a b c 1", "two photos"),
        ("IMG_9.jpg 1,2 3,4 1", "no photo IMG_9.jpg"),
    ],
)
def test_photos_that_the_map_does_not_have(text, problem):
    with pytest.raises(InputError, match=problem):
        parse_measure(text, NAMES)
