"""Curves in a real Visdom server; training goes on when it goes away."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("visdom") is None, reason="visdom is not installed")

# `python -m visdom.server` downloads the scripts of its page first; what we test is the rest of it.
SERVER = "from visdom.server.run_server import start_server; start_server({port}, '127.0.0.1', '', {folder!r}, bind_local=True)"
STEPS = ["--set", "training.max_minutes=0", "--set", "logging.print_freq=2"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port, endpoint, question):
    with urllib.request.urlopen(f"http://localhost:{port}/{endpoint}", data=json.dumps(question).encode(), timeout=5) as answer:
        return json.load(answer)


@pytest.fixture
def server(tmp_path):
    """Port and process of a Visdom server."""
    port = free_port()
    folder = tmp_path / "visdom"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(port=port, folder=str(folder))],
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(100):
        try:
            ask(port, "env_state", {})
            break
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the Visdom server did not start"
            time.sleep(0.2)
    yield port, process
    process.kill()
    process.wait()


def curve(port, run, window, trace):
    """Steps of one curve."""
    data = ask(port, "win_data", {"win": window, "eid": run})["content"]["data"]
    return next(list(t["x"]) for t in data if t["name"] == trace)


def test_curves_arrive_and_start_anew_with_the_run(tiny, tmp_path, server):
    port, _ = server
    command = ["train", *tiny.scene(tmp_path, "curves"), *STEPS, "--visdom", "on", "--visdom_port", port, "--set", "training.n_iters=8"]
    for again in ([], ["--resume", "never"]):
        output = tiny.d2s(*command, *again)
        assert "isdom" not in output
        assert "session" not in output
        for window, trace in (("loss_win", "train_loss"), ("3dmap_loss", "3dmap_loss"), ("uncer_loss", "uncer_loss"), ("lr_win", "lr")):
            assert curve(port, "curves", window, trace) == [1, 2, 4, 6, 8]
        assert curve(port, "curves", "val_recall", "recall") == [0, 7, 8]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_training_goes_on_when_the_server_goes_away(tiny, tmp_path, server, blow):
    port, process = server
    train = tiny.start(
        *("train", *tiny.scene(tmp_path, "alone"), *STEPS, "--visdom", "on", "--visdom_port", port, "--set", "training.n_iters=42"),
    )
    metrics = tmp_path / "alone" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 4):
        assert train.poll() is None, train.communicate()[0]
        time.sleep(0.02)
    process.send_signal(blow)
    output = train.communicate()[0]
    assert train.returncode == 0, output
    assert output.count("isdom") == 1, output
    assert "Visdom is gone" in output
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"step"' in line]
    assert steps[-1] == 42


@pytest.mark.parametrize("answers", [False, True], ids=["nobody", "somebody else"])
def test_without_a_visdom_server_on_is_an_error_and_auto_goes_on(tiny, tmp_path, answers):
    port = free_port()
    other = subprocess.Popen([sys.executable, "-m", "http.server", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL) if answers else None
    try:
        time.sleep(1.0 if answers else 0)
        process = tiny.start("train", *tiny.scene(tmp_path, "on"), "--visdom", "on", "--visdom_port", port)
        output = process.communicate()[0]
        assert process.returncode == 2
        assert output.count("\n") == 1
        assert f"No Visdom server answers at http://localhost:{port}" in output
        assert not (tmp_path / "on").exists()
        output = tiny.d2s("train", *tiny.scene(tmp_path, "auto"), *STEPS, "--visdom_port", port, "--set", "training.n_iters=2")
        assert "Visdom: not used" in output
    finally:
        if other is not None:
            other.kill()
            other.wait()
