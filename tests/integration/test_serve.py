"""`d2s serve` as a process of its own: a real model, signals, several worker processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.config import load_recipe
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import save_model
from d2s.regressor.network import D2SNet

ROOT = Path(__file__).resolve().parents[2]
CAMERA = "SIMPLE_PINHOLE 320 240 260 160 120"
SIFT = {"name": "sift", "num_keypoints": 500, "max_side": 1600, "contrast_threshold": 0.004, "edge_threshold": 10.0}

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fastapi", "uvicorn", "python_multipart")),
    reason="the packages of d2s serve are not installed",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A network that has learnt nothing: every step of localizing runs, and no pose comes out."""
    folder = tmp_path_factory.mktemp("serve") / "model"
    network = D2SNet(load_recipe(None, (), {"model.model": 1, "model.width": 32, "model.heads": 2, "model.head_widths": (32,)}).model, 128)
    save_model(folder, network, ModelInfo("made", "hall", "metres", SIFT, 500, cameras=(CAMERA,)))
    return folder


class Process:
    """A running service."""

    def __init__(self, *options: object) -> None:
        command = [sys.executable, "-m", "d2s", "serve", "--port", "0", "--cudaid", "-1", *map(str, options)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[str] = []
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r":(\d+)/", first)
        assert found, first + self.process.stdout.read()
        self.port = int(found[1])
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout or ()))
        self._reader.start()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.ask("GET", path)

    def localize(self, image: bytes) -> tuple[int, bytes]:
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
        return self.ask("POST", "/scenes/hall/localize", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    def workers(self) -> list[int]:
        """Process ids of the worker processes."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(60)
        return code


@pytest.fixture
def serve(model):
    """Starts a service; it is gone after the test."""
    started = []

    def begin(*options: object) -> Process:
        started.append(Process("--model", f"hall={model}", *options))
        return started[-1]

    yield begin
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def picture() -> bytes:
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_what_is_under_way_is_finished_when_the_service_is_ended(serve):
    service = serve("--queue", "4")
    status, body = service.localize(picture())
    value = json.loads(body)
    assert status == 200 and value["extracted"] > 100 and not value["success"] and value["reason"]
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(service.localize(picture())[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 90
    while b'"waiting":3' not in service.get("/healthz")[1] and not answers:
        assert time.monotonic() < end
    assert service.end() == 0
    for thread in threads:
        thread.join(60)
    assert answers == [200] * 4
    with pytest.raises(ConnectionError):
        service.get("/healthz")
    lines = [json.loads(line) for line in service.lines]  # nothing but the access log: no traceback
    assert sum(line["path"] == "/scenes/hall/localize" and line["status"] == 200 for line in lines) == 5


def test_an_idle_service_ends_at_once(serve):
    service = serve("--preload")
    assert service.get("/healthz")[0] == 200
    begun = time.monotonic()
    assert service.end(signal.SIGINT) == 0 and time.monotonic() - begun < 50  # it would wait for a minute


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_worker_processes_share_the_work_and_are_replaced(serve):
    service = serve("--workers", "2")
    seen, end = b"", time.monotonic() + 180
    while b"d2s_processes 2" not in seen:
        assert time.monotonic() < end, seen
        seen = service.get("/metrics")[1]
        time.sleep(0.1)
    assert service.localize(picture())[0] == 200
    counts: list[int] = []  # whichever process answers: every one tells the others once a second
    while counts[-20:] != [1] * 20:
        assert time.monotonic() < end, counts
        counts.append(service.get("/metrics")[1].count(b'd2s_images_total{scene="hall",result="failed"} 1\n'))
        time.sleep(0.05)
    os.kill(service.workers()[0], signal.SIGKILL)
    while not any("starting another" in line for line in service.lines):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert service.localize(picture())[0] == 200  # by the one that is left, at the latest
    assert service.end() == 0 and not any("Traceback" in line for line in service.lines)
