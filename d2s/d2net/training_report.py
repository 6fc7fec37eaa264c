"""What a training of D2-Net tells: lines on the console and in its log file, and pictures of what it detects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from d2s.d2net.correspondences import CELL
from d2s.d2net.training_batch import Outcome
from d2s.features.d2net.network import CENTRE
from d2s.training.tracking import format_seconds


def step_text(record: dict[str, Any]) -> str:
    """A line about a batch."""
    left = format_seconds(record["seconds_left"])
    where = f"epoch {record['epoch']}, batch {record['step']}/{record['batches']}"
    return f"{where}, loss {record['loss']:.4f}, lr {record['lr']:.1e}, {left} left"


def validation_text(record: dict[str, Any]) -> str:
    """A line about a validation."""
    return f"validation after epoch {record['epoch']}: loss {record['validation_loss']:.4f} ({record['n']} batches)"


class LossLog:
    """The log file: running mean losses while an epoch is trained, and one line per validation. Lines are added to what is there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: dict[str, Any]) -> None:
        """Write one line."""
        if record["kind"] == "validation":
            line = f"[valid] epoch {record['epoch']} - avg_loss: {record['validation_loss']:.6f}"
        else:
            line = f"[train] epoch {record['epoch']} - batch {record['step']} / {record['batches']} - avg_loss: {record['loss']:.6f}"
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Pictures:
    """Per pair of a batch a picture: both images with their correspondences in equal colours, and both score maps."""

    def __init__(self, folder: Path, log_interval: int) -> None:
        self.folder, self.log_interval = folder, log_interval

    def __call__(self, split: str, epoch: int, number: int, outcome: Outcome) -> None:
        """Draw the pairs of a batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for k in range(len(outcome.batch)):
            _draw(outcome, k, self.folder / f"{split}.{epoch:02d}.{number // self.log_interval:02d}.{k}.png")


def _draw(outcome: Outcome, k: int, path: Path) -> None:
    from matplotlib.figure import Figure  # not pyplot, which would choose a display

    figure = Figure(figsize=(12, 3.2))
    axes = figure.subplots(1, 4)
    for side, (sample, cells) in enumerate(zip(outcome.batch[k], outcome.cells[k], strict=True)):
        places = cells.cpu().numpy() * CELL + CENTRE
        picture, scores = axes[2 * side], axes[2 * side + 1]
        picture.imshow(sample.image.permute(1, 2, 0).numpy())
        picture.scatter(places[:, 1], places[:, 0], c=range(len(places)), cmap="hsv", s=4, marker=".")
        scores.imshow(outcome.scores[k + side * len(outcome.batch)].detach().cpu().numpy(), cmap="Reds")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=300, bbox_inches="tight")
