"""What README.md and docs/ tell users to type: every line is run on a tiny place, or is parsed and has a reason why it is not run.

A page is run as a reader would: its commands one after the other, in one folder, as they are written. The folder holds what the pages speak
of under the very names that they use: DATASET_DIR, FOLDER, new.jpg. Commands get the options of SMALLER on top, so that they take seconds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pytest

from d2s.cli import main

from ..unit.test_docs import PAGES, as_command, check
from .conftest import ROOT, TINY

NEEDS_WEIGHTS = "needs weights that are downloaded; tests/unit/d2net runs it with made ones"
NEEDS_DATA = "needs a public data set; tests/integration/test_public_layouts.py and test_model_layouts.py run it on miniatures"
NOT_RUN: dict[str, str] = {
    r"^d2s d2net (extract|extract-kapture|hpatches|match|train) ": NEEDS_WEIGHTS,
    r"^d2s d2net (undistort|prepare) ": "needs MegaDepth; tests/unit/d2net runs it on a miniature",
    r"^d2s download (7scenes|Cambridge)": "needs a download; tests/unit/processing/test_download.py runs it against a server of its own",
    r"--dataset (7scenes|12scenes|Cambridge|indoor6|BKC) |benchmarks/accuracy\.py": NEEDS_DATA,
    r"--dataset kapture ": NEEDS_DATA,
    r"--sfm hloc|preprocess_custom_data.py|--dataset mine ": "needs outputs of hloc; tests/integration/test_hloc.py runs it on made ones",
    r"--stream ": "needs a camera; tests/unit/commands/test_localize_frames.py runs it with one of its own",
    r"\.pth\.tar|--format published": "needs a public checkpoint; tests/unit/commands/test_published_checkpoint.py runs it on made ones",
    r"^python -m visdom\.server|^d2s watch ": "needs a Visdom server; tests/integration/test_visdom.py runs it with one",
    r"^d2s localize .*--stream ": "needs a camera; tests/unit/commands/test_localize_frames.py serves streams",
    r"^sh scripts/setup\.sh|^sh tests/run\.sh|^\. \.venv/bin/activate$": "installs, or runs these tests",
}
"""Lines whose options are checked only -> why they are not run."""

SMALLER: dict[str, list[str]] = {
    "preprocess": ["--num_keypoints", "500", "--cudaid", "-1"],
    "train": ["--set", "training.n_iters=2", "--cudaid", "-1", "--visdom", "off"],
    "eval": ["--cudaid", "-1"],
    "localize": ["--cudaid", "-1"],
    "pipeline": ["--num_keypoints", "500", "--set", "training.n_iters=2", "--cudaid", "-1", "--visdom", "off"],
    "map": ["--features", "sift", "--num_keypoints", "500", "--set", "training.n_iters=2", "--cudaid", "-1"],
    "serve": ["--cudaid", "-1", "--port", "0"],
}
DEMO = TINY[:-2]
FASTER = {"aliked": "sift"}
"""Features that are taken in place of the written ones: the others' own tests run them."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"(\$ )?(d2s|python3?|sh|curl|pip|git|\.|cd|export|conda|docker|systemctl|ffmpeg) ")
SIZE = re.compile(r"\b(?:SIMPLE_\w+|PINHOLE|RADIAL|OPENCV\w*) (\d+) (\d+) ")
VIDEO = re.compile(r"(?:--video |VideoCapture\(\")([\w.]+)")
PICTURE = re.compile(r"[\w/]+\.(?:jpg|png)")
VIDEO = re.compile(r"[\w/]+\.mp4")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: lines of a shell, or a program in Python."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Command lines; in a block of no language those that look like one."""
        lines = [line.split("   #")[0].strip() for line in self.text.replace("\\\n", " ").splitlines()]
        if self.language in ("sh", "bash", "console"):
            return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]
        return [line.removeprefix("$ ") for line in lines if not self.language and SHELL.match(line)]


