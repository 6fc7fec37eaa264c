"""How good a pose is in one word: what a page colours by, and what its sentences count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from d2s.evaluation.score import CM_PER_PERCENT, METRES, Score

GOOD, FAIR, POOR, FAILED = range(4)
COLORS = ("#159a55", "#e0940f", "#d3392b", "#b21fa8")
ROOM = 20.0  # metres between the farthest cameras: a larger place is asked for what outdoor benchmarks ask for


@dataclass(frozen=True)
class Tolerance:
    """Largest errors: `t` in the scene's unit, `deg` in degrees; `text` says them."""

    t: float
    deg: float
    text: str

    def holds(self, score: Score) -> bool:
        """Whether a pose is this good; one that is missing never is."""
        return score.t <= self.t and score.r_deg <= self.deg


@dataclass(frozen=True)
class Grading:
    """A pose within `good` is good, within `fair` fair, any other poor; where there is none, the image failed."""

    good: Tolerance
    fair: Tolerance

    def grade(self, score: Score) -> int:
        """GOOD, FAIR, POOR or FAILED."""
        if not score.success:
            return FAILED
        return GOOD if self.good.holds(score) else FAIR if self.fair.holds(score) else POOR

    def names(self) -> tuple[str, str, str, str]:
        """Words for the four grades."""
        return f"within {self.good.text}", f"within {self.fair.text}", "farther off", "not localized"

    def counts(self, scores: Sequence[Score]) -> tuple[int, int, int, int]:
        """How many queries got each grade."""
        grades = [self.grade(score) for score in scores]
        return grades.count(GOOD), grades.count(FAIR), grades.count(POOR), grades.count(FAILED)


def grading(units: str, extent: float) -> Grading:
    """What a place of this extent (in its unit) is asked for: 5 cm and 5 degrees in a room, 25 cm and 2 degrees in a larger place."""
    if units != METRES:
        percent = extent / 100
        return Grading(Tolerance(percent, 5, "1 %, 5°"), Tolerance(25 / CM_PER_PERCENT * percent, 10, "5 %, 10°"))
    if extent <= ROOM:
        return Grading(Tolerance(0.05, 5, "5 cm, 5°"), Tolerance(0.25, 10, "25 cm, 10°"))
    return Grading(Tolerance(0.25, 2, "25 cm, 2°"), Tolerance(1.0, 5, "1 m, 5°"))
