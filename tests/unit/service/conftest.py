"""A service in a thread, around a localizer that does as it is told."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from d2s.errors import InputError
from d2s.localization.cameras import CameraChooser
from d2s.localization.result import LocalizationResult
from d2s.regressor.base import ModelInfo

CAMERA = "SIMPLE_PINHOLE 160 120 130 80 60"
BOUNDARY = "e7f1a2"


def image_bytes(width=160, height=120, format="JPEG", **options) -> bytes:
    """A picture that compresses badly."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def model_folder(folder: Path, **info: Any) -> Path:
    """What the service reads of a model before it is loaded."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    described = {
        "dataset": "made",
        "scene": folder.name,
        "units": "metres",
        "num_keypoints": 10,
        "features": {"name": "made"},
        "bounds": [[0, 0, 0], [1, 2, 3]],
        "cameras": [CAMERA],
    }
    (folder / "model.json").write_text(json.dumps({"format_version": 2, "info": described | info}))
    return folder


@dataclass
class MadeLocalizer:
    """Notes what it is given; waits while `hold` is set; raises `error`."""

    info: ModelInfo
    seen: list[Any] = field(default_factory=list)
    priors: list[Any] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    pose: np.ndarray = field(default_factory=lambda: np.eye(3, 4))
    error: Exception | None = None
    result: dict[str, Any] = field(default_factory=dict)
    has_landmarks: bool = True

    def __post_init__(self) -> None:
        self.go.set()
        self.cameras = CameraChooser(None, (CAMERA,))

    def prepare(self) -> None:
        pass

    def landmarks(self) -> None:
        if not self.has_landmarks:
            raise InputError("This model has no landmarks.")

    def localize(self, image, camera, prior=None, turns=0) -> LocalizationResult:
        self.seen.append((image, camera))
        self.priors.append(prior)
        assert self.go.wait(120)
        if self.error is not None:
            raise self.error
        points, mask = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([True, True, False, True])
        ms = {"features": 1.0, "regressor": 2.0, "pnp": 3.0, "total": 6.0}
        reliability = np.linspace(0.1, 1, 4, dtype=np.float32)
        result = LocalizationResult(True, self.pose, "", ms, points[:, :2], points, reliability, mask | True, mask)
        return replace(result, **self.result)


class Client:
    """Requests to the service, on connections of their own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers=headers)

    def localize(self, image: bytes | None, scene: str = "hall", headers: dict[str, str] | None = None, **fields: str) -> Answer:
        body = form(image, **fields)
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.request("POST", f"/scenes/{scene}/localize", body, {**kind, **(headers or {})})

    def metric(self, line: str) -> float:
        """The value of one sample; 0 where it was never counted."""
        for row in self.get("/metrics").body.decode().splitlines():
            if row.startswith(line + " "):
                return float(row.rpartition(" ")[2])
        return 0.0

    @contextmanager
    def raw(self, data: bytes):
        """A connection on which `data` was sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            yield connection


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert set(self.json) == {"error"}
        return self.json["error"]


def form(image: bytes | None, /, filename: str = "photo.jpg", **fields: str) -> bytes:
    """A multipart body."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()]
    if image is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{filename}"\r\n\r\n'
        parts.append(head.encode() + image + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def wait_until(true) -> None:
    """Until a condition holds; a machine that is busy with other things may take its time."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def made_localizer(features: str = "made") -> MadeLocalizer:
    return MadeLocalizer(ModelInfo("made", "hall", "metres", {"name": features}, 10))


@pytest.fixture
def localizer() -> MadeLocalizer:
    return made_localizer()


@pytest.fixture
def start(tmp_path, localizer):
    """Starts a service with one scene, `hall`; limits and keys may be given. Returns a client."""
    with services(tmp_path, localizer) as begin:
        yield begin


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """A client of one service for many tests, and its localizer."""
    localizer = made_localizer()
    with services(tmp_path_factory.mktemp("steady"), localizer) as begin:
        yield begin(), localizer


@contextmanager
def services(tmp_path, localizer):
    """A function that starts services; they end with the block."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("python_multipart")
    from d2s.service.server import bind, make_server
    from d2s.service.settings import Limits, ServiceSettings

    running = []

    def begin(keys=(), scenes=None, load=None, **limits) -> Client:
        scenes = scenes or {"hall": model_folder(tmp_path / "hall")}
        server = make_server(ServiceSettings(scenes, Limits(**limits), keys), load or (lambda path: localizer))
        listener = bind("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],))
        running.append((server, thread))
        client = Client(listener.getsockname()[1])
        thread.start()
        wait_until(lambda: server.started)
        client.server = server
        return client

    yield begin
    localizer.go.set()
    for server, thread in running:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
