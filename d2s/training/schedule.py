"""Learning rates as pure functions of progress: a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from d2s.config import OptimizationConfig

FINAL_SHARE = 1e-3
"""Share of the peak learning rate at which cosine and onecycle end."""


def learning_rate(config: OptimizationConfig, progress: float, stage: int = 1) -> float:
    """Learning rate at `progress` in [0, 1] of a stage.

    "milestones": the stage's rate times lr_decay for every fifth of the stage that has passed, as published. "shrink": times 1 - lr_decay
    for every seventh, as the newer public code. "cosine": linear rise, then a cosine to (almost) 0. "onecycle": the rise is a cosine too,
    from a 25th of the peak.
    """
    peak = {1: config.lr, 2: config.lr_add, 3: config.lr_add_unlabel}[stage]
    progress = min(max(progress, 0.0), 1.0)
    if config.schedule == "milestones":
        return peak * config.lr_decay ** min(int(progress * 5 + 1e-9), 4)
    if config.schedule == "shrink":
        return peak * (1 - config.lr_decay) ** min(int(progress * 7 + 1e-9), 6)
    if progress < config.warmup:
        rise = progress / config.warmup
        if config.schedule == "onecycle":
            rise = 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * rise)) / 2
        return peak * max(rise, FINAL_SHARE)
    share = (progress - config.warmup) / (1 - config.warmup)
    return peak * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * share)) / 2)
