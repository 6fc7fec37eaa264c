"""Training of a D2S network on one scene.

Everything that changes is in `TrainingState`, the network and the optimiser; batches and learning rates are pure functions of seed, step
and progress. A run that is killed and resumed therefore ends with the same weights as an undisturbed one (on CPU, when its length is set in
steps rather than minutes).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from d2s.config import Recipe
from d2s.errors import TrainingError
from d2s.regressor.base import ModelInfo
from d2s.regressor.precision import resolve_precision
from d2s.training.checkpoint import TrainingState, prune_checkpoints, save_checkpoint
from d2s.training.data import Batch, TrainingSet
from d2s.training.draws import epoch_length, epoch_order, step_generator
from d2s.training.networks import Network, make_objective
from d2s.training.run_dir import RunDir
from d2s.training.schedule import learning_rate
from d2s.training.tracking import Tracker

Validation = Callable[[Network], dict[str, Any]]
"""Localizes validation images; returns "score" (list, greater is better) and numbers for the trackers."""


class Trainer:
    """Runs one stage of a recipe from wherever `state` is to its end."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingSet,
        network: Network,
        optimizer: torch.optim.Optimizer,
        state: TrainingState,
        run: RunDir,
        info: ModelInfo,
        trackers: Sequence[Tracker] = (),
        validate: Validation | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.recipe, self.data, self.network, self.optimizer, self.state = recipe, data, network, optimizer, state
        self.run_dir, self.info, self.trackers, self.validate = run, info, trackers, validate
        self.device = torch.device(device)
        self.objective = make_objective(recipe, data, network, self.device)
        self.dtype = resolve_precision(recipe.training.precision, self.device)
        training = recipe.training
        self.steps = {1: training.n_iters, 2: training.n_iters_add, 3: training.n_iters_unlabel_add}[state.stage]
        self.steps_per_epoch = math.ceil(epoch_length(data.num_real, data.num_extra, training.extra_fraction) / training.batch_size)

    def run(self) -> None:
        """Train to the end of the stage, with checkpoints and validations on the way."""
        self._prune()  # killed between a checkpoint and the removal of an older one
        begins = self.state.total_steps == 0 and self.recipe.model.model == 3
        if self.progress() >= 1 and not begins:  # killed between the last checkpoint and the end of the stage
            return
        self._started = time.monotonic() - self.state.elapsed
        self._total_before = self.state.total_seconds - self.state.elapsed
        if begins:
            self._save(validate=True)  # model 3 can localize before any training: a run may only improve on that
        while self.progress() < 1:
            self._step()
            finished = self.progress() >= 1
            if finished or self.state.step % self.steps_per_epoch == 0:
                self._end_epoch(finished)

    def progress(self) -> float:
        """Share of the stage that is done, by steps or by time, whichever is further."""
        by_steps = self.state.step / self.steps if self.steps else 1.0
        limit = 60 * self.recipe.training.max_minutes
        return min(1.0, max(by_steps, self.state.elapsed / limit if limit else 0.0))

    def _step(self) -> None:
        progress = self.progress()
        rate = learning_rate(self.recipe.optimization, progress, self.state.stage)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self._losses(self._draw(), progress)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.optimization.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimization.grad_clip)
        self.optimizer.step()
        self.state.step += 1
        self.state.total_steps += 1
        self._update_clock()
        if self.state.step % self.recipe.logging.print_freq == 0 or self.state.step == 1:
            self._log_step(loss, terms, rate)

    def _update_clock(self) -> None:
        self.state.elapsed = time.monotonic() - self._started
        self.state.total_seconds = self._total_before + self.state.elapsed

    def _draw(self) -> Batch:
        """The batch of the current step: a pure function of seed, stage and step."""
        config = self.recipe.training
        epoch, position = divmod(self.state.step, self.steps_per_epoch)
        counts = self.data.num_real, self.data.num_extra, config.extra_fraction
        order = epoch_order(*counts, config.seed, f"order {self.state.stage}", epoch)
        images = order[position * config.batch_size : (position + 1) * config.batch_size]
        generator = step_generator(config.seed, f"rows {self.state.stage}", self.state.step)
        batch = self.data.batch(images, config.keypoints_per_image, config.labelled_fraction, generator)
        return self._augment(_to_device(batch, self.device), generator)

    def _augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Noise on the descriptors, which stay unit vectors."""
        noise = self.recipe.augmentation.descriptor_noise
        if not noise:
            return batch
        d = batch.descriptors
        change = torch.randn(d.shape, generator=generator).to(self.device) * (noise / d.shape[-1] ** 0.5)
        return replace(batch, descriptors=torch.nn.functional.normalize(d + change, dim=-1))

    def _losses(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of the loss."""
        mask = None if bool(batch.mask.all()) else batch.mask
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.objective(batch, mask, progress, self.state.stage, self.state.total_steps)

    def _log_step(self, loss: Tensor, terms: dict[str, Tensor], rate: float) -> None:
        """The only place that reads losses back from the device: once every print_freq steps."""
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"The loss is not finite at step {self.state.step} ({values}).",
                "Lower optimization.lr, or train with --set training.precision=fp32.",
            )
        progress = self.progress()
        left = self.state.elapsed * (1 - progress) / max(progress, 1e-6)
        self._tell({"kind": "step", "loss": float(loss.detach()), **values, "lr": rate, "progress": progress, "seconds_left": left})

    def _tell(self, record: dict[str, Any]) -> None:
        common = {"stage": self.state.stage, "step": self.state.step, "total_steps": self.state.total_steps, "epoch": self.state.epoch}
        for tracker in self.trackers:
            tracker.log({**record, **common, "seconds": round(self.state.total_seconds, 3)})

    def _end_epoch(self, finished: bool) -> None:
        config = self.recipe.training
        self.state.epoch += 1
        validate = finished or bool(config.val_freq and self.state.epoch % config.val_freq == 0)
        if validate or self.state.epoch % config.snapshot == 0:  # what validates best must have its weights on disk
            self._save(validate)

    def _save(self, validate: bool) -> None:
        """A checkpoint, after a validation when one is due."""
        if validate:
            self._validate()
        self._update_clock()
        info = replace(self.info, train_seconds=round(self.state.total_seconds, 3))
        save_checkpoint(self.run_dir, self.network, self.optimizer, self.state, info)
        self._prune()

    def _prune(self) -> None:
        prune_checkpoints(self.run_dir, self.recipe.training.keep_checkpoints, self.state.best_epoch())

    def _validate(self) -> None:
        if self.validate is None:
            return
        self.network.eval()
        result = self.validate(self.network)
        self.network.train()
        self._update_clock()
        self.state.scores[str(self.state.epoch)] = result.pop("score")
        self._tell({"kind": "validation", **result})


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        batch.descriptors.to(device, torch.float32), batch.keypoints.to(device), batch.mask.to(device), batch.xyz.to(device),
        batch.valid.to(device), batch.point.to(device), batch.weight.to(device), batch.cam_from_world.to(device),
        batch.has_pose.to(device), batch.camera.to(device),
    )  # fmt: skip
