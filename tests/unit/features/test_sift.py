from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2s.features.sift import root_sift
from d2s.features.table import make_extractor


def blobs(centres: np.ndarray, sigma: float, size: tuple[int, int] = (240, 200), strength: float = 120) -> np.ndarray:
    """Gray image (H, W) of Gaussian blobs at sub-pixel centres; the centre of the top-left pixel is (0, 0)."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = np.full((size[1], size[0]), 60.0)
    for cx, cy in centres:
        image += strength * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return image.round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 4.0, 7.0])
@pytest.mark.parametrize("precise", [True, False])
def test_blob_is_found_where_it_is(sigma: float, precise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any sub-pixel place, and with an OpenCV that cannot upscale precisely (keypoints there are 0.25 px off)."""
    if not precise:
        create = cv2.SIFT_create

        def old_create(nfeatures: int, contrastThreshold: float, edgeThreshold: float) -> object:  # noqa: N803
            return create(nfeatures=nfeatures, contrastThreshold=contrastThreshold, edgeThreshold=edgeThreshold)

        monkeypatch.setattr(cv2, "SIFT_create", old_create)
    centres = np.array([[60.0, 60.0], [140.25, 70.5], [80.7, 140.3], [170.5, 139.8]])
    found = make_extractor("sift", 4).extract([blobs(centres, sigma)])[0]
    assert len(found) == 4
    offsets = found.keypoints - centres[np.linalg.norm(found.keypoints[:, None] - centres, axis=2).argmin(axis=1)]
    assert np.abs(offsets).max() < 0.08, offsets
    assert np.abs(offsets.mean(axis=0)).max() < 0.04, offsets


def test_shrunk_image_gives_pixels_of_the_original() -> None:
    centres = np.array([[120.0, 120.0], [301.0, 151.5], [160.5, 280.0]])
    found = make_extractor("sift", 3, max_side=240).extract([blobs(centres, 10.0, (480, 400))])[0]
    assert found.image_size == (480, 400)
    assert np.linalg.norm(found.keypoints[:, None] - centres, axis=2).min(axis=0).max() < 0.15


def test_one_row_per_position() -> None:
    """A plus sign has four equal dominant orientations."""
    image = np.full((120, 120), 50, np.uint8)
    image[57:64, 30:91] = 200
    image[30:91, 57:64] = 200
    image = cv2.GaussianBlur(image, (0, 0), 2)
    raw = cv2.SIFT_create(contrastThreshold=0.004).detect(image)
    assert len(raw) > len({(k.pt, k.size) for k in raw})  # OpenCV gives a row for each orientation
    found = make_extractor("sift", 500).extract([image])[0]
    assert len(np.unique(found.keypoints, axis=0)) == len(found) > 5


def test_root_sift_is_the_square_root_of_a_distribution() -> None:
    found = root_sift(np.array([[4.0, 12.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 0.75**0.5, 0, 0], [0, 0, 0, 1]], atol=1e-6)


def test_keeps_the_strongest() -> None:
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (150, 200), dtype=np.uint8), (0, 0), 2)
    many, few = (make_extractor("sift", count).extract([image])[0] for count in (300, 40))
    assert len(few) == 40
    np.testing.assert_allclose(few.scores, many.scores[:40], rtol=1e-6)
