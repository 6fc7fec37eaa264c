"""What decides a training of D2-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2s.d2net.correspondences import CELL, TOLERANCE
from d2s.d2net.correspondences import KINDS as CORRESPONDENCES
from d2s.d2net.megadepth import TRAIN_SCENES, VALID_SCENES
from d2s.d2net.megadepth_data import PairLimits
from d2s.d2net.triplet_loss import MARGIN, SAFE_RADIUS
from d2s.errors import InputError, unknown_choice
from d2s.features.d2net.preprocessing import PREPROCESSINGS

SCHEDULERS = ("constant", "halve", "cosine")
HALVE_EPOCHS = 10


@dataclass(frozen=True)
class TrainingOptions:
    """Defaults are those of the published training, but for `correspondences`."""

    dataset_path: Path
    scene_info_path: Path
    preprocessing: str = "caffe"
    num_epochs: int = 10
    lr: float = 1e-3
    batch_size: int = 1
    num_workers: int = 4
    use_validation: bool = False
    log_interval: int = 250
    save_interval: int = 500
    """Batches between two checkpoints within an epoch; 0: none."""
    train_scenes: Sequence[str] = field(default_factory=lambda: TRAIN_SCENES)
    valid_scenes: Sequence[str] = field(default_factory=lambda: VALID_SCENES)
    limits: PairLimits = field(default_factory=PairLimits)
    validation_pairs: int = 25
    crop_size: int = 256
    margin: float = MARGIN
    safe_radius: int = SAFE_RADIUS
    min_correspondences: int = 128
    correspondences: str = "corrected"
    depth_tolerance: float = TOLERANCE
    scheduler: str = "constant"
    amp: bool = False
    """bfloat16 in the layers that are not trained; the last one and the loss keep their full precision."""
    seed: int = 1

    def __post_init__(self) -> None:
        _check(self)

    def learning_rate(self, epochs: float) -> float:
        """The rate after so many epochs: a pure function, so that a resumed run needs no state of a scheduler."""
        if self.scheduler == "halve":
            return self.lr * 0.5 ** int(epochs / HALVE_EPOCHS)
        if self.scheduler == "cosine":
            return self.lr * (1 + math.cos(math.pi * min(1.0, epochs / self.num_epochs))) / 2
        return self.lr

    def decisive(self) -> dict[str, Any]:
        """What must be equal for a run to go on: all but machine, logs and checkpoints, and length where the rate does not depend on it."""
        free = {"num_workers", "log_interval", "save_interval", "dataset_path", "scene_info_path", "limits"}
        if self.scheduler != "cosine":
            free.add("num_epochs")
        values = {name: value for name, value in vars(self).items() if name not in free}
        values.update(train_scenes=" ".join(self.train_scenes), valid_scenes=" ".join(self.valid_scenes), **vars(self.limits))
        return values


def _check(options: TrainingOptions) -> None:
    """Raises InputError naming the option and what is allowed."""
    for name, allowed in (("preprocessing", PREPROCESSINGS), ("correspondences", CORRESPONDENCES), ("scheduler", SCHEDULERS)):
        if getattr(options, name) not in allowed:
            raise unknown_choice(name, getattr(options, name), allowed)
    least = {"num_epochs": 1, "batch_size": 1, "log_interval": 1, "validation_pairs": 1, "min_correspondences": 1}
    for name, value in {**least, "num_workers": 0, "save_interval": 0, "safe_radius": 0, "seed": 0}.items():
        if getattr(options, name) < value:
            raise InputError(f"--{name} must be at least {value}, not {getattr(options, name)}.")
    for name in ("lr", "margin", "depth_tolerance"):
        if not 0 < getattr(options, name) < math.inf:
            raise InputError(f"--{name} must be a positive number, not {getattr(options, name)}.")
    if options.crop_size < 2 * CELL or options.crop_size % CELL:
        raise InputError(f"--crop_size must be a multiple of {CELL} pixels, at least {2 * CELL}, not {options.crop_size}.")
    limits = options.limits
    if limits.per_scene < 1 or not 0 <= limits.min_overlap <= limits.max_overlap or limits.max_scale_ratio < 1:
        raise InputError(
            f"Pairs: --pairs_per_scene {limits.per_scene} must be at least 1, --min_overlap {limits.min_overlap:g} at most --max_overlap "
            f"{limits.max_overlap:g}, --max_scale_ratio {limits.max_scale_ratio:g} at least 1."
        )
