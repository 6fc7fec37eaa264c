"""Frames of a video that are worth mapping: far enough apart by what the camera saw move, and the sharpest where there is a choice."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError
from d2s.features.images import quiet_opencv, shrink, to_gray
from d2s.scene.atomic import atomic_path, write_json
from processing.own_photos.kinds import MIN_PHOTOS
from processing.progress import Ticker

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]

SPACING = 0.04
"""Motion between kept frames, as a share of the image diagonal: what one sees the next ones see, too."""
LOOKED_AT_PER_SECOND, LOOKED_AT_MOST = 12.0, 2400
"""Frames that are looked at: neighbours at full rate hardly differ."""
BLURRED = 0.4
"""Sharpness, relative to the median of the frames around, below which a frame is blurred."""
AROUND = 15
"""Looked-at frames before and after that sharpness is compared with: dark corners are no blur."""
LENGTHS_TRIED = 30
TRACK_SIDE, SHARP_SIDE = 320, 960
LOST = 0.2
"""Motion, as a share of the diagonal, where tracking fails: a cut, or a fast turn."""
MIN_CORNERS = 12
SHORT_SECONDS = 3.0
JPEG_QUALITY = 95
RECORD = "video.json"


@dataclass(frozen=True)
class LookedAt:
    """What was learnt of some frames of a video, row by row: their numbers, sharpness, and motion since the row before."""

    numbers: NDArray[np.int64]
    sharpness: Array
    motion: Array
    per_second: float
    complete: bool


@dataclass(frozen=True)
class Chosen:
    """Rows of the kept frames, and how many frames were left out for which reason."""

    rows: NDArray[np.int64]
    blurred: int
    near_copies: int
    spacing: float

    def lines(self, looked_at: LookedAt) -> list[str]:
        """What was done, in words."""
        total, share = len(looked_at.numbers), 100 * self.spacing
        seconds = looked_at.numbers[-1] / looked_at.per_second
        lines = [
            f"Kept {len(self.rows)} of {total} frames looked at ({seconds:.0f} s of video): one per {share:.0f} % of the image that the "
            f"view moved, the sharpest of its stretch. Left out: {self.near_copies} near copies of these, {self.blurred} blurred ones."
        ]
        if not looked_at.complete:
            lines.append("The video ends before its announced end: it may be damaged.")
        return lines


def extract_frames(video: Path, folder: Path, max_frames: int) -> dict[str, Any]:
    """Write the chosen frames of a video as `folder/frame_NNNNNN.jpg`, by rename of the folder; gives the counts as JSON values.

    Raises FormatError for a file that is no video, InputError for one in which too little moves.
    """
    looked_at = look_at(video)
    chosen = choose(looked_at, max_frames)
    for line in chosen.lines(looked_at):
        logger.info("%s", line)
    numbers = looked_at.numbers[chosen.rows]
    if len(numbers) < MIN_PHOTOS:
        raise _too_little(video, looked_at, len(numbers))
    info = {
        "video": video.name, "looked_at": len(looked_at.numbers), "kept": len(numbers), "blurred": chosen.blurred,
        "near_copies": chosen.near_copies, "spacing": chosen.spacing, "complete": looked_at.complete,
        "seconds_of": {frame_name(n): round(float(n / looked_at.per_second), 2) for n in numbers},
    }  # fmt: skip
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write_frames(video, numbers, temporary)
        write_json(temporary / RECORD, info)
    return info


def _too_little(video: Path, looked_at: LookedAt, kept: int) -> InputError:
    seconds = (int(looked_at.numbers[-1]) + 1) / looked_at.per_second
    frames = "one frame" if kept == 1 else f"{kept} frames"
    why = "it is too short" if seconds < SHORT_SECONDS else "the camera hardly moves in it"
    return InputError(
        f"{video} ({seconds:.1f} s) gives only {frames} worth keeping: {why}.",
        "Film for half a minute or more while walking around, so that the place is seen from several sides.",
    )


def frame_name(number: int) -> str:
    """File name of a frame by its number in the video, from 0."""
    return f"frame_{number:06d}.jpg"


def look_at(video: Path) -> LookedAt:
    """Sharpness and motion of frames spread evenly over a video. Raises FormatError for a file that is no video."""
    with _opened(video) as capture:
        per_second = float(capture.get(cv2.CAP_PROP_FPS)) or 30.0
        per_second = per_second if np.isfinite(per_second) and 0 < per_second < 1000 else 30.0
        announced = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        stride = max(1, round(per_second / LOOKED_AT_PER_SECOND), -(-announced // LOOKED_AT_MOST))
        rows, previous, ticker = [], None, Ticker()
        for number, frame in _frames(capture, stride):
            gray = to_gray(frame[:, :, ::-1].copy())
            small = shrink(gray, TRACK_SIDE)[0]
            rows.append((number, sharpness(shrink(gray, SHARP_SIDE)[0]), 0.0 if previous is None else motion(previous, small)))
            previous = small
            ticker.tell("looking at the video: frame %d of %d", number, announced)
    if not rows:
        raise FormatError(f"{video} has no frame that can be decoded.", "Convert it to MP4 (H.264), for example with ffmpeg.")
    numbers, sharp, moved = (np.array(column) for column in zip(*rows, strict=True))
    complete = announced == 0 or bool(numbers[-1] + 2 * stride + 2 >= 0.95 * announced)
    return LookedAt(numbers, sharp, moved, per_second, complete)


@contextmanager
def _opened(video: Path) -> Iterator[cv2.VideoCapture]:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's own complaints: the caller gets one exception instead
    with quiet_opencv():
        capture = cv2.VideoCapture(str(video))  # without the time limits of a stream: a file that waits is a busy machine
    try:
        if not capture.isOpened():
            problem = f"{video} cannot be read as a video: it is empty, cut off, damaged or in an unknown format."
            raise FormatError(problem, "Copy it again, or convert it to MP4 (H.264), for example with ffmpeg.")
        yield capture
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, stride: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every stride-th frame with its number; ends where the video does, or where it can no longer be decoded."""
    number = 0
    while capture.grab():
        if number % stride == 0:
            read, frame = capture.retrieve()
            if read and frame is not None:
                yield number, np.asarray(frame, dtype=np.uint8)
        number += 1


