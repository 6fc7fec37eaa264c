"""A look at two photos: mutual nearest neighbours of their features, and those that one homography explains, as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.d2net.matching_accuracy import mutual_matches
from d2s.features.base import LocalFeatures
from d2s.features.images import to_rgb

MAX_ERROR = 4.0
"""Pixels of the second image that an inlier of the homography may be off, as in the published qualitative results."""
ITERATIONS, CONFIDENCE = 10000, 0.9999
HEIGHT = 720
"""Of the picture, pixels."""
WIDEST = 4 * HEIGHT
"""Of an image in it: longer strips are drawn lower."""
LINE, DOT = (30, 200, 80), (250, 200, 40)  # RGB
PRECISE = 4  # bits of a pixel's fraction that OpenCV draws with

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PairMatches:
    """Matches of two images: pixels (K, 2) in the first and in the second, and which of them the homography explains (K,)."""

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    inliers: NDArray[np.bool_]


def match_pair(first: LocalFeatures, second: LocalFeatures, max_error: float = MAX_ERROR) -> PairMatches:
    """Mutual nearest neighbours without ratio test, and a homography by RANSAC; no inliers where there are less than four matches."""
    rows, columns = mutual_matches(first.descriptors, second.descriptors).T
    places = first.keypoints[rows], second.keypoints[columns]
    inliers = np.zeros(len(rows), np.bool_)
    if len(rows) >= 4:
        matrix, mask = cv2.findHomography(*places, cv2.RANSAC, max_error, maxIters=ITERATIONS, confidence=CONFIDENCE)
        inliers = mask.ravel() > 0 if matrix is not None else inliers
    return PairMatches(*places, inliers)


def draw_matches(images: tuple[Image, Image], matches: PairMatches) -> Image:
    """Both images (H, W) or (H, W, 3) side by side at equal height, RGB; lines between the inliers, dots on the other matches."""
    scales = [min(HEIGHT / image.shape[0], WIDEST / image.shape[1]) for image in images]
    parts = [_resized(to_rgb(image), scale) for image, scale in zip(images, scales, strict=True)]
    left = np.array([parts[0].shape[1], 0])
    places = (matches.first + 0.5) * scales[0] - 0.5, (matches.second + 0.5) * scales[1] - 0.5 + left
    canvas = np.ascontiguousarray(np.hstack(parts))
    for one, two in zip(*(_fixed(p[~matches.inliers]) for p in places), strict=True):
        for place in (one, two):
            cv2.circle(canvas, place, 2 << PRECISE, DOT, cv2.FILLED, cv2.LINE_AA, PRECISE)
    for one, two in zip(*(_fixed(p[matches.inliers]) for p in places), strict=True):
        cv2.line(canvas, one, two, LINE, 1, cv2.LINE_AA, PRECISE)
    return canvas


def _resized(image: Image, scale: float) -> Image:
    """The image at a scale, with black below it where it is lower than the picture."""
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.pad(np.asarray(resized, np.uint8), ((0, HEIGHT - size[1]), (0, 0), (0, 0)))


def _fixed(places: NDArray[Any]) -> list[list[int]]:
    """Pixels as OpenCV draws them: whole numbers of fractions."""
    return [list(map(int, row)) for row in np.rint(places * (1 << PRECISE))]
