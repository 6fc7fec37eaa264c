"""Pose priors from the command line: one pose, or a file of poses by image name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.errors import InputError, MissingFileError
from d2s.evaluation.pose_files import read_results
from d2s.geometry import pose

Array = NDArray[np.float64]
USAGE = "Write 'qw qx qy qz tx ty tz' (world to camera), or name a file with lines 'name qw qx qy qz tx ty tz'."


@dataclass(frozen=True)
class Priors:
    """`for_all`: the prior of every image. `by_name`: priors of named ones, cam_from_world (3, 4) each."""

    for_all: Array | None = None
    by_name: Mapping[str, Array] = field(default_factory=dict)

    def of(self, name: str) -> Array | None:
        """The prior of an image: by its whole name as results call it, else by the longest end of it that the file knows."""
        parts = Path(name).parts
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((self.by_name[end] for end in (name, *ends) if end in self.by_name), self.for_all)


def parse_priors(text: str) -> Priors:
    """Priors of a pose or of a file's name. Raises InputError and its kind."""
    path = Path(text)
    if path.is_file():
        poses = read_results(path)
        if not poses:
            raise InputError(f"{path} holds no poses.", USAGE)
        return Priors(by_name=poses)
    fields = text.split()
    try:
        values = [float(value) for value in fields]
    except ValueError:
        raise MissingFileError(f"Prior {text!r} is neither a file nor a pose.", USAGE) from None
    if len(values) != 7 or not np.isfinite(values).all():
        raise InputError(f"Prior {text!r} is not a pose of seven finite numbers.", USAGE)
    return Priors(pose.from_qvec_tvec(values[:4], values[4:]))
