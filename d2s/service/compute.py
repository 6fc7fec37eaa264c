"""From an upload to its answer: everything between the form and the JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.errors import D2SError, InputError
from d2s.features.upright import quarter_turns
from d2s.localization.result import LocalizationResult
from d2s.service.catalogue import Catalogue
from d2s.service.refusal import Refused, client_gone, overloaded
from d2s.service.uploads import decode

logger = logging.getLogger(__name__)
T = TypeVar("T")
MAX_POINTS = 500
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Job:
    """An image that was accepted: its bytes, its size by the header, the camera and the pose prior (3, 4) that came with it."""

    scene: str
    name: str
    data: bytes
    size: tuple[int, int]
    camera: pycolmap.Camera | None
    details: bool = False
    prior: NDArray[np.float64] | None = None

    def run(self, catalogue: Catalogue) -> dict[str, Any]:
        """JSON values of the result. Raises Refused when the scene cannot be loaded (503), the image is damaged (400) or the scene's model
        knows no priors (400).
        """
        try:
            localizer = catalogue.localizer(self.scene)
        except (D2SError, OSError) as error:
            logger.error("scene %s cannot be loaded: %s", self.scene, error)
            raise Refused(503, f"Scene {self.scene} cannot be loaded; the server's log says why.", retry_after=60.0) from None
        try:
            if self.prior is not None:
                localizer.landmarks()  # refused before the image is looked at
            pixels = decode(self.data, self.size)
            camera = self.camera or localizer.cameras.choose(self.size, self.data)
            result = localizer.localize(pixels, camera, self.prior, quarter_turns(self.data))
        except InputError as error:
            raise Refused(400, error.problem, error.remedy) from None
        except MemoryError:
            raise overloaded("its memory is full", 10.0) from None
        return answer(self.name, result, self.details, self.prior is not None)


def answer(name: str, result: LocalizationResult, details: bool, with_prior: bool = False) -> dict[str, Any]:
    """The result as JSON values. A pose that is not finite is none: JSON has no NaN."""
    if not _finite(result.cam_from_world):
        result = replace(result, success=False, cam_from_world=None, reason="the pose is not finite")
    if not _finite(result.refused_pose):
        result = replace(result, refused_pose=None)
    if result.rival is not None and not _finite(result.rival.cam_from_world):
        result = replace(result, rival=None)
    if result.camera is not None and not np.isfinite(result.camera.params).all():
        result = replace(result, camera=None)
    value = result.to_json(name, with_prior)
    if details:
        rows = np.flatnonzero(result.inliers)
        rows = rows[np.argsort(-result.reliability[rows], kind="stable")[:MAX_POINTS]]
        value["points"] = {
            "pixels": result.keypoints[rows].astype(float).round(1).tolist(),
            "xyz": result.xyz[rows].astype(float).round(4).tolist(),
        }
    return value


def _finite(pose: NDArray[np.float64] | None) -> bool:
    return pose is None or bool(np.isfinite(pose).all())


async def finished(future: Future[T], seconds: float, is_gone: Callable[[], Awaitable[bool]]) -> T:
    """The result of work, if it comes within `seconds` and the client waits that long.

    Raises Refused: 503 when the time is over and the work has not begun (it never will), 504 when it has.
    """
    waiting, end = asyncio.wrap_future(future), time.monotonic() + seconds
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=min(POLL_SECONDS, max(0.0, end - time.monotonic())))
            if waiting.done():
                break
            if await is_gone():
                raise client_gone()
            if time.monotonic() >= end:
                raise _late(future, seconds)
        return waiting.result()
    finally:
        future.cancel()


def _late(future: Future[T], seconds: float) -> Refused:
    if future.cancel():
        return overloaded(f"the image's turn did not come within {seconds:g} s", seconds)
    return Refused(504, f"Localizing took more than {seconds:g} s.", "Send a smaller image, or try again.", retry_after=seconds)
