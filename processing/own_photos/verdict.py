"""What the self-check means, in plain words: how well the place is localized, where it is weak, and which photos would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2s.evaluation import wording
from d2s.evaluation.score import METRES, Score, scene_extent
from d2s.scene.manifest import Scene
from processing.sfm.hinges import Hinge
from processing.sfm.links import Link
from processing.unplaced import ELSEWHERE, NOTHING, named

GOOD_T_M, GOOD_T_SHARE, GOOD_R_DEG = 0.05, 0.01, 5.0
"""A photo is localized well within 5 cm, or 1 % of the extent of the path where that is more or there are no metres, and 5 degrees."""
WELL, PARTLY = 0.9, 0.6
"""Shares of held-out photos localized well, from which a place counts as localized well, or partly."""
FEW_TESTED = 5
"""Below this many held-out photos the check is a hint: three of three are found in an eighth of places that are half good."""
COVERED = 0.8
"""Share of the photos that must be placed for the map to count as one of the whole place."""
FEW_LABELS, FEW_LABELS_SHARE = 100, 0.25
"""A photo has little to hold on to below this many labelled keypoints, or below this share of what is typical."""
OTHER_PLACE = 5
"""So many photos that have nothing in common with the map may show a place of their own."""
UNHELD = 0.5
"""A part that may be out of place by this share of the path is held by nothing."""
MOST_ADVICE = 8


@dataclass(frozen=True)
class Facts:
    """What is known after the self-check. `ordered`: all photos as they were taken, placed or not; `labels`: of each
    mapping photo; `held_out`: the photos to test on, of which some may not be placed; `doubts`: links to groups that may
    lie in the wrong place; `hinges`: groups that too little holds in their place.
    """

    scene: Scene
    scores: Sequence[Score]
    labels: Mapping[str, int]
    links: Sequence[Link]
    dropped: Mapping[str, str]
    ordered: Sequence[str]
    held_out: Sequence[str] = ()
    doubts: Sequence[Link] = ()
    hinges: Sequence[Hinge] = ()

    @property
    def doubtful(self) -> set[str]:
        """Photos whose reference positions are not to be trusted."""
        parts = [*(link.part for link in self.doubts), *(hinge.part for hinge in self.hinges)]
        return {name for part in parts for name in part}

    @property
    def given(self) -> int:
        """Photos that there were; what a file with poses names without there being such a photo does not count."""
        return len(self.scene.images) + len(set(self.dropped) & set(self.ordered))

    @property
    def extent(self) -> float:
        """Diagonal of the box around all camera centres, in the scene's unit."""
        return scene_extent(self.scene)

    @property
    def tolerance(self) -> float:
        """Distance in the scene's unit within which a photo is localized well."""
        relative = GOOD_T_SHARE * self.extent
        return max(GOOD_T_M, relative) if self.scene.units == METRES else relative

    def good(self, score: Score) -> bool:
        """Whether a held-out photo was localized well."""
        return score.success and score.t <= self.tolerance and score.r_deg <= GOOD_R_DEG


def headline(facts: Facts) -> list[str]:
    """How well this place can be localized."""
    if not facts.scores:
        return ["No photo was held out, so nothing is known about how well new photos are localized."]
    untested = [name for name in facts.held_out if name in facts.dropped]
    found, good = sum(score.success for score in facts.scores), sum(map(facts.good, facts.scores))
    count, share = len(facts.scores), good / len(facts.scores)
    share = min(share, 1 - len(facts.doubtful) / len(facts.scene.images))
    how = "well" if share >= WELL else "in parts" if share >= PARTLY else "badly"
    error = f"Typical error {_typical(facts)}; " if found else ""
    return [
        f"This place can be localized {how}{_how_far(count)}." + _coverage(facts),
        f"{error}{found} of {count} held-out photos found, {good} of them within {_tolerance(facts)}.",
        *map(_doubt, facts.doubts),
        *map(_hinge, facts.hinges),
        *([f"{len(untested)} more could not be tested: their true position is unknown ({named(untested)})."] if untested else []),
    ]


def _how_far(tested: int) -> str:
    """What the word of so few photos is worth."""
    if tested >= FEW_TESTED:
        return ""
    return f", as far as {tested} photos can tell" if tested > 1 else ", as far as one photo can tell"