def sharpness(gray: NDArray[np.uint8]) -> float:
    """Energy of the gradient in the direction in which an image (H, W) has least of it, relative to its contrast.

    Falls with blur, also with that of a moving camera, which leaves edges along the motion sharp, and not with the light.
    """
    x, y = (cv2.Sobel(gray, cv2.CV_32F, *order, ksize=1) for order in ((1, 0), (0, 1)))
    tensor = np.array([[(x * x).mean(), (x * y).mean()], [(x * y).mean(), (y * y).mean()]])
    return float(np.linalg.eigvalsh(tensor)[0]) / (float(gray.astype(np.float32).var()) + 25.0)


def motion(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean length of the optical flow between two images (H, W), as a share of their diagonal; LOST where nothing can be followed."""
    corners = cv2.goodFeaturesToTrack(before, 200, 0.01, 7)
    if corners is None or len(corners) < MIN_CORNERS:
        return LOST / 4  # a blank wall: nothing to measure with
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(21, 21), maxLevel=4)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, winSize=(21, 21), maxLevel=4)
    returned = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < 1.0  # what does not lead back was not followed
    followed = (found.ravel() == 1) & (found_back.ravel() == 1) & returned
    if followed.mean() < 0.4:
        return LOST
    flow = np.linalg.norm((moved - corners).reshape(-1, 2)[followed], axis=1)
    return min(LOST, float(np.sort(flow)[: max(1, int(0.9 * len(flow)))].mean()) / float(np.hypot(*before.shape)))


def choose(looked_at: LookedAt, max_frames: int) -> Chosen:
    """The sharpest frame of every stretch of equal motion: stretches of SPACING, or as much longer ones as `max_frames` asks for."""
    longest = 1.001 * float(looked_at.motion.sum()) / max_frames  # cannot give more; where the view jumps, most stretches are empty
    lengths = np.geomspace(SPACING, max(SPACING, longest), LENGTHS_TRIED)
    chosen = (_choose_per(float(spacing), looked_at) for spacing in lengths)
    return next(found for found in chosen if len(found.rows) <= max_frames)


def _choose_per(spacing: float, looked_at: LookedAt) -> Chosen:
    """The sharpest frame of every stretch in which the view moves by `spacing`."""
    way = np.cumsum(looked_at.motion)
    stretch = (way / spacing).astype(np.int64)
    blurred = looked_at.sharpness < BLURRED * _median_around(looked_at.sharpness)
    rows: list[int] = []
    for index in np.unique(stretch):
        own = np.flatnonzero((stretch == index) & ~blurred)
        apart = own[way[own] - way[rows[-1]] >= 0.5 * spacing] if rows else own
        candidates = apart if len(apart) else own[len(own) :]  # a stretch whose sharp frames all repeat the last one adds nothing
        if len(candidates):
            rows.append(int(candidates[looked_at.sharpness[candidates].argmax()]))
    kept = np.array(rows, dtype=np.int64)
    return Chosen(kept, int(blurred.sum()), int((~blurred).sum()) - len(kept), spacing)


def _median_around(values: Array) -> Array:
    """Median of each value's neighbourhood, itself included."""
    return np.array([np.median(values[max(0, i - AROUND) : i + AROUND + 1]) for i in range(len(values))])


def _write_frames(video: Path, numbers: NDArray[np.int64], folder: Path) -> None:
    wanted = set(numbers.tolist())
    with _opened(video) as capture:
        for number in range(int(numbers[-1]) + 1):
            if not capture.grab():
                raise FormatError(f"{video} could be decoded to frame {number} only, which was further before.", "Check the file.")
            if number in wanted:
                _, frame = capture.retrieve()
                if not cv2.imwrite(str(folder / frame_name(number)), frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                    raise OSError(f"Frame {number} of {video} could not be written to {folder}.")
