"""Checkpoints: a folder that is a loadable model and holds everything that training needs to go on exactly where it was."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2s.errors import FormatError, MissingFileError
from d2s.features.weights import sha256_of
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import Network, write_model
from d2s.scene.atomic import atomic_path, read_json, write_json
from d2s.training.run_dir import RunDir

STATE_TENSORS, STATE = "trainer.safetensors", "trainer.json"


@dataclass
class TrainingState:
    """Where a run is. `step` and `elapsed` (seconds) count within the stage; `total_seconds` counts over all stages.

    `scores`: validation results by epoch, [recall, minus the median error], greater is better.
    """

    stage: int = 1
    step: int = 0
    epoch: int = 0
    elapsed: float = 0.0
    total_seconds: float = 0.0
    total_steps: int = 0
    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def best_epoch(self) -> int | None:
        """Epoch with the best validation result, the latest of equals."""
        if not self.scores:
            return None
        return int(max(self.scores, key=lambda epoch: (*self.scores[epoch], int(epoch))))


def save_checkpoint(run: RunDir, network: Network, optimizer: torch.optim.Optimizer, state: TrainingState, info: ModelInfo) -> Path:
    """Publish the checkpoint of `state.epoch` by rename: model files, full-precision weights, optimiser and progress."""
    folder = run.checkpoint(state.epoch)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_model(temporary, network, info)
        tensors, scalars = _pack(network, optimizer)
        save_file(tensors, temporary / STATE_TENSORS)
        checksum = sha256_of(temporary / STATE_TENSORS)
        write_json(temporary / STATE, {"state": dataclasses.asdict(state), "optimizer": scalars, "tensors_sha256": checksum})
    return folder


def load_checkpoint(folder: Path, network: Network, optimizer: torch.optim.Optimizer | None) -> TrainingState:
    """Put a checkpoint into network and optimiser (only the weights when `optimizer` is None) and return where it was."""
    for name in (STATE, STATE_TENSORS):
        if not (folder / name).is_file():
            raise MissingFileError(f"{folder} is not a whole checkpoint ({name} is missing).", "Delete it to go on from the one before.")
    value = read_json(folder / STATE)
    try:
        checksum = sha256_of(folder / STATE_TENSORS)
        if value.get("tensors_sha256", checksum) != checksum:
            raise ValueError(f"{STATE_TENSORS} has another checksum")
        tensors = load_file(folder / STATE_TENSORS)
        network.load_state_dict({name.removeprefix("network/"): t for name, t in tensors.items() if name.startswith("network/")})
        if optimizer is not None:
            optimizer.load_state_dict(_unpack(optimizer, tensors, value["optimizer"]))
        return TrainingState(**value["state"])
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{folder} does not fit this recipe or is damaged ({' '.join(str(error).split())[:200]}).",
            "Delete it to go on from the one before, or train anew with --resume never.",
        ) from None


def checkpoint_stage(folder: Path) -> int:
    """The stage that a checkpoint was written in; 0 when it does not say, which `load_checkpoint` will report."""
    value = read_json(folder / STATE) if (folder / STATE).is_file() else {}
    stage = value.get("state", {}).get("stage", 0) if isinstance(value, dict) else 0
    return int(stage)


def prune_checkpoints(run: RunDir, keep: int, best: int | None) -> None:
    """Keep the newest `keep` checkpoints and the best one."""
    for epoch in run.checkpoints()[:-keep]:
        if epoch != best:
            shutil.rmtree(run.checkpoint(epoch))


def _pack(network: Network, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"network/{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value.detach().cpu().contiguous()
            else:
                scalars[f"{index}/{key}"] = value
    return tensors, scalars


def _unpack(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    for name, value in scalars.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
