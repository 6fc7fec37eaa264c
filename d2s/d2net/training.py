"""The training of D2-Net (Dusmanu et al. 2019, section 4): its last convolution learns from pairs of photos with known depth."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2s.d2net.megadepth_data import Pair, PairDataset, SamplePair, draw_pairs, readable
from d2s.d2net.processes import Processes
from d2s.d2net.training_batch import Watch, batch_outcome
from d2s.d2net.training_checkpoint import CheckpointFiles, Progress, save_checkpoint
from d2s.d2net.training_options import TrainingOptions
from d2s.errors import TrainingError
from d2s.features.d2net.network import D2Net
from d2s.training.tracking import Tracker

VALIDATION_SEED = 42


def make_optimizer(network: D2Net, lr: float) -> torch.optim.Adam:
    """Adam on what is trainable."""
    return torch.optim.Adam([parameter for parameter in network.parameters() if parameter.requires_grad], lr=lr)


class D2NetTrainer:
    """Trains from wherever `progress` is to the last epoch."""

    def __init__(
        self,
        options: TrainingOptions,
        network: D2Net,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        files: CheckpointFiles,
        processes: Processes,
        start: str,
        trackers: Sequence[Tracker] = (),
        watch: Watch | None = None,
    ) -> None:
        self.options, self.network, self.optimizer, self.progress, self.files = options, network, optimizer, progress, files
        self.processes, self.start, self.trackers, self.watch = processes, start, trackers, watch
        network.dense_feature_extraction.half_precision = options.amp
        self._steps = 1
        self._begun = time.monotonic() - progress.seconds

    def run(self) -> None:
        """All epochs that are left; with validation, a first one before them."""
        if self.options.use_validation and not self.progress.validation_losses:
            self._validate()
        while self.progress.epoch < self.options.num_epochs:
            self._train_epoch()
            self._end_epoch()

    def _share(self) -> float:
        """Share of the training that is done."""
        return (self.progress.epoch + min(1.0, self.progress.step / self._steps)) / self.options.num_epochs

    def _train_epoch(self) -> None:
        options, epoch = self.options, self.progress.epoch + 1
        pairs = draw_pairs(options.dataset_path, options.scene_info_path, options.train_scenes, options.limits, options.seed, epoch)
        self._steps = math.ceil(len(pairs) / options.batch_size)
        for batch in self._batches(pairs, self.progress.step):
            self._train_batch(batch)
            if options.save_interval and self.progress.step % options.save_interval == 0 and self.progress.step < self._steps:
                self._save(self.files.last)
        if not self.progress.loss_count:
            raise TrainingError(
                f"No pair of epoch {epoch} has {options.min_correspondences} corresponding cells.",
                "Lower --min_correspondences, or ask for more overlap with --min_overlap.",
            )

    def _batches(self, pairs: Sequence[Pair], first: int = 0) -> Iterator[list[SamplePair]]:
        """This process's share of the batches from number `first` on."""
        size = self.options.batch_size
        mine = pairs[self.processes.rank :: self.processes.count]
        done = first * size // self.processes.count
        loader = DataLoader(
            PairDataset(mine, self.options.crop_size, done),
            batch_size=size // self.processes.count,
            num_workers=min(self.options.num_workers, os.cpu_count() or 1),
            collate_fn=list,
            generator=torch.Generator(),  # its own, so that loading does not draw from the global one
        )
        loaded = iter(loader) if done < len(mine) else iter(())
        for _ in range(first, math.ceil(len(pairs) / size)):
            yield readable(next(loaded, []))  # the last batch may leave nothing for this process

    def _train_batch(self, batch: list[SamplePair]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate(self._share() * self.options.num_epochs)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = batch_outcome(self.network, batch, self.options, self.processes.device) if batch else None
        losses = outcome.losses if outcome else []
        count = int(self.processes.total(len(losses)))
        if count:
            self._take_step(losses, count)
        self.progress.step += 1
        self.progress.total_steps += 1
        due = self.progress.step % self.options.log_interval == 0
        if outcome and due and self.watch and self.processes.first:
            self.watch("train", self.progress.epoch + 1, self.progress.step, outcome)
        if (due or self.progress.step == self._steps) and self.progress.loss_count:
            self._tell_step()

    def _take_step(self, losses: list[Tensor], count: int) -> None:
        """One step down the mean loss of the pairs of all processes."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        mine = torch.stack(losses).sum() / count if losses else None
        if mine is not None:
            mine.backward()
        self.processes.add_gradients(parameters)
        loss = self.processes.total(float(mine.detach()) if mine is not None else 0.0)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss of batch {self.progress.step + 1} in epoch {self.progress.epoch + 1} is not finite.", "Lower --lr."
            )
        self.optimizer.step()
        self.progress.loss_sum += loss
        self.progress.loss_count += 1

    @torch.no_grad()
    def _validate(self) -> None:
        options = self.options
        limits = replace(options.limits, per_scene=options.validation_pairs)
        pairs = draw_pairs(options.dataset_path, options.scene_info_path, options.valid_scenes, limits, VALIDATION_SEED, 0)
        means: list[float] = []
        for number, batch in enumerate(self._batches(pairs), start=1):
            outcome = batch_outcome(self.network, batch, options, self.processes.device) if batch else None
            losses = outcome.losses if outcome else []
            count = self.processes.total(len(losses))
            total = self.processes.total(sum(float(loss) for loss in losses))
            means += [total / count] if count else []
            if outcome and number % options.log_interval == 0 and self.watch and self.processes.first:
                self.watch("valid", self.progress.epoch, number, outcome)
        if not means:
            raise TrainingError(f"No pair of validation has {options.min_correspondences} corresponding cells.", "Name other scenes.")
        loss = sum(means) / len(means)
        if not math.isfinite(loss):
            raise TrainingError(f"The validation loss after epoch {self.progress.epoch} is not finite.", "Lower --lr.")
        self.progress.validation_losses.append(loss)
        self._tell({"kind": "validation", "validation_loss": loss, "n": len(means)})

    def _end_epoch(self) -> None:
        """Mean loss, validation, checkpoints: the one to go on from last, so that a run that is killed here does this again."""
        progress = self.progress
        progress.train_losses.append(progress.mean_loss())
        progress.epoch, progress.step, progress.loss_sum, progress.loss_count = progress.epoch + 1, 0, 0.0, 0
        if self.options.use_validation:
            self._validate()
        self._save(self.files.of_epoch(progress.epoch))
        earlier = progress.validation_losses[:-1]
        if earlier and progress.validation_losses[-1] < min(earlier) and self.processes.first:
            self.files.copy_best(progress.epoch)
        self._save(self.files.last)

    def _save(self, path: Path) -> None:
        if self.processes.first:
            self.progress.seconds = time.monotonic() - self._begun
            save_checkpoint(path, self.network, self.optimizer, self.progress, self.options, self.start)

    def _tell_step(self) -> None:
        share, elapsed = self._share(), time.monotonic() - self._begun
        record = {"loss": self.progress.mean_loss(), "lr": self.optimizer.param_groups[0]["lr"], "progress": share, "batches": self._steps}
        self._tell({"kind": "step", **record, "seconds_left": elapsed * (1 - share) / max(share, 1e-6)})

    def _tell(self, record: dict[str, Any]) -> None:
        finished = self.progress.epoch
        common = {"epoch": finished if record["kind"] == "validation" else finished + 1, "step": self.progress.step}
        seconds = round(time.monotonic() - self._begun, 3)
        for tracker in self.trackers:
            tracker.log({**record, **common, "total_steps": self.progress.total_steps, "seconds": seconds})
