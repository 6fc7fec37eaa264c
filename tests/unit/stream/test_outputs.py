"""What is written about frames: results, overlays, counts; and what is read: priors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.evaluation.pose_files import read_results
from d2s.evaluation.predict import failed
from d2s.geometry import pose
from d2s.localization.result import LocalizationResult, Rival
from d2s.stream.frame import Frame
from d2s.stream.overlay import AMBER, GREEN, RED, draw_overlay, words
from d2s.stream.overlay_files import OverlayVideo, make_overlays
from d2s.stream.priors import parse_priors
from d2s.stream.results_file import ResultsFile
from d2s.stream.tally import Tally
from d2s.stream.video_file import VideoFile

POSE = pose.from_qvec_tvec([0.8, 0.1, -0.5, 0.2], [0.3, -1.0, 2.0])
LINE = "0.8 0.1 -0.5 0.2 0.3 -1 2"


def result(size: tuple[int, int] = (320, 240), success: bool = True) -> LocalizationResult:
    """Inliers in the left half, other keypoints in the right one."""
    random = np.random.default_rng(0)
    keypoints = random.uniform([8, 8], [size[0] - 8, 0.6 * size[1]], (60, 2)).astype(np.float32)
    left = keypoints[:, 0] < size[0] / 2 - 8
    keypoints = keypoints[left | (keypoints[:, 0] > size[0] / 2 + 8)]
    inliers = (keypoints[:, 0] < size[0] / 2) & success
    xyz = np.zeros((len(keypoints), 3), np.float32)
    estimate = (success, POSE if success else None, "" if success else "only 3 points agree")
    return LocalizationResult(*estimate, {"total": 20.0}, keypoints, xyz, xyz[:, 0], np.ones(len(xyz), bool), inliers)


def close_to(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture.astype(int) - color).max(axis=2) < 30


@pytest.mark.parametrize("size", [(320, 240), (641, 481), (1080, 1920)])
def test_inliers_are_green_and_others_red(size):
    picture = draw_overlay(np.full((size[1], size[0], 3), 60, np.uint8), result(size), "a.jpg", "metres", 3.0)
    height, width = picture.shape[:2]
    assert height % 2 == width % 2 == 0 and 640 <= max(height, width) <= 1280
    assert abs(width / height - size[0] / size[1]) < 0.01
    upper = picture[: height // 2 + height // 10]
    half = width // 2
    assert close_to(upper, GREEN)[:, :half].sum() > 50 and close_to(upper, RED)[:, half:].sum() > 50
    assert not close_to(upper, RED)[:, :half].any() and not close_to(upper, GREEN)[:, half:].any()


def test_dots_sit_on_their_keypoints():
    one = replace(result(), keypoints=np.array([[40.0, 30.0]], np.float32), inliers=np.array([True]))
    green = close_to(draw_overlay(np.zeros((240, 320), np.uint8), one, "", "metres"), GREEN)[:300]
    y, x = np.argwhere(green).mean(axis=0)
    assert (x, y) == pytest.approx((2 * 40.5 - 0.5, 2 * 30.5 - 0.5), abs=0.6)


def test_dots_beyond_the_border_and_no_keypoints_at_all():
    outside = replace(result(), keypoints=np.array([[-3.0, -3.0], [400, 300]], np.float32), inliers=np.array([True, False]))
    for shown in (outside, failed("unreadable")):
        assert draw_overlay(np.zeros((240, 320, 3), np.uint8), shown, "", "metres").shape == (480, 640, 3)


def test_the_band_says_what_happened():
    assert words(result(), "metres")[:2] == ("localized, confidence 0.00", GREEN) and " m " in words(result(), "metres")[2]
    assert " m " not in words(result(), "arbitrary")[2]
    assert words(result(success=False), "metres") == ("not localized", RED, "only 3 points agree")
    assert words(result().with_rival(Rival(POSE, 20)), "metres")[:2] == ("two places fit, confidence 0.00", AMBER)
    dark = np.full((240, 320, 3), 200, np.uint8)
    band = draw_overlay(dark, result(), "a" * 300, "metres")[-60:]
    assert close_to(band, GREEN).sum() > 50 and np.median(band) < 60


def test_pictures_in_a_folder_have_names_of_their_own(tmp_path):
    overlays = make_overlays(tmp_path / "out", 10, False)
    picture = np.zeros((20, 30, 3), np.uint8)
    for frame in (
        Frame("x/a.png", picture, path=Path("x/a.png")),
        Frame("y/a.png", picture, path=Path("y/a.png")),
        Frame("walk.mp4/000003", picture, 3, 0.1),
    ):
        overlays.write(frame, picture)
    overlays.close()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "a_2.jpg", "walk.mp4_000003.jpg"]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_appears_when_it_is_finished(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    overlays = OverlayVideo(path, 10.0, False)
    for index, size in enumerate([(120, 160), (120, 160), (160, 120)]):
        overlays.write(Frame("", None, index, 0.1 * index), np.full((*size, 3), 200, np.uint8))
    assert not path.exists()
    overlays.close()
    assert len(list(VideoFile(path))) == 3 and list(tmp_path.iterdir()) == [path]


def test_a_live_video_keeps_real_time(tmp_path):
    overlays = OverlayVideo(tmp_path / "out.avi", 10.0, True)
    for when in (100.0, 100.02, 100.5, 101.0):  # the second one comes too early for a frame of its own
        overlays.write(Frame("", None, 0, when), np.zeros((120, 160, 3), np.uint8))
    overlays.close()
    assert len(list(VideoFile(tmp_path / "out.avi"))) == 11


def test_an_overlay_that_cannot_be_written(tmp_path):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match=".avi"):
        make_overlays(tmp_path / "file.txt", 10, False)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        make_overlays(tmp_path / "folder.mp4", 10, False)


def test_results_are_read_back_exactly(tmp_path):
    path = tmp_path / "new" / "results.txt"
    with ResultsFile(path) as results:
        results.write("a b.jpg", result())
        results.write("failed.jpg", result(success=False))
        assert len(path.read_text().splitlines()) == 1, "the line is there at once"
        results.write("c.jpg", result())
    found = read_results(path)
    assert list(found) == ["a b.jpg", "c.jpg"]
    np.testing.assert_allclose(found["a b.jpg"], POSE, atol=1e-15)
    with pytest.raises(InputError, match="exists already"):
        ResultsFile(path)
    assert list(read_results(path)) == ["a b.jpg", "c.jpg"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from d2s.localization.result import LocalizationResult
from d2s.stream.results_file import ResultsFile
none = np.zeros((0, 3), np.float32)
result = LocalizationResult(True, np.eye(3, 4), "", {}, none[:, :2], none, none[:, 0], none[:, 0] > 0, none[:, 0] > 0)
results = ResultsFile(Path(sys.argv[1]))
for name in ("a", "b", "c"):
    results.write(name, result)
    print(name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_no_result_that_was_said(tmp_path):
    path = tmp_path / "results.txt"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL and done.stdout.split() == ["a", "b", "c"]
    assert list(read_results(path)) == ["a", "b", "c"]


def test_one_prior_for_all_or_a_file_of_them(tmp_path):
    np.testing.assert_allclose(parse_priors(LINE).of("any.jpg"), POSE, atol=0.05)
    path = tmp_path / "priors.txt"
    path.write_text(f"# name and pose\nseq/a.jpg {LINE}\nb.jpg 1 0 0 0 5 6 7\n")
    priors = parse_priors(str(path))
    np.testing.assert_allclose(priors.of("b.jpg"), pose.from_qvec_tvec([1, 0, 0, 0], [5, 6, 7]))
    assert priors.of("/data/seq/a.jpg") is not None and priors.of("photos/b.jpg") is not None
    assert priors.of("a.jpg") is None and priors.of("c.jpg") is None


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ("1 0 0 0 1 2", InputError, "seven"),
        ("1 0 0 0 1 2 nan", InputError, "seven"),
        ("0 0 0 0 1 2 3", FormatError, "rotation"),
        ("missing.txt", MissingFileError, "neither a file nor a pose"),
    ],
)
def test_wrong_priors_are_refused(text, error, word):
    with pytest.raises(error, match=word):
        parse_priors(text)


def test_priors_of_a_file_without_poses(tmp_path):
    (tmp_path / "a.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="no poses"):
        parse_priors(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_text("a.jpg 1 2 3\n")
    with pytest.raises(FormatError, match="line 1"):
        parse_priors(str(tmp_path / "a.txt"))


def test_the_summary_counts():
    tally = Tally()
    assert tally.describe() == "0 frames, 0 localized"
    for success, milliseconds, prior in (
        (True, {"total": 10.0}, True),
        (True, {"total": 30.0, "regressor": 5.0}, True),
        (False, {}, False),
    ):
        tally.add(replace(result(success=success), ms=milliseconds, from_prior=prior))
    text = tally.describe(dropped=4, reconnections=1)
    assert text.startswith("3 frames, 2 localized (66.7 %), median 20 ms, ")
    assert text.endswith("frames per second, 1 found from the frame before alone, 4 dropped, 1 times connected again")


def test_pictures_are_written_as_they_look(tmp_path):
    overlays = make_overlays(tmp_path, 10, False)
    overlays.write(Frame("red", None), np.full((20, 30, 3), (200, 10, 10), np.uint8))
    np.testing.assert_allclose(cv2.imread(str(tmp_path / "red.jpg"))[10, 10], (10, 10, 200), atol=4)  # OpenCV reads blue first
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
