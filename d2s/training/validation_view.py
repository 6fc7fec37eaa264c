"""`RUN/validation_view.npz`: what the network makes of one validation image, for people who watch the training.

Written at every validation in the place of the last one, a few tens of kB: the image with its keypoints, the scene coordinates that the
network predicts for the reliable ones, and points of the map to compare them with.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, MissingFileError
from d2s.scene.atomic import atomic_path

MAX_POINTS = 1500
"""Points of each kind: enough to recognise a place, few enough for a browser and for a small file."""


@dataclass(frozen=True)
class ValidationView:
    """`image`: its name. `picture`: a JPEG file (bytes as uint8) of the image with reliable keypoints in green and the others in red.

    `predicted` (P, 3) scene coordinates of reliable keypoints, `inlier` (P,) whether the pose explains them, `mapped` (S, 3) points of the
    map, all in `unit`. `centers` (2, 3): the camera where it is, and where it was localized (NaN when it was not). Of `extracted` keypoints
    `kept` are reliable.
    """

    image: str
    unit: str
    picture: NDArray[np.uint8]
    predicted: NDArray[np.float32]
    inlier: NDArray[np.bool_]
    mapped: NDArray[np.float32]
    centers: NDArray[np.float32]
    kept: int
    extracted: int

    def save(self, path: Path) -> None:
        """Publish the file by rename."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **asdict(self))

    @staticmethod
    def load(path: Path) -> ValidationView:
        """Read it. Raises MissingFileError, and FormatError for a damaged file."""
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist.", "It is written at validations: the scene needs validation images.")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(ValidationView)}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise FormatError(f"{path} cannot be read ({error}).", "The next validation writes it anew.") from None
        values.update({name: values[name].item() for name in ("image", "unit", "kept", "extracted")})
        return ValidationView(**values)


def spread(rows: NDArray[Any], count: int = MAX_POINTS) -> NDArray[Any]:
    """At most `count` of the rows, spread evenly over them."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
