"""How a run over many frames goes: what the progress line and the summary say."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

from d2s.localization.result import LocalizationResult

RECENT = 20


@dataclass
class Tally:
    """Counts of frames; times are wall time from frame to frame, so that reading and writing count too."""

    frames: int = 0
    localized: int = 0
    alone: int = 0
    ms: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=lambda: [time.perf_counter()])

    def add(self, result: LocalizationResult) -> None:
        """Count one frame."""
        self.frames += 1
        self.localized += result.success
        self.alone += result.success and result.from_prior and not result.ms.get("regressor")
        if "total" in result.ms:
            self.ms.append(result.ms["total"])
        self.ends.append(time.perf_counter())

    @property
    def fps(self) -> float:
        """Frames per second lately."""
        ends = self.ends[-RECENT - 1 :]
        return (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9)

    def describe(self, dropped: int = 0, reconnections: int = 0) -> str:
        """One line for people."""
        seconds = max(self.ends[-1] - self.ends[0], 1e-9)
        share = f" ({100 * self.localized / self.frames:.1f} %)" if self.frames else ""
        parts = [f"{self.frames} frames", f"{self.localized} localized{share}"]
        parts += [f"median {statistics.median(self.ms):.0f} ms"] if self.ms else []
        parts += [f"{self.frames / seconds:.1f} frames per second"] if self.frames else []
        parts += [f"{self.alone} found from the frame before alone"] if self.alone else []
        parts += [f"{dropped} dropped"] if dropped else []
        parts += [f"{reconnections} times connected again"] if reconnections else []
        return ", ".join(parts)
