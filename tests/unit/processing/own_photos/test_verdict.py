"""The verdict in words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from d2s.evaluation.score import Score
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.own_photos.scale_words import farthest, scale_sentence
from processing.own_photos.verdict import Facts, advice, headline, report_lines, weak_parts
from processing.sfm.hinges import Hinge
from processing.sfm.links import Link
from processing.unplaced import ELSEWHERE, NOTHING

TEST = (3, 8, 9, 14)
NAMES = [f"IMG_{i:02d}.jpg" for i in range(20)]


def scene(units: str = "metres", step: float = 0.5) -> Scene:
    """Twenty photos in a row, `step` units apart, of which four are held out."""
    images = tuple(
        SceneImage(name, 1, np.column_stack([np.eye(3), [-step * i, 0, 0]]), "test" if i in TEST else "train")
        for i, name in enumerate(NAMES)
    )
    return Scene("photos", "hall", Path("/nowhere"), {1: make_camera("SIMPLE_PINHOLE", 10, 10, [9, 5, 5])}, images, units)


def score(place: Scene, row: int, t: float = 0.02, r_deg: float = 0.3) -> Score:
    image = place.images[row]
    if math.isinf(t):
        return Score(image, None, t, t, "only 6 of 50 points agree on a pose")
    return Score(image, image.cam_from_world, t, r_deg)


def facts(place: Scene | None = None, errors=(0.02, 0.01, 0.03, 0.02), **changes) -> Facts:
    place = place or scene()
    scores = [score(place, row, t) for row, t in zip(TEST, errors, strict=True)]
    labels = {image.name: 500 for image in place.split("train")}
    values = {"scores": scores, "labels": labels, "links": (), "dropped": {}, "ordered": NAMES, **changes}
    return Facts(place, **values)


def test_a_good_place_in_metres():
    assert headline(facts()) == [
        "This place can be localized well, as far as 4 photos can tell.",
        "Typical error 2.00 cm and 0.3 degrees; 4 of 4 held-out photos found, 4 of them within 9.50 cm and 5 degrees.",
    ]
    assert weak_parts(facts()) == [] and report_lines(facts(), [], "")[-1] == "No weak part was found."


def test_without_metres_errors_are_shares_of_the_path():
    text = " ".join(headline(facts(scene("arbitrary"))))
    assert "0.21 % of the path's extent" in text and "cm" not in text


@pytest.mark.parametrize(
    ("errors", "how"), [((0.01,) * 4, "well"), ((0.01, 0.01, 0.01, math.inf), "in parts"), ((0.01, 9, 9, math.inf), "badly")]
)
def test_the_word_follows_the_share_that_is_localized_well(errors, how):
    assert headline(facts(errors=errors))[0] == f"This place can be localized {how}, as far as 4 photos can tell."


def test_a_verdict_of_few_photos_says_how_few():
    found = facts()
    assert headline(replace(found, scores=found.scores[:1]))[0] == "This place can be localized well, as far as one photo can tell."
    assert headline(replace(found, scores=[*found.scores, found.scores[0]]))[0] == "This place can be localized well."


def test_the_typical_error_is_that_of_the_found_and_the_others_are_counted():
    text = headline(facts(errors=(0.02, 0.02, math.inf, math.inf)))[1]
    assert "Typical error 2.00 cm" in text and "2 of 4 held-out photos found" in text
    assert headline(facts(errors=(math.inf,) * 4))[1].startswith("0 of 4 held-out photos found")


def test_held_out_photos_without_a_reference_are_said():
    found = facts(dropped={"IMG_99.jpg": "little overlap"}, held_out=["IMG_03.jpg", "IMG_99.jpg"])
    assert headline(found)[2] == "1 more could not be tested: their true position is unknown (IMG_99.jpg)."


def test_nothing_is_claimed_without_a_test():
    (line,) = headline(facts(scores=()))
    assert "nothing is known" in line


def test_a_map_of_a_part_says_so():
    lost = {f"other_{i}.jpg": "shows nothing that any placed photo shows" for i in range(10)}
    assert "But the map has 20 of the 30 photos only." in headline(facts(dropped=lost, ordered=[*NAMES, *lost]))[0]


def test_photos_that_a_file_names_and_that_are_not_there_do_not_count():
    found = facts(dropped={f"other_{i}.jpg": "transforms.json lists it, but there is no such file" for i in range(10)})
    assert "only" not in headline(found)[0] and found.given == 20
    lines = "\n".join(report_lines(found, [], ""))
    assert "20 of 20 photos are placed." in lines and "(10 photos): transforms.json lists it" in lines


def test_photos_that_were_not_found_ask_for_others_around_them():
    weak = weak_parts(facts(errors=(0.02, math.inf, 0.6, 0.02)))
    assert [entry["photos"] for entry in weak] == [["IMG_08.jpg"], ["IMG_09.jpg"]]
    assert "not found (only 6 of 50 points agree on a pose)" in weak[0]["problem"] and "found 60.0 cm" in weak[1]["problem"]
    assert weak[0]["advice"] == weak[1]["advice"] == "add photos between IMG_07.jpg and IMG_10.jpg"  # 8 and 9 are both held out
    assert advice(weak, facts()) == ["add photos between IMG_07.jpg and IMG_10.jpg"]  # once


def test_weak_links_and_bare_photos():
    labels = {image.name: 500 for image in scene().split("train")} | {"IMG_05.jpg": 40, "IMG_06.jpg": 110}
    link = Link("IMG_12.jpg", "IMG_13.jpg", 22, ("IMG_13.jpg", "IMG_15.jpg", "IMG_16.jpg", "IMG_17.jpg"))
    loose, bare = weak_parts(facts(labels=labels, links=[link]))
    assert loose["problem"].startswith("IMG_13.jpg to IMG_17.jpg (4 photos) hold on to the rest by 22 common points only")
    assert loose["advice"] == "add photos between IMG_12.jpg and IMG_13.jpg: few views overlap there"
    assert bare["photos"] == ["IMG_05.jpg", "IMG_06.jpg"] and "down to 40" in bare["problem"]


def test_a_group_in_the_wrong_place_is_told_where_it_belongs():
    link = Link("IMG_02.jpg", "IMG_12.jpg", 90, tuple(NAMES[10:16]))
    found = facts(links=[link], doubts=[link])
    lines = headline(found)
    assert lines[0].startswith("This place can be localized in parts")
    assert lines[2].startswith("Doubtful: IMG_10.jpg to IMG_15.jpg (6 photos)")
    (weak,) = weak_parts(found)
    assert weak["advice"].startswith("add photos between IMG_09.jpg and IMG_10.jpg, and between IMG_15.jpg and IMG_16.jpg,")


HINGE = Hinge("IMG_12.jpg", "IMG_13.jpg", tuple(NAMES[13:19]), 0.04, 0.08, 15.3, "IMG_13.jpg", 0.83)


def test_a_part_that_too_little_holds_lowers_the_verdict_and_is_named():
    link = Link("IMG_12.jpg", "IMG_13.jpg", 22, HINGE.part)
    found = facts(hinges=[HINGE], links=[link])
    lines = headline(found)
    assert lines[0] == "This place can be localized in parts, as far as 4 photos can tell."
    assert lines[2] == (
        "Doubtful: IMG_13.jpg to IMG_18.jpg (6 photos) may be 8 % of the path's extent out of place, and 16 % too large or too small. "
        "They are held no better than by 15 points; 83 % of that is in IMG_13.jpg. The check cannot see it."
    )
    (weak,) = weak_parts(found)  # the weak link is the same thing
    assert weak["advice"].startswith("add photos between IMG_12.jpg and IMG_13.jpg, close enough together for three or more")


def test_half_a_map_in_doubt_is_bad_and_photos_are_counted_once():
    half = replace(HINGE, part=tuple(NAMES[10:]))
    assert headline(facts(hinges=[half, HINGE]))[0].startswith("This place can be localized badly")
    assert headline(facts(hinges=[replace(HINGE, part=("IMG_19.jpg",))]))[0].startswith("This place can be localized well")


def test_a_part_that_nothing_holds_has_no_figure():
    line = headline(facts(hinges=[replace(HINGE, shift=0.6, scale=0.5, tracks=0.2)]))[2]
    assert line.endswith("may be anywhere and of any size, since next to nothing holds them. The check cannot see it.")


def test_groups_that_do_not_connect_are_to_be_bridged():
    dropped = {"IMG_20.jpg": f"{ELSEWHERE} (IMG_20.jpg, IMG_21.jpg)", "IMG_21.jpg": f"{ELSEWHERE} (IMG_20.jpg, IMG_21.jpg)"}
    found = facts(dropped=dropped, ordered=[*NAMES, "IMG_20.jpg", "IMG_21.jpg"])
    assert advice([], found) == ["add photos between IMG_19.jpg and IMG_20.jpg: the views on both sides do not overlap enough"]
    lines = report_lines(found, [], "")
    assert f"  - IMG_20.jpg, IMG_21.jpg: {ELSEWHERE} (IMG_20.jpg, IMG_21.jpg)" in lines


def test_many_photos_of_nothing_that_the_map_shows_may_be_another_place():
    street = [f"street_{i}.jpg" for i in range(6)]
    found = facts(dropped=dict.fromkeys(street, NOTHING), ordered=[*NAMES, *street])
    (told,) = advice([], found)
    assert told.startswith("street_0.jpg to street_5.jpg (6 photos) have nothing in common with the map: if they show another place, map")
    assert advice([], facts(dropped=dict.fromkeys(street[:4], NOTHING), ordered=[*NAMES, *street[:4]])) == []


def test_the_scale_is_said_plainly():
    assert (
        scale_sentence(scene(), {"note": "GPS in 9 photos"}) == "Distances are in metres, from GPS in 9 photos; the path is 9.5 m across."
    )
    text = scale_sentence(scene("arbitrary"), {})
    assert "scene units" in text and "--scale 'IMG_00.jpg IMG_19.jpg METRES'" in text
    assert farthest(scene()) == ("IMG_00.jpg", "IMG_19.jpg")