def _doubt(link: Link) -> str:
    """What the self-check cannot see."""
    return (
        f"Doubtful: {named(link.part)} probably lie in the wrong place, in front of something that looks like what they show. Only "
        f"{link.shared} points connect them with the rest, and the photos taken before and after lie far away. The check cannot see that."
    )


def _hinge(hinge: Hinge) -> str:
    """What the self-check cannot see either: how far a part may be off."""
    held = f" They are held no better than by {max(hinge.tracks, 1):.0f} points; {100 * hinge.share:.0f} % of that is in {hinge.photo}."
    return f"Doubtful: {_out_of_place(hinge)}.{held if 2 * hinge.shift < UNHELD else ''} The check cannot see it."


def _out_of_place(hinge: Hinge) -> str:
    """How far off a part is at most, which is two standard deviations."""
    shift, scale = 2 * hinge.shift, 2 * hinge.scale
    if shift >= UNHELD:
        return f"{named(hinge.part)} may be anywhere and of any size, since next to nothing holds them"
    size = f", and {100 * scale:.2g} % too large or too small" if scale > shift else ""
    return f"{named(hinge.part)} may be {100 * shift:.2g} % of the path's extent out of place{size}"


def _coverage(facts: Facts) -> str:
    """A warning where much of what was photographed is not in the map."""
    placed = len(facts.scene.images)
    return f" But the map has {placed} of the {facts.given} photos only." if placed < COVERED * facts.given else ""


def _typical(facts: Facts) -> str:
    """Median of the errors of the photos that were found: what could not be found is counted beside it."""
    found = [score for score in facts.scores if score.success]
    t, r = (float(np.median([getattr(score, name) for score in found])) for name in ("t", "r_deg"))
    return f"{_distance(t, facts)} and {r:.2g} degrees"


def _distance(t: float, facts: Facts) -> str:
    text = wording.distance(t, facts.scene.units, facts.extent)
    return text if facts.scene.units == METRES else f"{text} of the path's extent"


def _tolerance(facts: Facts) -> str:
    return f"{_distance(facts.tolerance, facts)} and {GOOD_R_DEG:g} degrees"


def weak_parts(facts: Facts) -> list[dict[str, Any]]:
    """Where this map is weak, worst first: `photos`, `problem` and `advice`, each in words."""
    return [*_lost(facts), *_imprecise(facts), *_hinged(facts), *_loose(facts), *_bare(facts)]


def _lost(facts: Facts) -> list[dict[str, Any]]:
    return [
        _weak([score.image.name], f"{score.image.name}: held out, and not found ({score.reason})", _around(score.image.name, facts))
        for score in facts.scores
        if not score.success
    ]


def _imprecise(facts: Facts) -> list[dict[str, Any]]:
    bad = sorted((score for score in facts.scores if score.success and not facts.good(score)), key=lambda score: -score.t)
    return [
        _weak(
            [score.image.name],
            f"{score.image.name}: held out, and found {_distance(score.t, facts)} and {score.r_deg:.2g} degrees off",
            _around(score.image.name, facts),
        )
        for score in bad
    ]


def _hinged(facts: Facts) -> list[dict[str, Any]]:
    close = "close enough together for three or more to show the same points"
    return [
        _weak(hinge.part, _out_of_place(hinge), f"add photos between {hinge.first} and {hinge.second}, {close}") for hinge in facts.hinges
    ]


def _loose(facts: Facts) -> list[dict[str, Any]]:
    found = []
    told = {hinge.part for hinge in facts.hinges}
    for link in facts.links:
        if link.part in told:
            continue
        held = "holds" if len(link.part) == 1 else "hold"
        if link in facts.doubts:
            found.append(_weak(link.part, f"{named(link.part)}: probably in the wrong place", _reconnect(link, facts)))
            continue
        problem = f"{named(link.part)} {held} on to the rest by {link.shared} common points only, those of {link.first} and {link.second}"
        found.append(_weak(link.part, problem, f"add photos between {link.first} and {link.second}: few views overlap there"))
    return found


