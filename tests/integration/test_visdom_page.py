"""Visdom's page in a real browser: the windows are there, with their titles and what they show."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import metadata, util
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.version import Version

from d2s.cli import main
from d2s.training.validation_view import ValidationView
from d2s.training.visdom_windows import CURVES, KEYPOINTS_WINDOW, POINTS_WINDOW

pytestmark = pytest.mark.skipif(util.find_spec("visdom") is None, reason="visdom is not installed")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--window-size=1360,1200", "--remote-debugging-port=0", "--remote-allow-origins=*"),
)


@pytest.fixture
def page_files():
    """Skips, by name, where Visdom's page cannot be shown."""
    static = Path(util.find_spec("visdom").submodule_search_locations[0], "static")
    if not (static / "version.built").is_file():
        pytest.skip("the scripts of Visdom's page are missing: python scripts/visdom_page.py fetches them")
    if Version(metadata.version("tornado")) >= Version("6.6"):
        pytest.skip("Visdom's page needs tornado < 6.6")


@pytest.fixture
def server(tmp_path, page_files):
    """Port of a Visdom server, started as a user starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (tmp_path / "environments").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "visdom.server", "-port", str(port), "-env_path", str(tmp_path / "environments"), "-bind_local"],
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: answers(f"http://localhost:{port}"))
    yield port
    process.kill()
    process.wait()


class Browser:
    """Chromium with one page open, spoken to through its DevTools protocol."""

    def __init__(self, command: str, folder: Path, address: str) -> None:
        import websocket

        self.process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={folder}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        port_file = folder / "DevToolsActivePort"
        wait_for(lambda: port_file.is_file() and len(port_file.read_text().splitlines()) > 1)
        port = port_file.read_text().splitlines()[0]
        wait_for(lambda: self._targets(port))
        self._socket = websocket.create_connection(self._targets(port)[0], timeout=60)
        self._number = 0

    def _targets(self, port: str) -> list[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
            return [target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page"]

    def call(self, method: str, **parameters: object) -> dict:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv())).get("id") != self._number:
            pass
        return answer["result"]

    def value(self, expression: str) -> object:
        """What a JavaScript expression gives."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        return self.value(f"[...document.querySelectorAll({selector!r})].map(element => element.textContent.trim())")

    def close(self) -> None:
        self._socket.close()
        os.killpg(self.process.pid, signal.SIGKILL)  # the group that we started: the browser is several processes
        self.process.wait()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=60).close()
    except OSError:
        return False
    return True


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def write_run(folder: Path) -> None:
    """A run's metrics and its view of a validation image."""
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for number in range(1, 40):
            common = {"stage": 1, "epoch": number // 9, "step": number, "total_steps": number}
            losses = {"loss": 3 / number, "map": 2 / number, "reliability": 0.7 / number, "reprojection": 9 / number, "lr": 1e-3 / number}
            file.write(json.dumps({"kind": "step", **common, **losses}) + "\n")
            errors = {"median_t": 0.3 / number, "median_r_deg": 2 / number, "unit": "m", "recall": 0.8, "recall_name": "5 cm/5 deg"}
            file.write(json.dumps({"kind": "validation", **common, **errors}) + "\n")
    random = np.random.default_rng(1)
    picture = np.asarray(cv2.imencode(".jpg", random.integers(0, 255, (240, 320, 3), dtype=np.uint8))[1], np.uint8).ravel()
    ValidationView(
        "mapping/0001.jpg", "m", picture, random.normal(size=(60, 3)).astype(np.float32), np.arange(60) % 4 > 0,
        random.normal(size=(200, 3)).astype(np.float32), np.array([[0, 0, 1], [0, 0, 1.1]], np.float32), 60, 100,
    ).save(folder / "validation_view.npz")  # fmt: skip


def test_the_page_shows_all_windows(chromium, server, tmp_path):
    folder = tmp_path / "logs" / "room_7"
    write_run(folder)
    assert main(["watch", str(folder), "--port", str(server)]) == 0
    browser = Browser(chromium, tmp_path / "profile", f"http://localhost:{server}/env/room_7")
    try:
        titles = {window.title for window in CURVES}
        titles |= {f"{POINTS_WINDOW}: scene coordinates of mapping/0001.jpg", f"{KEYPOINTS_WINDOW}: keypoints of mapping/0001.jpg"}
        wait_for(lambda: titles <= set(browser.texts(".window .bar div.pull-right")))
        wait_for(lambda: len(browser.texts(".xtitle")) == len(CURVES))
        assert set(browser.texts(".xtitle")) == {"step"}
        assert {"distance [cm]", "% within 5 cm/5 deg", "learning rate", "loss"} == set(browser.texts(".ytitle"))
        assert browser.texts(".y2title") == ["angle [deg]"]
        assert {"train_loss", "3dmap_loss", "uncer_loss", "reprj_loss", "lr", "recall"} < set(browser.texts(".legendtext"))
        assert {"200 SfM points", "45 predicted, inliers", "15 predicted, others"} < set(browser.texts(".legendtext"))
        wait_for(lambda: browser.value("document.querySelector('img.content-image').naturalWidth") == 320)
        assert re.search("60 of 100 keypoints are reliable", browser.texts(".caption")[0])
        wait_for(lambda: browser.value("document.querySelectorAll('.gl-container canvas').length") >= 1)
        # Windows glide to their places when one before them grows (the picture, once it is loaded): the page is judged when they rest.
        wait_for(lambda: not overlapping(browser))
        assert len(window_boxes(browser)) == len(titles)
    finally:
        browser.close()


def window_boxes(browser: Browser) -> list[dict[str, float]]:
    """Sides of every window on the page, in pixels."""
    return browser.value("[...document.querySelectorAll('.react-grid-item')].map(e => e.getBoundingClientRect().toJSON())")


def overlapping(browser: Browser) -> list[tuple[dict[str, float], dict[str, float]]]:
    """The pairs of windows that hide parts of each other."""
    return [(a, b) for a, b in combinations(window_boxes(browser), 2) if overlap(a, b)]


def overlap(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether two boxes share more than their borders."""
    sides = (("left", "right"), ("top", "bottom"))
    return all(min(a[end], b[end]) - max(a[start], b[start]) > 2 for start, end in sides)
