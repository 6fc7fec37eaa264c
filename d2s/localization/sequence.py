"""Localizing the frames of a video or a stream one after the other: the last poses say where to look next.

Each frame's pose is predicted with constant velocity and searched for near the prediction, without the network (`d2s.localization.prior`).
The whole map is searched instead, or as well, whenever that could hide something: in the first frames, in every `recheck`-th frame,
after a failure, and when a pose has much less support than the ones before it. A pose is always the image's own: nothing is smoothed, and
a frame that cannot be localized is a failure, never a prediction.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.pose_field import motion, small_motion
from d2s.localization.localizer import Image, Localizer, as_camera, as_pixels, check_size
from d2s.localization.prior import same_pose, wide_radius
from d2s.localization.result import LocalizationResult

Array = NDArray[np.float64]
RECHECK = 10
CONFIRMED = 3
"""Searches of the whole map that must agree with the track before it is followed without one."""
PATIENCE = 5
"""Frames without a pose after which the track is forgotten."""
RADIUS = 0.1
"""How far from the prediction landmarks are looked for, as a share of the longer image side."""
WEAKER = 0.5
"""A pose with a smaller share of the track's usual inliers is checked against the whole map."""
MEMORY = 0.2
"""How much of the usual number of inliers a new frame decides."""
LONGEST_GAP = 2.0
"""Seconds after which a velocity says nothing any more."""


@dataclass(frozen=True)
class Track:
    """The camera at one frame: pose in the map (3, 4), motion per second (6,) where it is known, its usual inliers and reliability.

    `agreed`: searches of the whole map that found this track. `since`: frames since the last one. `missed`: frames without a pose since
    this one.
    """

    cam_from_map: Array
    timestamp: float
    velocity: Array | None
    inliers: float
    reliability: float
    agreed: int = 1
    since: int = 0
    missed: int = 0

    def predict(self, timestamp: float) -> Array:
        """The camera at another time, with constant velocity in its own axes."""
        gap = timestamp - self.timestamp
        if self.velocity is None or not 0 <= gap <= LONGEST_GAP:
            return self.cam_from_map
        return pose.compose(motion(self.velocity * gap), self.cam_from_map)

    def follow(self, result: LocalizationResult, when: float, checked: bool) -> Track:
        """The track one frame later; `checked`: the whole map was searched and agrees."""
        assert result.cam_from_map is not None
        gap = when - self.timestamp
        moved = small_motion(pose.compose(result.cam_from_map, pose.inverse(self.cam_from_map)))
        searched = not result.from_prior
        return Track(
            result.cam_from_map,
            when,
            moved / gap if 0 < gap <= LONGEST_GAP else None,
            self.inliers + MEMORY * (result.num_inliers - self.inliers),
            float(result.reliability.mean()) if searched else self.reliability,
            self.agreed + 1 if checked else self.agreed,
            0 if checked else self.since + 1,
        )


