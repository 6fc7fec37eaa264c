"""Progress lines come every few seconds, not for every item."""

from __future__ import annotations

from processing import progress


def test_short_works_are_silent_and_long_ones_tell_how_far_they_are(caplog, monkeypatch):
    caplog.set_level("INFO")
    assert list(progress.track(range(100), 100, "counting")) == list(range(100))
    assert caplog.messages == []
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(progress.track("abcdefghijkl", 12, "spelling")) == list("abcdefghijkl")
    assert caplog.messages == ["  spelling: 5 of 12 (5 s)", "  spelling: 10 of 12 (10 s)"]
