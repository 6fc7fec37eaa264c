"""Why structure from motion could not place a photo, in words that say what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from processing.sfm.reconstruction import Reconstructed

FEW_KEYPOINTS = 200
"""Below this many keypoints it is the photo itself, not its neighbours, that is to blame."""
FEW_MATCHES = 30
"""Verified matches with any placed photo below which a photo counts as seeing something else; COLMAP wants 30 visible points."""
NAMED = 3
NOTHING = "shows nothing that any placed photo shows"
ELSEWHERE = "part of another group of photos that does not connect with the map"


def why_unplaced(names: Sequence[str], keypoints: Mapping[str, int], found: Reconstructed) -> dict[str, str]:
    """A reason for each of the photos that the largest model lacks; `keypoints`: how many each of them has."""
    placed = {image.name for image in found.model.images.values() if image.has_pose}
    part_of = {name: part for part in found.parts for name in part}
    return {name: _why(name, keypoints[name], part_of.get(name, ()), placed, found.verified) for name in names}


def _why(name: str, keypoints: int, part: Sequence[str], placed: set[str], verified: Mapping[tuple[str, str], int]) -> str:
    if keypoints < FEW_KEYPOINTS:
        return f"only {keypoints} keypoints: blurred, dark or without texture"
    if part:
        return f"{ELSEWHERE} ({named(part)})"
    count, best = best_match(name, placed, verified)
    if best is None:
        return NOTHING
    if count < FEW_MATCHES:
        return f"little overlap: only {count} matches with the most similar placed photo, {best}"
    return f"{count} matches with {best}, but no position agrees with all of them: too little parallax there, or something that looks alike"


def best_match(name: str, placed: set[str], verified: Mapping[tuple[str, str], int]) -> tuple[int, str | None]:
    """Most verified matches of a photo with a placed one, and which."""
    others = [(count, second if first == name else first) for (first, second), count in verified.items() if name in (first, second)]
    return max(((count, other) for count, other in others if other in placed), default=(0, None))


def named(names: Sequence[str]) -> str:
    """Photos in words: all of a few, else the first and the last of them and how many there are."""
    return ", ".join(names) if len(names) <= NAMED else f"{names[0]} to {names[-1]} ({len(names)} photos)"
