"""`d2s localize` on folders, a video and a stream of the hall that tests/unit/conftest.py builds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.cli import main
from d2s.evaluation.pose_files import read_results
from d2s.geometry import pose
from d2s.stream.video_file import VideoFile

SERVER = Path(__file__).parents[1] / "stream" / "mjpeg_server.py"


@pytest.fixture
def localize(hall, tmp_path, monkeypatch, capfd):
    """Runs the command in an empty folder; its exit code, lines of output and of errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d2s.regressor.model_files.load_model", lambda path, device="cpu": hall)
    monkeypatch.setattr("d2s.features.table.extractor_from_settings", lambda settings, device, weights: hall)
    monkeypatch.setattr("d2s.commands.localize.SECONDS_BETWEEN_LINES", 600.0)  # however slow the machine is

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = main(["localize", "--model", "model", "--cudaid", "-1", "--min_confidence", "0", *map(str, arguments)])
        captured = capfd.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def video(hall, tmp_path):
    path = tmp_path / "walk.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for index in range(12):
        writer.write(hall.image(index))
    writer.release()
    return path


@pytest.fixture
def photos(hall, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in (0, 3, 5):
        cv2.imwrite(str(tmp_path / "photos" / f"{index}.png"), hall.image(index))
    return tmp_path / "photos"


@pytest.fixture
def camera():
    """A network camera; its process and address."""
    process = subprocess.Popen([sys.executable, str(SERVER), "0", "15"], stdout=subprocess.PIPE, text=True)
    yield process, f"http://127.0.0.1:{int(process.stdout.readline())}/stream.mjpg"
    process.kill()
    process.wait()
    process.stdout.close()


def error_of(hall, line: dict, index: int) -> float:
    return pose.pose_error(pose.from_qvec_tvec(line["qvec"], line["tvec"]), hall.cam_from_world(index))[0]


def test_a_video_frame_by_frame(hall, localize, video):
    code, out, err = localize("--video", video, "--json", "--every", 3)
    lines = [json.loads(line) for line in out]
    assert code == 0 and [line["frame"] for line in lines] == [0, 3, 6, 9]
    assert [line["timestamp"] for line in lines] == pytest.approx([0, 0.3, 0.6, 0.9], abs=1e-3)
    assert [line["image"] for line in lines] == [f"walk.avi/{index:06d}" for index in (0, 3, 6, 9)]
    assert all(error_of(hall, line, line["frame"]) < 0.05 for line in lines)
    assert len(err) == 1 and err[0].startswith("4 frames, 4 localized (100.0 %), median")
    assert "from_prior" not in lines[0]


def test_lines_in_between_are_no_summary(localize, video, monkeypatch):
    monkeypatch.setattr("d2s.commands.localize.SECONDS_BETWEEN_LINES", 0.0)
    code, out, err = localize("--video", video, "--json", "--every", 4)
    assert code == 0 and len(out) == 3
    assert [line.endswith(" so far") for line in err] == [True, True, True, False]
    assert [line.split(" frames")[0] for line in err] == ["1", "2", "3", "3"]


def test_a_sequence_is_told_in_json_and_in_the_summary(hall, localize, video):
    code, out, err = localize("--video", video, "--json", "--sequence")
    lines = [json.loads(line) for line in out]
    assert code == 0 and all(error_of(hall, line, line["frame"]) < 0.05 for line in lines)
    alone = [line["from_prior"] and line["ms"]["regressor"] == 0 for line in lines]
    assert sum(alone) >= 5 and not lines[0]["from_prior"] and lines[0]["rival"] is None
    assert f"{sum(alone)} found from the frame before alone" in err[-1]
    assert hall.searches == 12 - sum(alone)


def test_results_and_overlay_video(hall, localize, video, tmp_path):
    code, out, _ = localize("--video", video, "--results", "out/results.txt", "--overlay", "out/seen.avi", "--every", 4)
    assert code == 0 and len(out) == 3 and "at 0.40 s: camera at" in out[1]
    results = read_results(tmp_path / "out" / "results.txt")
    assert list(results) == ["walk.avi/000000", "walk.avi/000004", "walk.avi/000008"]
    seen = VideoFile(tmp_path / "out" / "seen.avi")
    assert seen.fps == pytest.approx(2.5) and [frame.pixels.shape for frame in seen] == [(480, 640, 3)] * 3
    code, out, err = localize("--video", video, "--results", "out/results.txt")
    assert code == 2 and not out and "exists already" in err[0], "poses of another run are not lost"


def test_a_folder_and_a_pattern(localize, photos, tmp_path):
    by_folder = localize("--image", "photos", "--results", "a.txt", "--overlay", "pictures")
    by_pattern = localize("--image", "photos/[03].png", "photos/5.png", "--results", "b.txt")
    assert by_folder[0] == by_pattern[0] == 0 and "3 frames, 3 localized" in by_folder[2][-1]
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["0.jpg", "3.jpg", "5.jpg"]


def test_what_no_pose_was_found_for_has_no_inliers(hall, localize, photos):
    hall.blind = {0}
    _, out, _ = localize("--image", "photos/0.png", "--effort", "fast")
    assert "not localized: " in out[0] and "inliers" not in out[0] and " reliable of " in out[0]


def test_one_bad_image_does_not_end_the_others(localize, photos):
    (photos / "1.png").write_bytes(b"no image")
    (photos / "2.png").write_bytes(b"")
    code, out, _ = localize("--image", "photos", "--json")
    lines = {line["image"]: line for line in map(json.loads, out)}
    assert code == 0 and [name for name, line in lines.items() if line["success"]] == [f"photos/{i}.png" for i in (0, 3, 5)]
    assert "1.png" in lines["photos/1.png"]["reason"] and "2.png" in lines["photos/2.png"]["reason"]
    for path in photos.glob("[035].png"):
        path.unlink()
    code, _, err = localize("--image", "photos", "--json")
    assert code == 2 and err[-1].startswith("d2s localize: None of 2 images could be localized: ")


def test_images_of_another_size(hall, localize, photos):
    cv2.imwrite(str(photos / "0.png"), cv2.resize(hall.image(0), (320, 240)))
    code, out, err = localize("--image", photos / "0.png", "--json")
    assert code == 0 and len(err) == 1 and "scaled from 160x120: SIMPLE_PINHOLE 320 240 260.0 160.0 120.0" in err[0]
    assert error_of(hall, json.loads(out[0]), 0) < 0.05


def test_priors_by_name(hall, localize, photos, tmp_path):
    hall.misled = {3, 5}
    numbers = " ".join(map(str, np.concatenate(pose.to_qvec_tvec(hall.cam_from_world(3)))))
    (tmp_path / "priors.txt").write_text(f"3.png {numbers}\n")
    _, out, _ = localize("--image", "photos", "--json", "--prior", "priors.txt")
    errors = [error_of(hall, json.loads(line), index) for line, index in zip(out, (0, 3, 5), strict=True)]
    assert errors[0] < 0.05 and errors[1] < 0.05 and errors[2] > 10, "the third one had no prior"
    assert [json.loads(line)["from_prior"] for line in out][1:] == [True, False]
    _, out, _ = localize("--image", "photos/3.png", "--json", "--prior", numbers)
    assert error_of(hall, json.loads(out[0]), 3) < 0.05


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_ends_with_a_summary(hall, localize, camera, number, tmp_path):
    when_written(tmp_path / "results.txt", 3, lambda: os.kill(os.getpid(), number))
    code, out, err = localize("--stream", camera[1], "--json", "--results", "results.txt", "--overlay", "seen.mp4")
    lines = [json.loads(line) for line in out]
    assert code == 0, "nothing else ends a camera"
    assert len(lines) >= 2 and "frames per second" in err[-1]
    assert all(abs(line["timestamp"] - time.time()) < 600 for line in lines)
    names = list(read_results(tmp_path / "results.txt"))
    assert names[: len(lines)] == [line["image"] for line in lines], "what was said is in the file"
    assert list(VideoFile(tmp_path / "seen.mp4")), "frames that come faster than the video's share one of its pictures"


def when_written(results: Path, lines: int, action: Callable[[], None]) -> None:
    """Do something, from a thread, as soon as a file of results has so many lines."""

    def wait() -> None:
        while not (results.exists() and results.read_text().count("\n") >= lines):
            time.sleep(0.05)
        action()

    threading.Thread(target=wait, daemon=True).start()


def test_a_stream_that_breaks_off_for_good(localize, camera, tmp_path):
    process, address = camera
    when_written(tmp_path / "results.txt", 1, process.kill)
    code, out, err = localize("--stream", address, "--json", "--reconnect", 0.2, "--results", "results.txt")
    assert code == 1 and out, err
    assert err[-2].split(" frames, ")[0].isdecimal() and "did not come back within 0.2 s" in err[-1]


@pytest.mark.parametrize("interrupt", [False, True])
def test_an_interrupted_video_says_how_far_it_came(hall, localize, video, monkeypatch, interrupt):
    if interrupt:
        extract = hall.extract

        def stop(images):
            if images[0].mean() > 40:
                raise KeyboardInterrupt
            return extract(images)

        monkeypatch.setattr(hall, "extract", stop)
    code, out, err = localize("--video", video)
    assert (code, len(out)) == ((130, 6) if interrupt else (0, 12)) and err[-1].startswith(f"{len(out)} frames")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--image", "a.png", "--video", "b.mp4"], "not allowed with"),
        ([], "required"),
        (["--video", "missing.mp4"], "missing.mp4 does not exist"),
        (["--image", "nothing*"], "matches no image"),
        (["--stream", "door"], "neither a camera index nor an address"),
        (["--stream", "http://127.0.0.1:9/x"], "Cannot open stream http://127.0.0.1:9/x"),
        (["--stream", "0", "--queue", "0"], "from 1 on"),
        (["--stream", "0", "--reconnect", "-1"], "number of seconds"),
        (["--image", "photos", "--prior", "1 2 3"], "seven"),
        (["--image", "photos", "--overlay", "photos/0.png"], "not a folder"),
    ],
)
def test_wrong_use_is_one_line(localize, photos, options, word, capfd):
    try:
        code, out, err = localize(*options)
    except SystemExit as stopped:
        code, out, err = stopped.code, [], capfd.readouterr().err.splitlines()
    err = [line for line in err if not line.startswith("[tcp @")]  # FFmpeg's, where another test of this process woke it up first
    assert code == 2 and len(err) == 1 and word in err[0] and not out


@pytest.mark.parametrize("option", [["--sequence"], ["--prior", "1 0 0 0 0 0 0"]])
def test_a_model_without_landmarks_says_so_first(hall, localize, video, monkeypatch, option):
    monkeypatch.setattr(hall, "landmark_map", lambda: None)
    code, out, err = localize("--video", video, *option)
    assert code == 2 and "no landmarks" in err[0] and not out
