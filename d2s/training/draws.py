"""What is drawn at random while training: pure functions of seed, purpose and step, so that a resumed run draws what the uninterrupted one
would have drawn.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def step_generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """A generator that depends on seed, purpose and step only: a resumed run draws what the uninterrupted one would have drawn."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def epoch_length(real: int, extra: int, fraction: float) -> int:
    """Images of an epoch with `real` images and `extra` further ones: each real one, and as many extra ones as make up their `fraction`."""
    return real + (round(real * fraction / (1 - fraction)) if extra else 0)


def epoch_order(real: int, extra: int, fraction: float, seed: int, purpose: str, epoch: int) -> Tensor:
    """Indices of an epoch's images: the real ones (0 to real - 1) once each in random order, and evenly between them extra ones (from
    `real` on), of which none comes twice before all have come. A pure function of its arguments.
    """
    first = torch.randperm(real, generator=step_generator(seed, purpose, epoch))
    total = epoch_length(real, extra, fraction)
    wanted = total - real
    if not wanted:
        return first
    turns = range(math.ceil(wanted / extra))
    others = torch.cat([torch.randperm(extra, generator=step_generator(seed, f"extra {turn} {purpose}", epoch)) for turn in turns])
    due = torch.arange(total + 1) * wanted // total
    is_extra = due[1:] > due[:-1]
    order = torch.empty(total, dtype=torch.long)
    order[~is_extra], order[is_extra] = first, others[:wanted] + real
    return order
