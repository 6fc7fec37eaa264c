"""One picture on its way to a pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """`pixels` (H, W, 3) RGB uint8, or None with the `problem` that an image file has.

    `name`: what results call it. `index` and `timestamp` of a video's or stream's frame: number from 0 on, and seconds since the video's
    beginning or, of a live stream, since 1970. `path`: the image file, where it is one.
    """

    name: str
    pixels: NDArray[np.uint8] | None = field(repr=False)
    index: int | None = None
    timestamp: float | None = None
    path: Path | None = None
    problem: str = ""

    @property
    def title(self) -> str:
        """The name without folders of image files."""
        return self.name if self.path is None else self.path.name


class Source(Protocol):
    """Frames in the order of their time. `live`: they come whether somebody looks or not; `dropped` of them nobody looked at."""

    live: bool
    dropped: int

    def __iter__(self) -> Iterator[Frame]:
        """The frames; raises an error of d2s.errors where there are none or where they stop too early."""
        ...

    def close(self) -> None:
        """Let go of files, devices and connections."""
        ...
