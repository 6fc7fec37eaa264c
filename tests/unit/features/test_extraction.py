from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.errors import InputError
from d2s.features import extraction
from d2s.features.base import LocalFeatures
from d2s.features.extraction import extract_all


class MeanColour:
    """A stand-in extractor: one keypoint whose score is the mean of the image."""

    name, descriptor_dim = "mean", 1

    def __init__(self, wait: Callable[[], object] = int) -> None:
        self.batches: list[int] = []
        self.wait = wait

    def settings(self) -> dict[str, object]:
        return {"name": self.name}

    def extract(self, images: Sequence[np.ndarray]) -> list[LocalFeatures]:
        self.batches.append(len(images))
        self.wait()
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        means = [np.array([image.mean()], np.float32) for image in images]
        return [LocalFeatures(np.zeros((1, 2), np.float32), m, np.ones((1, 1), np.float32), s) for m, s in zip(means, sizes, strict=True)]


@pytest.fixture
def items(tmp_path: Path) -> list[tuple[str, Path]]:
    """Eleven gray images of different sizes; image k has value 10 k."""
    found = []
    for k in range(11):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((20 + k % 3, 30), 10 * k, np.uint8))
        found.append((f"seq/{k}", tmp_path / f"{k}.png"))
    return found


@pytest.mark.parametrize(("batch_size", "prefetch"), [(None, 16), (4, 1), (3, 4), (50, 2)])
def test_order_and_content(batch_size: int | None, prefetch: int, items: list[tuple[str, Path]]) -> None:
    extractor = MeanColour()
    found = list(extract_all(extractor, items, batch_size, prefetch))
    assert [name for name, _ in found] == [name for name, _ in items]
    assert [float(features.scores[0]) for _, features in found] == [10.0 * k for k in range(11)]
    assert max(extractor.batches) == min(batch_size or 1, 11) and sum(extractor.batches) == 11


def test_corrupt_image_is_named(items: list[tuple[str, Path]]) -> None:
    items[4][1].write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"4\.png"):
        list(extract_all(MeanColour(), items, batch_size=2))


def test_corrupt_images_can_be_skipped(items: list[tuple[str, Path]]) -> None:
    items[4][1].write_bytes(b"nothing")
    items[10][1].unlink()
    seen: list[tuple[str, str]] = []
    found = list(extract_all(MeanColour(), items, batch_size=3, on_error=lambda name, error: seen.append((name, str(error)))))
    assert [name for name, _ in found] == [name for k, (name, _) in enumerate(items) if k not in (4, 10)]
    assert [name for name, _ in seen] == ["seq/4", "seq/10"] and "does not exist" in seen[1][1]


def test_nothing_to_do() -> None:
    assert list(extract_all(MeanColour(), [])) == []


def test_reading_goes_on_while_the_network_runs_and_stays_bounded(items: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(extraction, "read_image", lambda path: read.append(1) or np.zeros((4, 4, 3), np.uint8))

    def wait() -> None:
        end = time.monotonic() + 60
        while len(read) < 2 + len(extractor.batches):
            assert time.monotonic() < end, "nothing is read while the network runs"
            time.sleep(0.001)

    extractor = MeanColour(wait)
    run = extract_all(extractor, items, batch_size=1, prefetch=3)
    next(run)
    assert len(read) == 3  # the first and two more, read while the network ran
    next(run)
    assert len(read) == 4


def test_stopping_early_leaves_no_threads(items: list[tuple[str, Path]]) -> None:
    run = extract_all(MeanColour(), items)
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
