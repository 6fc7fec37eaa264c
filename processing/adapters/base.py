"""What every adapter takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2s.scene.manifest import Scene


@dataclass(frozen=True)
class AdapterOptions:
    """What the user said about the data. Paths as given on the command line; None where nothing was said."""

    dataset_dir: Path | None = None
    scene: str = ""
    is_scene: bool = False
    """`dataset_dir` is the scene's folder, whatever lies in it; `scene` only names it."""
    gt: str = "original"
    gt_file: Path | None = None
    list_train: Path | None = None
    list_test: Path | None = None
    list_val: Path | None = None
    camera: str | None = None
    work_dir: Path | None = None
    """Folder in which an adapter may write images that it makes or unpacks (demo, video frames)."""
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DroppedImage:
    """An image that is not used, and why, for report.json."""

    name: str
    reason: str


@dataclass(frozen=True)
class SceneSource:
    """A place as its data set describes it.

    `scene` has splits "train" and "test" ("val" only where the user or the data set names validation images; the pipeline makes one from
    "train" otherwise). `poses_known` is False when the poses must come from structure from motion (adapter `photos`): then every
    `cam_from_world` is None and cameras are guesses that bundle adjustment may refine where `refine_cameras` is True.
    """

    scene: Scene
    poses_known: bool = True
    refine_cameras: bool = False
    dropped: tuple[DroppedImage, ...] = ()


Adapter = Callable[[AdapterOptions], SceneSource]
