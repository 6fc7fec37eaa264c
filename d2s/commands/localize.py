"""Camera poses of images, a video, a camera or a network stream: one line of JSON, or of text, per frame."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from d2s.commands.device import add_device, choose_device
from d2s.commands.options import add_effort, add_max_wrong, add_min_confidence, flag
from d2s.errors import InputError
from d2s.evaluation import wording
from d2s.evaluation.predict import failed
from d2s.features.upright import quarter_turns
from d2s.geometry.camera import parse_camera
from d2s.localization.localizer import Localizer
from d2s.localization.result import MENDED, LocalizationResult
from d2s.localization.sequence import SequenceLocalizer
from d2s.localization.table import DEFAULT_ESTIMATOR, ESTIMATORS
from d2s.regressor.base import ModelInfo
from d2s.stream.frame import Frame, Source
from d2s.stream.image_files import ImageFiles, find_images
from d2s.stream.live import LiveStream, parse_target
from d2s.stream.overlay import draw_overlay
from d2s.stream.overlay_files import make_overlays
from d2s.stream.priors import Priors, parse_priors
from d2s.stream.results_file import ResultsFile
from d2s.stream.tally import Tally
from d2s.stream.video_file import VideoFile

SECONDS_BETWEEN_LINES = 10.0
OVERLAY_FPS = 10.0
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s localize`."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR_OR_FILE", help="model/ folder of a run, checkpoint folder, or model file"
    )
    _add_sources(parser)
    parser.add_argument(
        "--camera",
        metavar="'MODEL W H p0 ...'",
        help="COLMAP camera, e.g. 'SIMPLE_PINHOLE 640 480 525 320 240' (default: the mapping images' camera, scaled or turned where the "
        "size differs, or the focal length in EXIF, else estimated with the pose)",
    )
    _add_outputs(parser)
    _add_priors(parser)
    parser.add_argument("--pnp", choices=tuple(ESTIMATORS), default=DEFAULT_ESTIMATOR, help=f"PnP back end (default: {DEFAULT_ESTIMATOR})")
    parser.add_argument("--max_error", type=float, default=None, help="RANSAC inlier threshold in pixels (default: the model's)")
    refusal = parser.add_mutually_exclusive_group()
    add_min_confidence(refusal)
    add_max_wrong(refusal)
    add_effort(parser)
    parser.add_argument("--weights", type=Path, default=None, help="file of the feature network, where it is not found by itself")
    add_device(parser)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--image", action="extend", nargs="+", metavar="FILE", help="images, folders of images, or patterns in quotes; repeatable"
    )
    source.add_argument("--video", type=Path, metavar="FILE", help="video file: every frame of it, in order")
    source.add_argument(
        "--stream", metavar="INDEX_OR_URL", help="camera index, or address of a stream (rtsp://…, http://…); frames that come too fast drop"
    )
    parser.add_argument("--every", type=_count, default=1, metavar="N", help="take only every N-th frame of a video or stream (default: 1)")
    parser.add_argument("--queue", type=_count, default=1, metavar="N", help="frames of a stream that may wait, the rest drop (default: 1)")
    parser.add_argument(
        "--reconnect",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long to try again when a network stream breaks off (default: 30)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    flag(parser, "--json", False, "print one line of JSON per frame on standard output and nothing else there")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also write poses there: 'name qw qx qy qz tx ty tz', world to camera")
    parser.add_argument(
        "--overlay", type=Path, metavar="DIR_OR_VIDEO", help="also write pictures with keypoints and pose: a folder, or a .mp4 or .avi file"
    )


def _add_priors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prior",
        metavar="POSE_OR_FILE",
        help="about where the camera is: 'qw qx qy qz tx ty tz' (world to camera), or a file of 'name qw qx …' lines. Its surroundings are "
        "searched beside the whole map",
    )
    flag(parser, "--sequence", False, "frames follow each other: look near the last poses first, in the whole map where that is not enough")


def _count(text: str) -> int:
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def run(args: argparse.Namespace) -> int:
    """Print the pose of each frame; one that cannot be localized is an answer too. Ctrl-C and SIGTERM end with a summary."""
    _notes_to_stderr()
    camera = None if args.camera is None else parse_camera(args.camera)  # what is wrong with options is said before the model is loaded
    priors = Priors() if args.prior is None else parse_priors(args.prior)
    with ExitStack() as stack, _ended_by_signals() as told:
        source = _open_source(args)
        stack.callback(source.close)
        device = str(choose_device(args.cudaid))
        effort = args.effort, args.budget_ms
        settings = args.max_error, args.weights, args.min_confidence, *effort, args.max_wrong
        localizer = Localizer.load(args.model, device, args.pnp, *settings)
        localizer.prepare()
        localizer.cameras.given = camera
        work = Work(args, localizer, priors, source, stack)
        return work.run(told)


def _notes_to_stderr() -> None:
    """Standard output is for results alone."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