def _reconnect(link: Link, facts: Facts) -> str:
    """Where the group should connect: at the photos before and after it."""
    placed = {image.name for image in facts.scene.images}
    ordered, part = [name for name in facts.ordered if name in placed], set(link.part)
    borders = [f"{a} and {b}" for a, b in zip(ordered, ordered[1:], strict=False) if (a in part) != (b in part)]
    return f"add photos between {', and between '.join(borders)}, so that these photos connect where they belong"


def _bare(facts: Facts) -> list[dict[str, Any]]:
    counts = facts.labels
    limit = max(FEW_LABELS, FEW_LABELS_SHARE * float(np.median(list(counts.values())))) if counts else 0
    names = [name for name in facts.ordered if (counts.get(name) or 0) < limit and name in counts]
    if not names:
        return []
    problem = f"{named(names)}: few points to hold on to (down to {min(counts[name] for name in names)} in a photo)"
    return [_weak(names, problem, "add sharp photos there with more texture in view, from several sides")]


def _weak(photos: Sequence[str], problem: str, advice: str) -> dict[str, Any]:
    return {"photos": list(photos), "problem": problem, "advice": advice}


def _around(name: str, facts: Facts) -> str:
    """Where to add photos so that one like this is found: between the mapping photos before and after it."""
    mapped = {image.name for image in facts.scene.split("train")}
    at = list(facts.ordered).index(name)
    before = next((other for other in reversed(facts.ordered[:at]) if other in mapped), None)
    after = next((other for other in facts.ordered[at + 1 :] if other in mapped), None)
    if before and after:
        return f"add photos between {before} and {after}"
    return f"add photos around {before or after or name}"


def advice(weak: Sequence[Mapping[str, Any]], facts: Facts) -> list[str]:
    """Which photos to add, each place once, the most urgent first."""
    return list(dict.fromkeys([*_other_place(facts), *_bridges(facts), *(str(entry["advice"]) for entry in weak)]))


def _other_place(facts: Facts) -> list[str]:
    """What to do with many photos that have nothing in common with the map."""
    names = [name for name in facts.ordered if facts.dropped.get(name, "").startswith((NOTHING, ELSEWHERE))]
    if len(names) < OTHER_PLACE:
        return []
    return [
        f"{named(names)} have nothing in common with the map: if they show another place, map that from a folder of its own; "
        "if not, add photos on the way from there to what the map shows"
    ]


def _bridges(facts: Facts) -> list[str]:
    """Where the map and the groups of photos that do not connect with it come closest, in the order of the photos."""
    placed = {image.name for image in facts.scene.images}
    wanted = []
    for before, after in zip(facts.ordered, facts.ordered[1:], strict=False):
        elsewhere = [name for name in (before, after) if facts.dropped.get(name, "").startswith(ELSEWHERE)]
        if len(elsewhere) == 1 and (before in placed) != (after in placed):
            wanted.append(f"add photos between {before} and {after}: the views on both sides do not overlap enough")
    return wanted


def dropped_lines(dropped: Mapping[str, str]) -> list[str]:
    """Photos that are not in the map, by reason, each with names."""
    reasons = Counter(dropped.values())
    return [f"{named([name for name, why in dropped.items() if why == reason])}: {reason}" for reason, _ in reasons.most_common()]


def report_lines(facts: Facts, weak: Sequence[Mapping[str, Any]], scale: str) -> list[str]:
    """The verdict as it is printed."""
    placed = len(facts.scene.images)
    lines = [*headline(facts), f"{placed} of {facts.given} photos are placed. {scale}"]
    if facts.dropped:
        lines += ["", "Photos without a place in the map:", *_bullets(dropped_lines(facts.dropped))]
    if weak:
        lines += ["", "Weak parts:", *_bullets([str(entry["problem"]) for entry in weak])]
    wanted = advice(weak, facts)
    lines += ["", "To make it better:", *_bullets(wanted)] if wanted else ["", "No weak part was found."]
    return lines


def _bullets(lines: Sequence[str]) -> list[str]:
    shown = [f"  - {line}" for line in lines[:MOST_ADVICE]]
    return shown + ([f"  - and {len(lines) - MOST_ADVICE} more (map.json has all)"] if len(lines) > MOST_ADVICE else [])
