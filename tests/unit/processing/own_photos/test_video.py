"""Frames of a video: those that add something, and the sharp ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2s.errors import FormatError, InputError
from processing.own_photos.video import LookedAt, choose, extract_frames, look_at, motion, sharpness

SIZE = (320, 240)


def wall(seed: int = 0) -> np.ndarray:
    """A textured wall, larger than the view."""
    coarse = np.random.default_rng(seed).integers(0, 255, (200, 600), np.uint8)
    return cv2.resize(coarse, (2400, 800), interpolation=cv2.INTER_CUBIC)


def view(image: np.ndarray, x: float, blur: int = 0) -> np.ndarray:
    part = image[200 : 200 + SIZE[1], round(x) : round(x) + SIZE[0]]
    return cv2.blur(part, (blur, 1)) if blur else part


def write_video(path, frames, per_second: float = 12.0) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), per_second, SIZE)
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR))
    writer.release()


def looked_at(sharp, moved) -> LookedAt:
    return LookedAt(np.arange(len(sharp)), np.array(sharp, float), np.array(moved, float), 12.0, True)


def test_motion_is_a_share_of_the_diagonal():
    image = wall()
    assert motion(view(image, 100), view(image, 120)) == pytest.approx(20 / 400, rel=0.1)
    assert motion(view(image, 100), view(image, 100)) < 0.001
    assert motion(view(image, 100), view(wall(1), 100)) == pytest.approx(0.2)  # a cut
    assert motion(np.full((240, 320), 90, np.uint8), np.full((240, 320), 90, np.uint8)) == pytest.approx(0.05)  # nothing to measure with


def test_sharpness_falls_with_blur_and_not_with_the_light():
    image = view(wall(), 50)
    assert sharpness(cv2.blur(image, (9, 1))) < 0.5 * sharpness(image)
    assert sharpness(image // 2) == pytest.approx(sharpness(image), rel=0.15)


def test_the_sharpest_of_each_stretch_is_kept():
    chosen = choose(looked_at([1, 3, 2, 2, 1, 3, 2, 3, 1], [0] + [0.0201] * 8), 100)
    assert chosen.rows.tolist() == [1, 2, 5, 7, 8]
    assert chosen.near_copies == 4 and chosen.blurred == 0 and chosen.spacing == 0.04


def test_standing_still_adds_nothing():
    chosen = choose(looked_at([2] * 50, [0.0] * 30 + [0.02] * 20), 100)
    assert (chosen.rows < 30).sum() == 1 and len(chosen.rows) == 11


def test_the_limit_holds_and_the_frames_stay_spread():
    chosen = choose(looked_at([2] * 400, [0.0] + [0.03] * 399), 20)
    assert len(chosen.rows) <= 20 and chosen.rows[0] < 20 and chosen.rows[-1] > 370
    assert np.diff(chosen.rows).max() <= 41 and chosen.spacing > 0.5


def test_jumps_do_not_use_up_the_limit():
    """A view that is lost again and again counts as much motion, in stretches without frames."""
    moved = ([0.2] + [0.01] * 9) * 12
    chosen = choose(looked_at([2] * 120, moved), 40)
    assert 30 <= len(chosen.rows) <= 40 and np.diff(chosen.rows).max() <= 7


def test_blurred_frames_are_left_out_even_where_a_stretch_has_no_other():
    sharp = [2.0] * 40
    sharp[10:14] = [0.3] * 4
    chosen = choose(looked_at(sharp, [0.0] + [0.04] * 39), 100)
    assert chosen.blurred == 4 and not set(chosen.rows.tolist()) & {10, 11, 12, 13}


def test_a_video_becomes_frames_that_overlap(tmp_path):
    image = wall()
    places = [*[100] * 10, *np.arange(100, 700, 6), *[700] * 10]
    frames = [view(image, x, blur=25 if index in (40, 41, 42) else 0) for index, x in enumerate(places)]
    write_video(tmp_path / "walk.mp4", frames)
    info = extract_frames(tmp_path / "walk.mp4", tmp_path / "frames", 130)
    names = sorted(path.name for path in (tmp_path / "frames").glob("*.jpg"))
    numbers = [int(name[6:12]) for name in names]
    assert info["kept"] == len(names) and list(info["seconds_of"]) == names
    assert not set(numbers) & {40, 41, 42} and info["blurred"] == 3
    assert sum(number < 9 for number in numbers) <= 1 and sum(number > 111 for number in numbers) <= 1
    gaps = np.diff([places[number] for number in numbers])
    assert gaps.max() <= 40 and gaps.min() >= 5  # 0.1 and 0.0125 of the diagonal of 400 pixels
    kept = cv2.imread(str(tmp_path / "frames" / names[3]), cv2.IMREAD_GRAYSCALE)
    assert np.abs(kept.astype(int) - frames[numbers[3]]).mean() < 12  # the frame that its number says, through two codecs
    assert (tmp_path / "frames" / "video.json").is_file()


def test_a_camera_that_hardly_moves_is_an_error(tmp_path):
    write_video(tmp_path / "still.mp4", [view(wall(), 100)] * 60)
    with pytest.raises(InputError, match=r"still.mp4 \(5.0 s\) gives only one frame worth keeping: the camera hardly moves"):
        extract_frames(tmp_path / "still.mp4", tmp_path / "frames", 130)
    write_video(tmp_path / "short.mp4", [view(wall(), x) for x in (100, 150, 200)])
    with pytest.raises(InputError, match=r"short.mp4 \(0.2 s\) gives only 3 frames worth keeping: it is too short"):
        extract_frames(tmp_path / "short.mp4", tmp_path / "frames", 130)
    assert not (tmp_path / "frames").exists()


def test_what_is_no_video_is_one_clear_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
    (tmp_path / "b.mp4").touch()
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(FormatError, match=f"{name} cannot be read as a video"):
            look_at(tmp_path / name)


def test_a_video_that_breaks_off_is_said_to(tmp_path):
    write_video(tmp_path / "whole.mp4", [view(wall(), x) for x in range(0, 600, 6)])
    assert look_at(tmp_path / "whole.mp4").complete
    data = (tmp_path / "whole.mp4").read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    assert start < end  # the index is at the end, so it stays
    cut = start + (end - start) // 2
    (tmp_path / "broken.mp4").write_bytes(data[:cut] + bytes(end - cut) + data[end:])
    found = look_at(tmp_path / "broken.mp4")
    assert len(found.numbers) >= 40