class SequenceLocalizer:
    """A `Localizer` for frames in the order of their time.

    `recheck`: at the latest every so many frames the whole map is searched too (1: always). `localizer` is not changed and may serve
    other sequences as well. Raises InputError for a model without landmarks.
    """

    def __init__(self, localizer: Localizer, recheck: int = RECHECK) -> None:
        if recheck < 1:
            raise InputError(f"recheck counts frames and must be at least 1, not {recheck}.")
        localizer.landmarks()
        self.localizer, self.recheck = localizer, recheck
        self._track: Track | None = None
        self._camera: pycolmap.Camera | None = None
        self._frames = 0

    def reset(self) -> None:
        """Forget the past: the next frame is localized as a single image."""
        self._track = self._camera = None

    def localize(
        self,
        image: Image,
        camera: pycolmap.Camera | str | None = None,
        timestamp: float | None = None,
        prior: ArrayLike | None = None,
        turns: int | None = None,
    ) -> LocalizationResult:
        """Pose of the next frame; arguments and result as `Localizer.localize`.

        `camera`: None: as there; a camera that was estimated with the first pose is that of the frames after it.
        `timestamp`: seconds on any clock; None: frames are one second apart. `prior`: cam_from_world, used where there are no last poses.
        `from_prior` of the result says that the pose was found near the prediction or the prior, `rival` that the whole map holds another
        one as good.
        """
        start = time.perf_counter()
        known = self._known(camera, image)
        features = self.localizer.extract(image, known, turns)
        extracted = 1e3 * (time.perf_counter() - start)
        result = self.localize_features(features, known, timestamp, prior)
        result.ms.update(features=extracted, total=1e3 * (time.perf_counter() - start))
        return result

    def localize_features(
        self, features: LocalFeatures, camera: pycolmap.Camera | str | None, timestamp: float | None = None, prior: ArrayLike | None = None
    ) -> LocalizationResult:
        """Pose of the next frame from its features."""
        self._frames += 1
        when = float(self._frames) if timestamp is None else timestamp
        known = self._camera if camera is None else as_camera(camera)
        if known is not None:
            check_size(features.image_size, known)
        if self._track is not None and known is not None:
            return self._go_on(self._track, features, known, when)
        result = self.localizer.localize_features(features, known, prior)
        self._track = _new_track(result, when)
        self._camera = result.camera if camera is None and result.success else None
        return result

    def _known(self, camera: pycolmap.Camera | str | None, image: Image) -> pycolmap.Camera | None:
        """The camera of the next frame, None where it has to be estimated."""
        if camera is not None:
            return as_camera(camera)
        height, width = as_pixels(image).shape[:2]
        if self._camera is not None and (self._camera.width, self._camera.height) == (width, height):
            return self._camera
        return self.localizer.cameras.choose((width, height), image if isinstance(image, (str, os.PathLike)) else None)

    def _go_on(self, track: Track, features: LocalFeatures, camera: pycolmap.Camera, when: float) -> LocalizationResult:
        """Near the prediction alone where that is safe, else in the whole map as well."""
        features = features.top(self.localizer.info.num_keypoints)
        near = self._near(track, features, camera, when)
        alone = track.agreed >= CONFIRMED and track.since + 1 < self.recheck
        if alone and near.success and near.num_inliers >= WEAKER * track.inliers:
            self._track = track.follow(near, when, checked=False)
            return _with_ms(near, near)
        search, result = self._search(near, features, camera)
        agrees = search.success and near.success and same_pose(search, near, camera, self.localizer.estimator.max_error)
        if not result.success:
            self._track = replace(track, missed=track.missed + 1) if track.missed + 1 < PATIENCE else None
        elif result.from_prior or agrees:
            self._track = track.follow(result, when, checked=agrees)
        else:  # the whole map knows better
            self._track = _new_track(result, when)
        return _with_ms(result, near, search)

    def _search(
        self, near: LocalizationResult, features: LocalFeatures, camera: pycolmap.Camera
    ) -> tuple[LocalizationResult, LocalizationResult]:
        """What the whole map says, and the better of that and `near`."""
        begin = time.perf_counter()
        features, xyz, reliability = self.localizer.predict(features)
        spent = 1e3 * (time.perf_counter() - begin)
        search = self.localizer.solve(features, xyz, reliability, camera)
        search.ms["regressor"] = spent
        return search, self.localizer.decide(search, near, features, xyz, reliability, camera)

    def _near(self, track: Track, features: LocalFeatures, camera: pycolmap.Camera, when: float) -> LocalizationResult:
        reliability = np.full(len(features), track.reliability, np.float32)
        sure = track.velocity is not None and not track.missed and 0 <= when - track.timestamp <= LONGEST_GAP
        radius = RADIUS * max(camera.width, camera.height) if sure else wide_radius(camera)
        return self.localizer.solve_near(features, track.predict(when), camera, reliability, radius)


def _new_track(result: LocalizationResult, when: float) -> Track | None:
    """A track that begins at a pose from the whole map; None where there is none."""
    if not result.success or result.cam_from_map is None:
        return None
    return Track(result.cam_from_map, when, None, float(result.num_inliers), float(result.reliability.mean()))


def _with_ms(result: LocalizationResult, *searches: LocalizationResult) -> LocalizationResult:
    """The result with the time that all searches took together."""
    spent = {stage: sum(search.ms.get(stage, 0.0) for search in searches) for stage in ("features", "regressor", "pnp")}
    return replace(result, ms={**spent, "total": sum(spent.values())})
