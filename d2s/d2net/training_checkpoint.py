"""Checkpoints of a training of D2-Net, in the published layout (entry `model`), with all that is needed to go on.

`PREFIX.EE.pth`: after epoch EE. `PREFIX.best.pth`: the one with the least validation loss. `PREFIX.last.pth`: where a killed run goes on.
"""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from d2s.d2net.training_options import TrainingOptions
from d2s.errors import FormatError, SettingsMismatchError
from d2s.features.d2net.network import D2Net
from d2s.features.weights import load_state_dict
from d2s.scene.atomic import atomic_path

log = logging.getLogger(__name__)

ANEW = "Start anew with --resume never, or choose another --checkpoint_prefix."


@dataclass
class Progress:
    """Where a training is: finished epochs, batches of the running one, the sum and number of their losses, seconds; mean losses so far.

    `validation_losses` begins with that before the first epoch.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    train_losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    def mean_loss(self) -> float:
        """Over the batches of the running epoch; NaN before the first."""
        return self.loss_sum / self.loss_count if self.loss_count else float("nan")


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a run; creates nothing by itself."""

    folder: Path
    prefix: str

    @property
    def last(self) -> Path:
        """Where to go on."""
        return self.folder / f"{self.prefix}.last.pth"

    @property
    def best(self) -> Path:
        """The least validation loss."""
        return self.folder / f"{self.prefix}.best.pth"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step and per validation."""
        return self.folder / f"{self.prefix}.metrics.jsonl"

    def of_epoch(self, epoch: int) -> Path:
        """The checkpoint after an epoch."""
        return self.folder / f"{self.prefix}.{epoch:02d}.pth"

    def remove_leftovers(self) -> None:
        """Remove what a killed run had not yet published."""
        ours = re.compile(rf"\.{re.escape(self.prefix)}\.\w+\.(pth|jsonl)\.[0-9a-f]{{8}}\.tmp")
        for path in self.folder.glob(".*.tmp"):
            if ours.fullmatch(path.name):
                path.unlink()

    def clear(self) -> None:
        """Remove what an earlier run left."""
        ours = re.compile(rf"{re.escape(self.prefix)}\.(\d+|best|last)\.pth")
        for path in [*self.folder.glob("*.pth"), self.metrics]:
            if ours.fullmatch(path.name) or path == self.metrics:
                path.unlink(missing_ok=True)

    def copy_best(self, epoch: int) -> None:
        """The checkpoint of an epoch becomes the best one."""
        with atomic_path(self.best) as temporary:
            shutil.copyfile(self.of_epoch(epoch), temporary)


def save_checkpoint(
    path: Path, network: D2Net, optimizer: torch.optim.Optimizer, progress: Progress, options: TrainingOptions, start: str
) -> None:
    """Write a checkpoint, whole or not at all. `start`: the weights that training began with."""
    entries = {
        "args": {**options.decisive(), "start": start},
        "epoch_idx": progress.epoch,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "train_loss_history": progress.train_losses,
        "validation_loss_history": progress.validation_losses,
        "progress": asdict(progress),
    }
    with atomic_path(path) as temporary:
        torch.save(entries, temporary)


def resume(path: Path, network: D2Net, optimizer: torch.optim.Optimizer, options: TrainingOptions, start: str) -> Progress:
    """Put a checkpoint into network and optimiser and return where it was; a new Progress where there is no checkpoint.

    Raises SettingsMismatchError when it was made with other settings, FormatError when it is damaged.
    """
    if not path.is_file():
        return Progress()
    state = load_state_dict(path)
    try:
        _require_equal(path, state["args"], {**options.decisive(), "start": start})
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path} is no checkpoint to go on from ({' '.join(str(error).split())[:200]}).", ANEW) from None


def _require_equal(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        first = "; ".join(f"{name} {str(before[name])[:60]}, now {str(now[name])[:60]}" for name in changed[:4])
        raise SettingsMismatchError(f"{path} was made with other settings ({first}).", ANEW)
