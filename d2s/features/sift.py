"""RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012) through OpenCV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.features.base import LocalFeatures
from d2s.features.images import check_image, shrink, to_gray, to_original

# Detected for each keypoint that is kept: some positions come several times, with one orientation each (10 to 26 % on photos).
SURPLUS = 1.3
# OpenCV doubles the image before it detects. Without its option `enable_precise_upscale` all keypoints of all octaves lie this far to
# the right and below (measured on synthetic blobs: 0.25 +- 0.01 px at scales up to 6 px).
UPSCALE_SHIFT = 0.25
# Several orientations at one position: where to cut the circle. Gradients gather at multiples of 90 degrees, where a cut would be unstable.
ANGLE_CUT = 45.0


class SiftExtractor:
    """SIFT keypoints with the highest contrast and their RootSIFT descriptors (128-d). No weights; the device is always the CPU.

    A position with several dominant orientations gives one row: for this project a keypoint is a ray and a label, and rows that share
    both only take the places of others, count twice in RANSAC and may get different labels. (Red Kitchen: 322 places with a good
    match per image pair with one row each, 324 with all, of the same 2048 rows.)
    """

    descriptor_dim = 128
    batch_size = 8

    def __init__(
        self,
        name: str,
        num_keypoints: int,
        device: str = "cpu",
        weights: Path | None = None,
        max_side: int | None = 1600,
        contrast_threshold: float = 0.004,
        edge_threshold: float = 10.0,
    ) -> None:
        self.name, self.num_keypoints = name, num_keypoints
        self.max_side, self.contrast_threshold, self.edge_threshold = max_side, contrast_threshold, edge_threshold
        self._threads = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    def settings(self) -> dict[str, Any]:
        """Everything that decides what comes out."""
        return {
            "name": self.name,
            "num_keypoints": self.num_keypoints,
            "max_side": self.max_side,
            "contrast_threshold": self.contrast_threshold,
            "edge_threshold": self.edge_threshold,
        }

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> list[LocalFeatures]:
        """Features of the images, several at a time (OpenCV releases the interpreter lock)."""
        if len(images) < 2 or self._threads < 2:
            return [self._extract_one(image) for image in images]
        with ThreadPoolExecutor(min(self._threads, len(images))) as pool:
            return list(pool.map(self._extract_one, images))

    def _extract_one(self, image: NDArray[np.uint8]) -> LocalFeatures:
        image = check_image(image)
        size = (image.shape[1], image.shape[0])
        gray, scale = shrink(to_gray(image), self.max_side)
        limit = int(self.num_keypoints * SURPLUS)
        found, descriptors = self._detect(gray, limit)
        table, rows = _select(found, self.num_keypoints)
        if len(rows) < self.num_keypoints and len(found) >= limit:  # round blobs, with an orientation in every direction, took all places
            found, descriptors = self._detect(gray, 0)
            table, rows = _select(found, self.num_keypoints)
        descriptors = np.zeros((0, 128), np.float32) if descriptors is None else descriptors
        keypoints = np.clip(to_original(table[:, :2], scale), 0, np.array(size) - 1)
        return LocalFeatures(keypoints.astype(np.float32), table[:, 2], root_sift(descriptors[rows]), size)

    def _detect(self, gray: NDArray[np.uint8], limit: int) -> tuple[Sequence[cv2.KeyPoint], NDArray[np.float32] | None]:
        """At most about `limit` keypoints, all of them for 0. A detector per call: they hold state and are cheap to make."""
        limits = {"nfeatures": limit, "contrastThreshold": self.contrast_threshold, "edgeThreshold": self.edge_threshold}
        try:
            detector, shift = cv2.SIFT_create(**limits, enable_precise_upscale=True), 0.0  # type: ignore[attr-defined]
        except TypeError:  # OpenCV < 4.8
            detector, shift = cv2.SIFT_create(**limits), UPSCALE_SHIFT  # type: ignore[attr-defined]
        found, descriptors = detector.detectAndCompute(gray, None)
        for keypoint in found if shift else ():
            keypoint.pt = (keypoint.pt[0] - shift, keypoint.pt[1] - shift)
        return found, descriptors


def _select(found: Sequence[cv2.KeyPoint], count: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """x, y, response (N, 3) of the best `count` distinct keypoints, best first, and their row numbers."""
    table = np.array([(*k.pt, k.response, k.size, (k.angle - ANGLE_CUT) % 360) for k in found], np.float32).reshape(-1, 5)
    order = np.lexsort((table[:, 4], table[:, 3], table[:, 1], table[:, 0], -table[:, 2]))
    place = table[order][:, [0, 1, 3]]
    first = np.ones(len(order), bool)
    first[1:] = (place[1:] != place[:-1]).any(axis=1)
    rows = order[first][:count]
    return table[rows, :3], rows


def root_sift(descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Square roots of L1-normalised SIFT descriptors (N, 128): unit length, Euclidean distance equals the Hellinger kernel's."""
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(np.sqrt(descriptors / total), dtype=np.float32)
