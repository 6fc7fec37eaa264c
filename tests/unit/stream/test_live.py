"""A network camera on loopback that is killed and comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.stream import live
from d2s.stream.capture import without_secrets
from d2s.stream.live import LiveStream, StreamError, parse_target

SERVER = Path(__file__).with_name("mjpeg_server.py")


def start(port: int = 0, fps: float = 25.0) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), str(fps)], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


@contextmanager
def camera(fps: float = 25.0):
    """A running camera; its process and address."""
    process, port = start(fps=fps)
    try:
        yield process, f"http://127.0.0.1:{port}/stream.mjpg"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def opened(*arguments, **options):
    stream = LiveStream(*arguments, **options)
    try:
        yield stream
    finally:
        stream.close()


def brightness(frame) -> int:
    return round(float(frame.pixels.mean()) / 8)


def wait_for(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_newest_frame_is_next_and_the_others_count_as_dropped():
    with camera() as (_, address), opened(address) as stream:
        frames = []
        for frame in stream:
            frames.append(frame)
            if len(frames) == 4:
                break
            before = stream.dropped
            wait_for(lambda before=before: stream.dropped > before + 2)  # localizing takes longer than three frames
        indices = [frame.index for frame in frames]
        assert all(later - earlier > 3 for earlier, later in zip(indices, indices[1:], strict=False)), "it is the newest one"
        assert stream.dropped >= indices[-1] - len(frames) - 1 > 0
        assert [brightness(frame) for frame in frames] == [index % 24 for index in indices]
        stamps = [frame.timestamp for frame in frames]
        assert stamps == sorted(stamps) and abs(time.time() - stamps[-1]) < 600  # since 1970
        assert frames[0].name == f"stream/{indices[0]:06d}"


def test_a_longer_queue_keeps_the_order():
    with camera() as (_, address), opened(address, queue=50) as stream:
        frames = []
        for frame in stream:
            frames.append(frame.index)
            time.sleep(0.5 if len(frames) == 1 else 0)
            if len(frames) == 10:
                break
        assert frames == list(range(10)) and stream.dropped == 0


def test_a_killed_camera_that_comes_back():
    first, port = start()
    again: list[subprocess.Popen[str]] = []
    later = threading.Timer(1.0, lambda: again.append(start(port)[0]))
    with opened(f"http://127.0.0.1:{port}/stream.mjpg", patience=240) as stream:
        seen = []
        for frame in stream:
            seen.append(frame.index)
            if len(seen) == 3:
                first.kill()
                first.wait()
                later.start()
            if stream.reconnections and len(seen) > 6:
                break
    later.join()
    again[0].kill()
    assert seen == sorted(set(seen)), "numbers go on after the break"
    assert stream.reconnections == 1


def test_a_camera_that_stays_away_ends_the_stream(monkeypatch):
    monkeypatch.setattr(live, "FIRST_WAIT", 0.05)
    with camera() as (process, address), opened(address, patience=0.5) as stream:
        seen = 0
        with pytest.raises(StreamError, match=r"ended after \d+ frames .* within 0.5 s") as error:
            for _ in stream:
                seen += 1
                process.kill()
        assert seen >= 1 and error.value.exit_code == 1


def test_every_nth_frame():
    with camera() as (_, address), opened(address, every=5, queue=20) as stream:
        indices = []
        for frame in stream:
            indices.append(frame.index)
            if len(indices) == 3:
                break
        assert indices == [0, 5, 10]


@pytest.mark.parametrize("path", ["nothing", "stream.mjpg"])
def test_what_cannot_be_opened(path):
    with camera() as (process, address), opened(address.replace("stream.mjpg", path).replace("//", "//user:secret@")) as stream:
        if path == "stream.mjpg":
            process.kill()
            process.wait()
        with pytest.raises(InputError, match="Cannot open stream http") as error:
            list(stream)
    assert "secret" not in str(error.value)


def test_a_camera_that_is_not_there():
    with opened(63) as stream, pytest.raises(InputError, match="Cannot open camera 63"):
        list(stream)


def test_closing_while_it_reads():
    with camera() as (_, address):
        stream = LiveStream(address)
        assert next(iter(stream)).pixels.shape == (120, 160, 3)
        stream.close()
        wait_for(lambda: not stream._thread.is_alive())


@pytest.mark.parametrize(("text", "target"), [("0", 0), ("12", 12), ("rtsp://host/a", "rtsp://host/a"), ("http://h:80/x", "http://h:80/x")])
def test_indices_and_addresses(text, target):
    assert parse_target(text) == target


def test_other_targets_are_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="--video"):
        parse_target(str(tmp_path / "a.mp4"))
    with pytest.raises(InputError, match="rtsp://"):
        parse_target("front door")


def test_secrets_are_hidden():
    assert without_secrets("rtsp://me:pass@host/x?a=b@c") == "rtsp://***@host/x?a=b@c"
    assert without_secrets("http://host/x@y") == "http://host/x@y"


def test_frames_are_rgb():
    with camera() as (_, address), opened(address) as stream:
        assert next(iter(stream)).pixels.dtype == np.uint8
