"""`LOG_DIR/NAME/`: the files of one training run."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2s.errors import MissingFileError
from d2s.scene.atomic import read_json, remove_leftovers, write_json


def default_run_name(dataset: str, scene: str, config_stem: str, model: int) -> str:
    """`DATASET_SCENE_CONFIG_model_M`, as the published code names its runs."""
    return f"{dataset}_{scene}_{config_stem}_model_{model}"


@dataclass(frozen=True)
class RunDir:
    """Paths of a run; creates nothing by itself."""

    path: Path

    @property
    def config(self) -> Path:
        """The whole merged recipe."""
        return self.path / "config.ini"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step and per validation."""
        return self.path / "metrics.jsonl"

    @property
    def view(self) -> Path:
        """What the last validation made of one image."""
        return self.path / "validation_view.npz"

    @property
    def log(self) -> Path:
        """What the console showed."""
        return self.path / "train.log"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    def checkpoint(self, epoch: int) -> Path:
        """Folder of the checkpoint written at the end of an epoch."""
        return self.path / "checkpoints" / f"epoch_{epoch:03d}"

    def checkpoints(self) -> list[int]:
        """Epochs that have a whole checkpoint, ascending."""
        folders = (self.path / "checkpoints").glob("epoch_*")
        found = (re.fullmatch(r"epoch_(\d+)", folder.name) for folder in folders)
        return sorted(int(match[1]) for match in found if match)

    def require_checkpoint(self, epoch: int) -> Path:
        """Folder of a checkpoint that must exist."""
        if epoch not in self.checkpoints():
            have = ", ".join(map(str, self.checkpoints())) or "none"
            raise MissingFileError(f"{self.path} has no checkpoint of epoch {epoch}.", f"Epochs with a checkpoint: {have}.")
        return self.checkpoint(epoch)

    def state(self) -> dict[str, Any]:
        """`state.json`: what is finished; empty for a new run."""
        path = self.path / "state.json"
        return dict(read_json(path)) if path.is_file() else {}

    def write_state(self, **values: Any) -> None:
        """Change entries of `state.json`."""
        write_json(self.path / "state.json", {**self.state(), **values})

    def remove_leftovers(self) -> None:
        """Remove what a killed run had not yet published."""
        for folder in (self.path, self.path / "checkpoints"):
            remove_leftovers(folder)

    def clear(self) -> None:
        """Remove what an earlier run left."""
        for folder in (self.path / "checkpoints", self.model):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.config, self.metrics, self.view, self.log, self.path / "state.json"):
            file.unlink(missing_ok=True)