def blocks(page: Path) -> list[Block]:
    return [Block(match[1], match[2]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def reason(line: str) -> str | None:
    """Why a line is not run; None for those that are."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), None)


WRITTEN = [(page, line) for page in PAGES for block in blocks(page) for line in block.lines]


@dataclass
class Reader:
    """Somebody in a folder of their own, with a page."""

    folder: Path
    base: Path
    service: subprocess.Popen[str] | None = None
    url: str = ""
    log: str = ""
    ran: list[str] = field(default_factory=list)

    def do(self, line: str) -> None:
        """One line."""
        why = reason(line)
        command = as_command(shlex.split(line, comments=True))
        if command is not None:
            check(*command)
        if why is None:
            self.ran.append(line)
            self.pictures(line)
            self.videos(line)
            if command is not None:
                self.call(*command)
            else:
                self.other(line)

    def call(self, command: str, arguments: list[str]) -> None:
        """One of our commands, in this process."""
        if command == "serve":
            return self.serve(arguments)
        if command == "pipeline" and "--dataset" not in arguments:
            shutil.rmtree("logs/demo", ignore_errors=True)  # this page makes it
        assert main([command, *self.smaller(command, arguments)]) == 0
        return None

    def smaller(self, command: str, arguments: list[str]) -> list[str]:
        demo = command in ("preprocess", "pipeline") and "--demo_option" not in arguments
        demo = demo and ("demo" in arguments or not arguments) and not {"stairs", "museum"} & set(arguments)
        feature = ["--features", FASTER["aliked"]] if command == "preprocess" and "--features" not in arguments else []
        return [*(FASTER.get(word, word) for word in arguments), *feature, *SMALLER.get(command, []), *(DEMO if demo else [])]

    def pictures(self, text: str) -> None:
        """Photos of the place under the written names, of the size that the written camera has."""
        size = SIZE.search(text)
        for index, name in enumerate(sorted(set(PICTURE.findall(text)))):
            path = self.folder / name
            if not path.is_absolute() or not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = cv2.imread(str(sorted((self.base / "queries").glob("*.jpg"))[index]))
                cv2.imwrite(str(path), picture if size is None else cv2.resize(picture, (int(size[1]), int(size[2]))))

    def videos(self, text: str) -> None:
        """A video of the place under every written name that is not an overlay's."""
        for name in set(VIDEO.findall(text)) - set(re.findall(r"--overlay (\S+)", text)):
            pictures = [cv2.imread(str(path)) for path in sorted((self.base / "queries").glob("*.jpg"))]
            writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10, pictures[0].shape[1::-1])
            for picture in pictures:
                writer.write(picture)
            writer.release()

        for name in VIDEO.findall(text):
            frames = [cv2.imread(str(path)) for path in sorted((self.base / "queries").glob("*.jpg"))]
            video = cv2.VideoWriter(str(self.folder / name), cv2.VideoWriter_fourcc(*"mp4v"), 5, (frames[0].shape[1], frames[0].shape[0]))
            for frame in frames:
                video.write(frame)
            video.release()

    def serve(self, arguments: list[str]) -> None:
        """A service stays until the page is done; the lines below it talk to it."""
        command = [sys.executable, "-u", "-m", "d2s", "serve", *arguments, *SMALLER["serve"]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.service = subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)
        assert self.service.stdout is not None
        first = self.service.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", first)
        assert found, first + self.service.stdout.read()
        self.url = found[0]

    def other(self, line: str) -> None:
        """Programs that are not ours."""
        program = shlex.split(line)[0]
        assert program == "curl", f"no way to run {line!r}: add one here, or a reason to NOT_RUN"
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        line = re.sub(r"http://127\.0\.0\.1:8765", self.url, line)
        command = [*shlex.split(line), "--silent", "--fail-with-body"]
        answer = subprocess.run(command, cwd=self.folder, text=True, capture_output=True, timeout=120, check=False)
        if answer.returncode or not answer.stdout.startswith("{"):
            self.leave()
            pytest.fail(f"{answer.stdout}{answer.stderr}\n{self.log}")

    def program(self, text: str) -> None:
        """A block in Python."""
        self.ran.append(text)
        self.pictures(text)
        self.videos(text)
        exec(compile(text, "a page", "exec"), {"__name__": "a page"})

    def leave(self) -> None:
        """End what was started."""
        if self.service is not None:
            self.service.send_signal(signal.SIGTERM)
            self.log = self.service.communicate(timeout=60)[0]
            self.service = None


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory) -> Path:
    """What pages speak of: photos, a COLMAP model, a nerfstudio capture, a run of the demo."""
    folder = tmp_path_factory.mktemp("reader")
    images = tiny.folder / "images"
    photos = sorted((images / "mapping").glob("*.jpg"))
    shutil.copytree(images / "query", folder / "queries")
    for name in ("FOLDER", "FOLDER_OF_PHOTOS", "PHOTOS", "my_photos", "PHOTOS_OR_VIDEO"):
        shutil.copytree(images / "mapping", folder / name)
    listed = "".join(f"{path.parent.name}/{path.name}\n" for path in photos[::6])
    (folder / "queries.txt").write_text(listed)
    where = ["--dataset", "demo", "--scene", "gallery", "--data_dir", str(tiny.data_dir)]
    for scene in ("PLACE", "hall"):
        target = folder / "DATASET_DIR" / "colmap" / scene
        shutil.copytree(images, target / "images")
        assert main(["export", "--format", "colmap", *where, "--out", str(target / "sparse" / "0")]) == 0
    for scene in ("PLACE", "fox"):
        target = folder / "DATASET_DIR" / "nerfstudio" / scene
        assert main(["export", "--format", "nerfstudio", *where, "--out", str(target)]) == 0
        shutil.copytree(images, target / "images")
        transforms = (target / "transforms.json").read_text()
        (target / "transforms.json").write_text(re.sub(r'"[^"]*/images/', '"images/', transforms))
    train = ["--log_dir", str(folder / "logs"), "--name", "demo", *SMALLER["train"]]
    assert main(["train", *where, *train]) == 0
    return folder


@pytest.fixture
def reader(base, tmp_path, monkeypatch) -> Iterator[Reader]:
    """A reader in a fresh copy of the folder."""
    folder = tmp_path / "here"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("queries"))
    monkeypatch.chdir(folder)
    reader = Reader(folder, base)
    yield reader
    reader.leave()


def to_run(page: Path) -> bool:
    return any(block.language == "python" or any(reason(line) is None for line in block.lines) for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)], ids=lambda page: page.name)
def test_what_a_page_says_can_be_done(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        if block.language == "python":
            reader.program(block.text)
        for line in block.lines:
            try:
                reader.do(line)
            except SystemExit as error:
                pytest.fail(f"{page.name}: {line}: exit code {error.code}")
    assert reader.ran


def test_every_reason_is_needed() -> None:
    lines = [line for _, line in WRITTEN]
    assert not [pattern for pattern in NOT_RUN if not any(re.search(pattern, line) for line in lines)]
