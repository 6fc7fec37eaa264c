"""The confidence that keeps wrong poses rare, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import FormatError, InputError
from d2s.localization.localizer import Localizer
from d2s.localization.risk import LEAST, Condition, calibrated, ceiled, conditions_from_json, confidence_for, promise


def harmful(condition: Condition, confidence: float) -> int:
    return sum(wrong >= confidence for wrong in condition.wrong)


def test_the_lowest_confidence_that_keeps_the_promise_is_asked_for():
    condition = Condition("a", 99, (0.9, 0.8, 0.8, 0.4, 0.1))
    for max_wrong in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.5):
        least = confidence_for(max_wrong, [condition])
        assert (harmful(condition, least) + 1) / 100 <= max_wrong + 1e-9
        lower = max((wrong for wrong in condition.wrong if wrong < least), default=None)
        assert lower is None or (harmful(condition, lower) + 1) / 100 > max_wrong + 1e-9
    assert confidence_for(0.06, [condition]) == LEAST < confidence_for(0.05, [condition])


def test_every_condition_is_kept_by_the_strictest():
    some, more = Condition("some", 199, (0.7, 0.6)), Condition("more", 199, (0.95, 0.9))
    assert confidence_for(0.01, [some, more]) == confidence_for(0.01, [more]) > confidence_for(0.01, [some])


def test_the_promise_holds_of_the_next_photo():
    """Of many draws of calibration photos and one more from the same stock: harm is no more frequent than asked for, nor much rarer."""
    random, photos, max_wrong, harm = np.random.default_rng(0), 59, 0.1, []
    for _ in range(4000):
        confidence = random.uniform(size=photos + 1)
        wrong = random.uniform(size=photos + 1) > confidence
        condition = Condition("a", photos, tuple(np.sort(confidence[:-1][wrong[:-1]])[::-1].tolist()))
        harm.append(wrong[-1] and confidence[-1] >= confidence_for(max_wrong, [condition]))
    assert 0.06 < np.mean(harm) < max_wrong + 2 * np.sqrt(0.1 * 0.9 / len(harm))


@pytest.mark.parametrize("max_wrong", [0.0, 0.009, 1.1])
def test_a_share_that_the_photos_cannot_speak_for_is_refused_with_the_smallest(max_wrong):
    with pytest.raises(InputError, match=r"0\.02 is the smallest share of wrong poses that 50 photos"):
        confidence_for(max_wrong, [Condition("few", 50, ()), Condition("many", 500, ())])
    assert confidence_for(0.02, [Condition("few", 50, ())]) == LEAST


def test_rounded_up_a_share_is_still_allowed():
    assert (ceiled(1 / 51), ceiled(0.01), ceiled(0.0123)) == (0.02, 0.01, 0.013)


def test_the_shipped_conditions_can_be_asked():
    strictest = max(condition.smallest for condition in calibrated())
    asked = [confidence_for(share) for share in np.linspace(strictest, 1, 20)]
    assert asked == sorted(asked, reverse=True) and asked[-1] == LEAST
    line = promise(0.05, confidence_for(0.05))
    assert "at most 5 %" in line and all(condition.name in line for condition in calibrated())


@pytest.mark.parametrize("value", [None, {}, []])
def test_missing_conditions_are_said(value):
    with pytest.raises(FormatError, match=r"x\.json holds no conditions"):
        conditions_from_json(value, "x.json")


def test_what_cannot_be_promised_is_said_before_a_model_is_loaded(tmp_path):
    with pytest.raises(InputError, match="smallest share"):
        Localizer.load(tmp_path / "none", max_wrong=1e-6)
    with pytest.raises(InputError, match="Give one of the two"):
        Localizer.load(tmp_path / "none", min_confidence=0.5, max_wrong=0.1)
