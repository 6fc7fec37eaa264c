"""Frames of a video that OpenCV wrote."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.stream.video_file import VideoFile


def write_video(path, count=7, fps=20.0, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, (160, 120))
    for index in range(count):
        picture = np.full((120, 160, 3), 8 * (index % 24), np.uint8)
        picture[:, :, 2] = 255 - 8 * (index % 24)  # red, in OpenCV's order
        writer.write(picture)
    writer.release()
    return path


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v")])
@pytest.mark.parametrize("every", [1, 3])
def test_every_nth_frame_with_its_time(tmp_path, suffix, codec, every):
    video = VideoFile(write_video(tmp_path / f"walk{suffix}", codec=codec), every)
    frames = list(video)
    video.close()
    assert [frame.index for frame in frames] == list(range(0, 7, every))
    assert [frame.name for frame in frames][:1] == [f"walk{suffix}/000000"]
    np.testing.assert_allclose([frame.timestamp for frame in frames], np.arange(0, 7, every) / 20, atol=1e-3)
    for frame in frames:
        assert frame.pixels.shape == (120, 160, 3)
        np.testing.assert_allclose(frame.pixels[60, 80], [255 - 8 * frame.index, 8 * frame.index, 8 * frame.index], atol=9)


def test_a_video_that_is_cut_off_ends_where_it_ends(tmp_path):
    path = write_video(tmp_path / "walk.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 5 < len(list(VideoFile(path))) < 40


@pytest.mark.parametrize(
    ("name", "content", "error", "word"),
    [
        ("missing.mp4", None, MissingFileError, "does not exist"),
        ("text.mp4", b"no video", FormatError, "not a video"),
        ("empty.mp4", b"", FormatError, "not a video"),
        (".", None, InputError, "folder"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, error, word):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=word):
        VideoFile(tmp_path / name)


def test_ffmpeg_and_opencv_keep_quiet(tmp_path):
    """In a process of its own: FFmpeg decides with the first video how much it says."""
    (tmp_path / "text.mp4").write_bytes(b"no video")
    program = "from pathlib import Path\nfrom d2s.stream.video_file import VideoFile\nVideoFile(Path('text.mp4'))"
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "moov" not in result.stderr and "FormatError: Video text.mp4 cannot be opened" in result.stderr


def test_a_video_without_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("d2s.stream.video_file.next_frame", lambda capture: None)
    with pytest.raises(FormatError, match="walk.avi holds no frame"):
        list(VideoFile(write_video(tmp_path / "walk.avi", 3)))
