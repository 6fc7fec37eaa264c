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
    """An image that was accepted: its bytes, its size by the header, its camera."""

    scene: str
    name: str
    data: bytes
    size: tuple[int, int]
    camera: pycolmap.Camera
    details: bool = False

    def run(self, catalogue: Catalogue) -> dict[str, Any]:
        """JSON values of the result. Raises Refused when the scene cannot be loaded (503) or the image is damaged (400)."""
        try:
            localizer = catalogue.localizer(self.scene)
        except (D2SError, OSError) as error:
            logger.error("scene %s cannot be loaded: %s", self.scene, error)
            raise Refused(503, f"Scene {self.scene} cannot be loaded; the server's log says why.", retry_after=60.0) from None
        try:
            result = localizer.localize(decode(self.data, self.size), self.camera, turns=quarter_turns(self.data))
        except InputError as error:
            raise Refused(400, error.problem, error.remedy) from None
        except MemoryError:
            raise overloaded("its memory is full", 10.0) from None
        return answer(self.name, result, self.details)


def answer(name: str, result: LocalizationResult, details: bool) -> dict[str, Any]:
    """The result as JSON values. A pose that is not finite is none: JSON has no NaN."""
    if result.cam_from_world is not None and not np.isfinite(result.cam_from_world).all():
        result = replace(result, success=False, cam_from_world=None, reason="the pose is not finite")
    value = result.to_json(name)
    if details:
        rows = np.flatnonzero(result.inliers)
        rows = rows[np.argsort(-result.reliability[rows], kind="stable")[:MAX_POINTS]]
        value["points"] = {
            "pixels": result.keypoints[rows].astype(float).round(1).tolist(),
            "xyz": result.xyz[rows].astype(float).round(4).tolist(),
        }
    return value


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
