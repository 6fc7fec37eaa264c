"""Beginning a stage at a chosen epoch (`--checkpoint`) instead of where the run ends.

The checkpoint is kept as `start/epoch_%03d`, and `state.json` notes it as `origin` before anything is removed: a command that was killed
finishes its work when it is run again, and a run goes on from its own checkpoints, or from the origin while it has none.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from d2s.scene.atomic import atomic_path
from d2s.training.run_dir import RunDir

logger = logging.getLogger(__name__)


def begin_at(run: RunDir, epoch: int, stage: int, anew: bool = False) -> None:
    """Make `run` ready to begin `stage` at the checkpoint of `epoch`; it does nothing where that has begun already, unless `anew`.

    Stage 1 takes the weights alone, so the run starts over: all that it had is removed. Later stages go on from that epoch: later
    checkpoints are removed. Raises MissingFileError when there is no such checkpoint.
    """
    origin = _origin(run)
    known = (origin.get("stage"), origin.get("epoch")) == (stage, epoch)
    if known and not anew:
        return
    if not known:
        source = run.require_checkpoint(epoch)
        with atomic_path(_kept(run, epoch)) as temporary:
            shutil.copytree(source, temporary)
    finished = [done for done in run.state().get("finished_stages", []) if done < stage]
    run.write_state(origin={"stage": stage, "epoch": epoch, "ready": False}, finished_stages=finished)
    logger.info("%s: stage %d begins at epoch %d, what came later is removed.", run.path, stage, epoch)
    finish(run)


def finish(run: RunDir) -> None:
    """Remove what comes after the origin, where `begin_at` was killed before it had done so."""
    origin = _origin(run)
    if origin.get("ready", True):
        return
    stage, epoch = int(origin["stage"]), int(origin["epoch"])
    for other in run.checkpoints():
        if stage == 1 or other > epoch:
            shutil.rmtree(run.checkpoint(other))
    shutil.rmtree(run.model, ignore_errors=True)
    if stage == 1:
        for file in (run.config, run.metrics, run.view, run.log):
            file.unlink(missing_ok=True)
    for folder in _kept(run, epoch).parent.iterdir():
        if folder != _kept(run, epoch):
            shutil.rmtree(folder)
    run.write_state(origin={**origin, "ready": True})


def origin_of(run: RunDir, stage: int) -> Path | None:
    """The checkpoint at which this stage begins, where --checkpoint chose one."""
    origin = _origin(run)
    return _kept(run, int(origin["epoch"])) if origin.get("stage") == stage else None


def _origin(run: RunDir) -> dict[str, Any]:
    return dict(run.state().get("origin", {}))


def _kept(run: RunDir, epoch: int) -> Path:
    return run.path / "start" / run.checkpoint(epoch).name