@contextmanager
def _ended_by_signals() -> Iterator[threading.Event]:
    """SIGTERM, with which services are stopped, ends as Ctrl-C does. Only the main thread may say so.

    The event says so too: an exception that arrives while a destructor or a library's callback runs is lost there.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        told.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_source(args: argparse.Namespace) -> Source:
    if args.stream is not None:
        return LiveStream(parse_target(args.stream), args.every, args.queue, args.reconnect)
    return VideoFile(args.video, args.every) if args.video is not None else ImageFiles(find_images(args.image))


class Work:
    """One run of the command: frames in, poses out."""

    def __init__(self, args: argparse.Namespace, localizer: Localizer, priors: Priors, source: Source, stack: ExitStack) -> None:
        self.args, self.localizer, self.priors, self.source = args, localizer, priors, source
        self.sequence = SequenceLocalizer(localizer) if args.sequence else None
        if args.prior is not None:
            localizer.landmarks()  # refused now rather than at the first frame
        self.results = None if args.results is None else stack.enter_context(ResultsFile(args.results))
        fps = source.fps / source.every if isinstance(source, VideoFile) else OVERLAY_FPS
        self.overlays = None if args.overlay is None else make_overlays(args.overlay, fps, source.live)
        if self.overlays is not None:
            stack.callback(self.overlays.close)
        self.tally = Tally()
        self.problem = ""

    def run(self, told: threading.Event) -> int:
        """Work through all frames, or until `told` to end; the exit code."""
        try:
            self._loop(told)
        except KeyboardInterrupt:
            return 0 if self.source.live else INTERRUPTED  # nothing else ends a camera
        finally:
            self._summary()
        return 0

    def _loop(self, told: threading.Event) -> None:
        said = time.perf_counter()
        for frame in self.source:
            if told.is_set():
                raise KeyboardInterrupt
            result = self._localize(frame)
            self.tally.add(result)
            self._put_out(frame, result)
            if self.args.json and time.perf_counter() - said > SECONDS_BETWEEN_LINES:
                said = time.perf_counter()
                self._note(f"{self.tally.describe(self.source.dropped)} so far")
        if self.problem and not self.tally.ms:  # not one image: it is the folder or the camera that is wrong
            raise InputError(f"None of {self.tally.frames} images could be localized: {self.problem}")

    def _localize(self, frame: Frame) -> LocalizationResult:
        if frame.pixels is None:
            return self._unusable(frame.problem)
        try:
            return self._solve(frame)
        except InputError as error:
            if isinstance(self.source, ImageFiles) and len(self.source.paths) > 1:
                return self._unusable(str(error))
            raise

    def _unusable(self, problem: str) -> LocalizationResult:
        """One of several images cannot be read or has no known camera: a failed query, which must not end the others."""
        self.problem = self.problem or problem
        return failed(problem)

    def _solve(self, frame: Frame) -> LocalizationResult:
        assert frame.pixels is not None
        camera = self.localizer.cameras.choose((frame.pixels.shape[1], frame.pixels.shape[0]), frame.path)
        prior = self.priors.of(frame.name)
        turns = 0 if frame.path is None else quarter_turns(frame.path)
        if self.sequence is not None:
            return self.sequence.localize(frame.pixels, camera, frame.timestamp, prior, turns)
        return self.localizer.localize(frame.pixels, camera, prior, turns)

    def _put_out(self, frame: Frame, result: LocalizationResult) -> None:
        """Files first: what was printed is in them, whatever happens next."""
        if self.results is not None:
            self.results.write(frame.name, result)
        if self.overlays is not None and frame.pixels is not None:
            fps = None if frame.index is None else self.tally.fps
            self.overlays.write(frame, draw_overlay(frame.pixels, result, frame.title, self.localizer.info.units, fps))
        line = json.dumps(self._values(frame, result), allow_nan=False) if self.args.json else describe(frame, result, self.localizer.info)
        print(line, flush=True)

    def _values(self, frame: Frame, result: LocalizationResult) -> dict[str, Any]:
        """The result's JSON with what is known of the frame and of the prior, where there are such."""
        values = result.to_json(frame.name, self.sequence is not None or self.args.prior is not None)
        if frame.index is not None:
            values |= {"frame": frame.index, "timestamp": frame.timestamp}
        return values

    def _summary(self) -> None:
        if self.problem and not self.tally.ms:  # the error says all
            return
        if self.tally.frames > 1 or (self.tally.frames and self.source.live):
            self._note(self.tally.describe(self.source.dropped, getattr(self.source, "reconnections", 0)))

    def _note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def describe(frame: Frame, result: LocalizationResult, info: ModelInfo) -> str:
    """One line for people."""
    when = "" if frame.timestamp is None or frame.timestamp > 1e8 else f" at {frame.timestamp:.2f} s"
    spent = wording.milliseconds(result.ms.get("total"))
    inliers = f"{result.num_inliers} inliers of " if result.num_inliers else ""
    counts = f"{inliers}{result.kept} reliable of {result.extracted} keypoints, {spent}"
    if result.center is None:
        return f"{frame.name}{when}: not localized: {result.reason} ({counts})"
    x, y, z = result.center
    unit = "m" if info.units == "metres" else "scene units"
    doubt = "" if result.rival is None else ", another place fits as well"
    doubt += describe_camera(result)
    return f"{frame.name}{when}: camera at {x:.3f} {y:.3f} {z:.3f} {unit}, confidence {result.confidence:.2f}{doubt} ({counts})"


def describe_camera(result: LocalizationResult) -> str:
    """What people should know of the camera where it is not the one that was given."""
    if result.camera is None or result.sigma_focal is None:
        return ""
    focal = f"{result.camera.mean_focal_length():.0f} px ± {100 * result.sigma_focal:.1f} %"
    if result.camera_from == MENDED:
        return f", the camera does not fit the image (cropped? zoomed?), this one does: focal length {focal}"
    return f", focal length {focal}"
