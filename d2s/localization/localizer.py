"""One image in, its camera pose out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import ArrayLike, NDArray

from d2s.errors import InputError
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.upright import extract_upright, quarter_turns
from d2s.geometry.camera import parse_camera
from d2s.localization.base import PoseEstimate, PoseEstimator
from d2s.localization.cameras import CameraChooser
from d2s.localization.doubt import CERTAIN, doubt
from d2s.localization.effort import DEFAULT_EFFORT, Effort, Question, try_harder
from d2s.localization.guided import refine_by_map
from d2s.localization.prior import as_prior, choose, search_near, wide_radius
from d2s.localization.query_camera import estimate_pose, settle
from d2s.localization.result import LocalizationResult
from d2s.localization.risk import confidence_for, promise
from d2s.localization.table import DEFAULT_ESTIMATOR, make_estimator
from d2s.localization.trust import Calibration, Judge
from d2s.regressor.base import CAMERA_GAIN, EXIF_FOCAL, HasLandmarks, SceneRegressor
from d2s.regressor.landmark_map import LandmarkMap

logger = logging.getLogger(__name__)
MIN_KEPT = 50  # when fewer keypoints are reliable, the most reliable ones up to this number go to PnP

Image = NDArray[np.uint8] | str | os.PathLike[str]


class Localizer:
    """A trained place: features, scene coordinates, pose.

    `threshold`: keypoints more reliable than that go to PnP (None: the model's own; 0 keeps all). The extractor is built from the model's
    settings when the first image needs it. `min_confidence`: poses with less are refused (None: what keeps photos of other places out; 0
    refuses none).
    """

    def __init__(
        self,
        regressor: SceneRegressor,
        estimator: PoseEstimator | None = None,
        extractor: Extractor | None = None,
        threshold: float | None = None,
        device: str = "cpu",
        weights: str | os.PathLike[str] | None = None,
        min_confidence: float | None = None,
        effort: Effort = DEFAULT_EFFORT,
    ) -> None:
        self.regressor, self.info = regressor, regressor.info
        self.judge = Judge(Calibration.from_json(self.info.trust), min_confidence, field=self.info.pose_field)
        self.cameras = CameraChooser(None, self.info.cameras, self.info.extra.get(EXIF_FOCAL))
        self.estimator = estimator or make_estimator(max_error=self.info.max_error)
        self.threshold = self.info.reliability_threshold if threshold is None else threshold
        self.effort = effort
        self._extractor, self.device = extractor, device
        self._extractors: dict[tuple[int, str | None], Extractor] = {}
        self._weights = None if weights is None else Path(weights)

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        device: str = "cpu",
        pnp: str = DEFAULT_ESTIMATOR,
        max_error: float | None = None,
        weights: str | os.PathLike[str] | None = None,
        min_confidence: float | None = None,
        effort: str = DEFAULT_EFFORT.level,
        budget_ms: float | None = None,
        max_wrong: float | None = None,
    ) -> Localizer:
        """The localizer of a model folder, checkpoint folder or model file.

        `pnp`: poselib, pycolmap or opencv. `max_error`: RANSAC threshold in pixels of the original image (default: the model's).
        `weights`: file of the feature network, where it is not found by itself. `min_confidence`: see the class.
        `effort`: fast, auto or most, and `budget_ms`, the milliseconds after which nothing more is tried: see `d2s.localization.effort`.
        `max_wrong`: in place of `min_confidence`, the share of photos that may get a wrong pose, see `d2s.localization.risk`.
        Raises InputError.
        """
        from d2s.regressor.model_files import load_model  # loads torch, which a localizer around another regressor does not need

        if max_wrong is not None:
            if min_confidence is not None:
                raise InputError("min_confidence and max_wrong both say which poses are refused.", "Give one of the two.")
            min_confidence = confidence_for(max_wrong)
            logger.info(promise(max_wrong, min_confidence))
        regressor = load_model(Path(path), device=device)
        estimator = make_estimator(pnp, regressor.info.max_error if max_error is None else max_error)
        spend = Effort(effort, budget_ms)
        return Localizer(regressor, estimator, device=device, weights=weights, min_confidence=min_confidence, effort=spend)

    @property
    def extractor(self) -> Extractor:
        """The feature extractor that the model was trained with."""
        return self._extractor or self.extractor_of(1)

    def share_features(self, other: Localizer) -> None:
        """Use the feature networks of a localizer with the same features: they are larger than the map."""
        self._extractor, self._extractors = other._extractor, other._extractors

    def extractor_of(self, times: int, weights: str | None = None) -> Extractor:
        """The same feature, but so many times as many keypoints of an image, or of other `weights`, a key of
        `d2s.features.weights.WEIGHTS`. Raises WeightsError.
        """
        if (times, weights) not in self._extractors:
            from d2s.features.table import extractor_from_settings
            from d2s.features.weights import resolve_weights

            settings, file = dict(self.info.features), self._weights
            if times > 1:
                settings["num_keypoints"] *= times
            if weights is not None:
                settings, file = {**settings, "weights_sha256": None}, resolve_weights(weights)
            self._extractors[times, weights] = extractor_from_settings(settings, self.device, file)
        return self._extractors[times, weights]

    def prepare(self) -> None:
        """Load the feature network now rather than with the first image. Raises WeightsError."""
        _ = self.extractor

    def localize(
        self, image: Image, camera: pycolmap.Camera | str | None = None, prior: ArrayLike | None = None, turns: int | None = None
    ) -> LocalizationResult:
        """Pose of one image: (H, W) or (H, W, 3) RGB uint8, or the path of an image file.

        `camera`: its COLMAP camera, or "MODEL W H p0 p1 …"; None: what `d2s.localization.cameras` finds, else its focal length is estimated
        with the pose. One that clearly does not fit the image is replaced (`d2s.localization.misfit`). `prior`: about where the camera
        was, as cam_from_world (3, 4) or qw qx qy qz tx ty tz; its surroundings are searched beside the whole map, see
        `d2s.localization.prior`. `turns`: counter-clockwise quarter turns that make the image upright (default: what the file says; 0 for
        pixels). Raises InputError for an image
        that cannot be read and for a camera of another size; an image that cannot be localized is a result with success = False.
        """
        start = time.perf_counter()
        ms: dict[str, float] = {}
        with _timed(ms, "features"):
            photo = image if isinstance(image, (str, os.PathLike)) else None
            image = as_pixels(image)
            if turns is None and photo is not None:
                turns = quarter_turns(photo)
            known = self.cameras.choose((image.shape[1], image.shape[0]), photo) if camera is None else as_camera(camera)
            features = self.extract(image, known, turns)
        result = self._localize(features, known, ms, prior)
        if prior is None:
            result = try_harder(self, result, Question(image, turns or 0, known, features), start)
        result.ms["total"] = 1e3 * (time.perf_counter() - start)
        return result

    def extract(self, image: Image, camera: pycolmap.Camera | None, turns: int | None = None) -> LocalFeatures:
        """Features of one image; arguments and errors as `localize`."""
        pixels = as_pixels(image)
        if camera is not None:
            check_size((pixels.shape[1], pixels.shape[0]), camera)
        if turns is None:
            turns = quarter_turns(image) if isinstance(image, (str, os.PathLike)) else 0
        return extract_upright(self.extractor, [pixels], [turns])[0]

    def localize_features(
        self, features: LocalFeatures, camera: pycolmap.Camera | str | None, prior: ArrayLike | None = None
    ) -> LocalizationResult:
        """Pose of an image whose features are known already (validation, sweeps over checkpoints); camera None: estimated with the pose."""
        camera = None if camera is None else as_camera(camera)
        if camera is not None:
            check_size(features.image_size, camera)
        ms = {"features": 0.0}
        result = self._localize(features, camera, ms, prior)
        result.ms["total"] = sum(result.ms.values())
        return result

    def _localize(
        self, features: LocalFeatures, camera: pycolmap.Camera | None, ms: dict[str, float], prior: ArrayLike | None
    ) -> LocalizationResult:
        place = None if prior is None else as_prior(prior)
        with _timed(ms, "regressor"):
            features, xyz, reliability = self.predict(features)
        result = self.solve(features, xyz, reliability, camera)
        camera = result.camera
        if place is not None and camera is not None:  # a camera that nobody knows cannot see what is near the prior
            near = self.solve_near(features, place, camera, reliability, wide_radius(camera))
            near = replace(near, camera_from=result.camera_from, sigma_focal=result.sigma_focal)
            ms["pnp"] = result.ms["pnp"] + near.ms["pnp"]
            result = self.decide(result, near, features, xyz, reliability, camera)
        result.ms.update(ms)
        return result

    def solve_near(
        self,
        features: LocalFeatures,
        prior: NDArray[np.float64],
        camera: pycolmap.Camera,
        reliability: NDArray[np.float32],
        radius: float,
    ) -> LocalizationResult:
        """Pose from the landmarks in view of a prior (3, 4) alone, without the network; `radius`: see `search_near`.

        `reliability` (N,) of the N features is what the trust in the pose is judged by. Raises InputError for a model without landmarks.
        """
        landmarks, ms = self.landmarks(), dict[str, float]()
        with _timed(ms, "pnp"):
            matches, found = search_near(prior, features, landmarks, camera, self.estimator, radius)
            xyz, used = np.zeros((len(features), 3), np.float32), np.zeros(len(features), dtype=bool)
            xyz[matches.rows], used[matches.rows] = matches.xyz, True
            result = self._look_again(self._result(found, features, xyz, reliability, used), features, landmarks, camera)
            result = replace(self.judge(result, camera, self.estimator.max_error), from_prior=True, camera=camera)
        result.ms.update(ms)
        return result

    def decide(
        self,
        search: LocalizationResult,
        near: LocalizationResult,
        features: LocalFeatures,
        xyz: NDArray[np.float32],
        reliability: NDArray[np.float32],
        camera: pycolmap.Camera,
    ) -> LocalizationResult:
        """The better of what `solve` and `solve_near` found, see `d2s.localization.prior`; xyz and reliability as for `solve`."""
        if near.cam_from_map is not None:  # the whole map has its say on a pose that was found without it
            near = self._doubted(near, features, xyz, reliability, select_reliable(reliability, self.threshold), camera)
        return choose(search, near, camera, self.estimator.max_error)

    def landmarks(self) -> LandmarkMap:
        """The landmarks that a search near a prior compares. Raises InputError for a model that has none."""
        found = self.known_landmarks()
        if found is None:
            raise InputError("This model has no landmarks to search near a pose prior.", "Train model 3, or leave the prior out.")
        return found

    def known_landmarks(self) -> LandmarkMap | None:
        """The landmarks, None for a model that has none."""
        return self.regressor.landmark_map() if isinstance(self.regressor, HasLandmarks) else None

    def predict(self, features: LocalFeatures, times: int = 1) -> tuple[LocalFeatures, NDArray[np.float32], NDArray[np.float32]]:
        """The best features, as many as the model was trained with or `times` as many, and their scene coordinates (N, 3) and
        reliabilities (N,).
        """
        features = features.top(times * self.info.num_keypoints)
        if len(features) == 0:  # a black image: nothing for the network to look at
            return features, np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
        return features, *self.regressor.predict(features)

    def solve(
        self,
        features: LocalFeatures,
        xyz: NDArray[np.float32],
        reliability: NDArray[np.float32],
        camera: pycolmap.Camera | None,
        threshold: float | None = None,
        matches: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None,
    ) -> LocalizationResult:
        """Pose from what the network said, xyz (N, 3) and reliability (N,), about N features; `threshold` replaces the own one.

        `camera`: None where it is unknown; the result has the one that was used. `matches`: scene points (N, 3) and which of them count
        (N,), found in another way (`d2s.localization.effort`); what the network said then only speaks against the pose, where it does.
        """
        ms: dict[str, float] = {}
        with _timed(ms, "pnp"):
            used = select_reliable(reliability, self.threshold if threshold is None else threshold)
            points, count = (xyz, used) if matches is None else matches
            landmarks = self.known_landmarks()
            # Mutual matches count alike: on another day a right one looks no more certain than a wrong one does in the recording.
            weights = reliability[count] if landmarks is None else None
            first = features.keypoints[count], points[count], features.image_size
            found = estimate_pose(self.estimator, *first, camera, weights, self.info.extra.get(CAMERA_GAIN))
            result, seen_by = self._result(found, features, points, reliability, count), found.camera or camera
            if landmarks is not None and seen_by is not None:
                result = self._look_again(result, features, landmarks, seen_by)
            result = settle(result, found, camera, self.estimator.max_error)
            if matches is not None:  # few matches that were found in another way agree by chance: those of the whole map have their say too
                result = replace(result, xyz=np.where(result.used[:, None], result.xyz, xyz), used=result.used | used)
            if result.cam_from_map is not None and result.camera is not None:
                result = replace(result, cam_from_world=self._in_world(result.cam_from_map))
                result = self._doubted(result, features, xyz, reliability, used, result.camera)
                result = self.judge(result, result.camera, self.estimator.max_error)
        result.ms.update(ms)
        return result

    def _result(
        self, found: PoseEstimate, features: LocalFeatures, xyz: NDArray[Any], reliability: NDArray[np.float32], used: NDArray[np.bool_]
    ) -> LocalizationResult:
        """What the estimator found for the keypoints `used` (N,), of all N."""
        inliers = np.zeros(len(features), dtype=bool)
        inliers[np.flatnonzero(used)[found.inliers]] = True
        estimate = (found.success, self._in_world(found.cam_from_world), found.reason)
        return LocalizationResult(*estimate, {}, features.keypoints, xyz, reliability, used, inliers, found.cam_from_world)

    def _doubted(
        self,
        result: LocalizationResult,
        features: LocalFeatures,
        xyz: NDArray[np.float32],
        reliability: NDArray[np.float32],
        used: NDArray[np.bool_],
        camera: pycolmap.Camera,
    ) -> LocalizationResult:
        """A result with a pose, and the doubt that the network's matches of the keypoints `used` (N,) cast on it."""
        assert result.cam_from_map is not None
        used = used & (reliability > CERTAIN)
        first = features.keypoints[used], xyz[used], reliability[used]
        return replace(result, doubt=doubt(result.cam_from_map, *first, camera, self.estimator))

    def _look_again(
        self, result: LocalizationResult, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera
    ) -> LocalizationResult:
        """A pose from all landmarks of the map, where they support the pose that was found."""
        if result.cam_from_map is None:
            return result
        known = result.xyz, result.used
        guided = refine_by_map(result.cam_from_map, features, landmarks, camera, self.estimator.max_error, known)
        if guided is None:
            return result
        pose, inliers = guided.cam_from_map, guided.inliers
        return replace(result, cam_from_world=self._in_world(pose), cam_from_map=pose, xyz=guided.xyz, used=guided.used, inliers=inliers)

    def _in_world(self, cam_from_map: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """The pose in the frame of the poses that the map was made from."""
        if cam_from_map is None or self.info.pose_field is None:
            return cam_from_map
        return self.info.pose_field.correct(cam_from_map)


def select_reliable(reliability: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Mask (N,) of the keypoints above `threshold`, or of the `MIN_KEPT` most reliable ones where that gives fewer.

    A few wrong points cost RANSAC nothing, while a handful of right ones may not be enough for it. NaN is never reliable.
    """
    reliability = np.nan_to_num(reliability, nan=-np.inf)
    used = reliability > threshold
    if used.sum() < MIN_KEPT:
        best = np.argsort(-reliability, kind="stable")[:MIN_KEPT]
        used[best[np.isfinite(reliability[best])]] = True
    return used


@contextmanager
def _timed(ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    ms[stage] = 1e3 * (time.perf_counter() - start)


def as_camera(camera: pycolmap.Camera | str) -> pycolmap.Camera:
    """The camera of a text, or the camera itself."""
    return parse_camera(camera) if isinstance(camera, str) else camera


def as_pixels(image: Image) -> NDArray[np.uint8]:
    """The pixels of an image or of an image file. Raises InputError for anything else."""
    if isinstance(image, (str, os.PathLike)):
        from d2s.features.images import read_image

        return read_image(Path(image))
    image = np.asarray(image)
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise InputError(f"An image must be (H, W) or (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    return image


def check_size(image_size: tuple[int, int], camera: pycolmap.Camera) -> None:
    """Raises InputError unless a camera is for images of this size (width, height)."""
    if tuple(image_size) != (camera.width, camera.height):
        raise InputError(
            f"The image is {image_size[0]}x{image_size[1]} pixels but its camera is for {camera.width}x{camera.height}.",
            "Give the camera of this image at this size.",
        )
