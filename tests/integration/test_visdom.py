"""A training shown in a real Visdom server, and its page in a real browser; training goes on when the server goes away."""

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
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from d2s.cli import main
from d2s.commands import watch
from d2s.commands.validation_view import ViewWriter
from d2s.localization.result import LocalizationResult
from d2s.scene.manifest import Scene
from d2s.training import visdom_link, visdom_tracker
from d2s.training.visdom_link import VisdomLink
from d2s.training.visdom_tracker import VisdomTracker
from d2s.training.visdom_windows import KEYPOINTS_WINDOW, NAMES, POINTS_WINDOW, Windows

pytestmark = pytest.mark.skipif(util.find_spec("visdom") is None, reason="visdom is not installed")

# `python -m visdom.server` downloads the scripts of its page first, which these tests must not.
SERVER = "from visdom.server.run_server import start_server; start_server({port}, '127.0.0.1', '', {folder!r}, bind_local=True)"
STEPS = ["--set", "model.blocks=2", "--set", "training.max_minutes=0", "--set", "logging.print_freq=2"]
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port, endpoint, question):
    with urllib.request.urlopen(f"http://localhost:{port}/{endpoint}", data=json.dumps(question).encode(), timeout=60) as answer:
        return json.load(answer)


def start(port: int, env_path: Path, home: Path) -> subprocess.Popen[bytes]:
    """A Visdom server that answers."""
    env_path.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(port=port, folder=str(env_path))],
        env={**os.environ, "HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: answers(port, process))
    return process


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    try:
        ask(port, "env_state", {})
    except OSError:
        assert process.poll() is None, "the Visdom server did not start"
        return False
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A server that is slow on a busy machine is not gone (what is asked in this process; commands in processes of their own wait less)."""
    for module in (visdom_link, visdom_tracker):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 60.0)


@pytest.fixture
def server(tmp_path):
    """Port and process of a Visdom server."""
    port = free_port()
    process = start(port, tmp_path / "visdom", tmp_path)
    yield port, process
    stop(process)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """Port of a Visdom server that several tests share."""
    folder = tmp_path_factory.mktemp("visdom")
    port = free_port()
    process = start(port, folder / "environments", folder)
    yield port
    stop(process)


def windows(port: int, run: str) -> dict[str, dict]:
    if run not in ask(port, "env_state", {}):
        return {}
    return ask(port, "win_data", {"win": None, "eid": run})


def curve(port, run, window, trace):
    """Steps of one curve."""
    data = ask(port, "win_data", {"win": window, "eid": run})["content"]["data"]
    return next(list(t["x"]) for t in data if t["name"] == trace)


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def finished(run: Path) -> Path:
    """The run, whose first stage is finished."""
    (run / "state.json").write_text('{"finished_stages": [1]}')
    return run


def step(number: int) -> dict[str, object]:
    losses = {"loss": 3.0 / number, "map": 2.0 / number, "reliability": 0.7 / number, "reprojection": 0.3 / number, "lr": 1e-3 / number}
    return {"kind": "step", "stage": 1, "epoch": number // 9, "step": number, "total_steps": number, **losses}


def validation(number: int) -> dict[str, object]:
    values = {"median_t": 0.3 / number, "median_r_deg": 2.0 / number, "unit": "m", "recall": 0.8, "recall_name": "5 cm/5 deg"}
    return {"kind": "validation", "stage": 1, "epoch": number // 9, "step": number, "total_steps": number, **values}


RECORDS = [record for number in range(1, 100, 7) for record in (step(number), *([validation(number)] if number % 2 else []))]


def write_view(tiny, path: Path) -> None:
    """A view of a validation image of the demo, as a validation writes it."""
    scene = Scene.load(tiny.folder)
    image, random = scene.split("val")[0], np.random.default_rng(1)
    count, camera = 300, scene.camera(scene.split("val")[0])
    used = np.arange(count) % 3 > 0
    result = LocalizationResult(
        True, image.cam_from_world, "", {}, random.uniform(0, [camera.width, camera.height], (count, 2)).astype(np.float32),
        random.normal(size=(count, 3)).astype(np.float32), used.astype(np.float32), used, used & (np.arange(count) % 2 > 0),
    )  # fmt: skip
    ViewWriter(path, scene, random.normal(size=(5000, 3)).astype(np.float32))(image, result)


@pytest.fixture
def run_folder(tiny, tmp_path) -> Path:
    """What a training leaves that d2s watch reads."""
    folder = tmp_path / "logs" / "a_run"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    write_view(tiny, folder / "validation_view.npz")
    return folder


def contents(port: int, run: str) -> dict[str, object]:
    """What the windows show, without what the server draws by lot."""
    return {name: (window["title"], window["content"]) for name, window in windows(port, run).items()}


def test_curves_arrive_and_start_anew_with_the_run(tiny, tmp_path, server):
    port, _ = server
    command = ["train", *tiny.scene(tmp_path, "curves"), *STEPS, "--visdom", "on", "--visdom_port", port, "--set", "training.n_iters=8"]
    for again in ([], ["--resume", "never"]):
        output = tiny.d2s(*command, *again)
        assert "Visdom is gone" not in output
        assert "session" not in output
        for window, trace in (("loss_win", "train_loss"), ("3dmap_loss", "3dmap_loss"), ("uncer_loss", "uncer_loss"), ("lr_win", "lr")):
            assert curve(port, "curves", window, trace) == [1, 2, 4, 6, 8]
        assert curve(port, "curves", "val_recall", "recall") == [0, 7, 8]
    live = contents(port, "curves")
    assert {POINTS_WINDOW, KEYPOINTS_WINDOW} < set(live)
    assert tiny.d2s("watch", tmp_path / "curves", "--port", port, "--env", "replayed").count("\n") >= 1
    assert contents(port, "replayed") == live


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
    assert output.count("Visdom is gone") == 1, output
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"step"' in line]
    assert steps[-1] == 42


@pytest.mark.parametrize("answers", [False, True], ids=["nobody", "somebody else"])
def test_without_a_visdom_server_on_is_an_error_and_auto_goes_on(tiny, tmp_path, answers):
    port = free_port()
    other = subprocess.Popen([sys.executable, "-m", "http.server", str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL) if answers else None
    try:
        if answers:
            wait_for(lambda: listens(port))
        process = tiny.start("train", *tiny.scene(tmp_path, "on"), "--visdom", "on", "--visdom_port", port)
        output = process.communicate()[0]
        assert process.returncode == 2
        assert output.count("\n") == 1
        assert f"No Visdom server answers at http://localhost:{port}" in output
        assert f"python -m visdom.server -port {port}" in output
        assert not (tmp_path / "on").exists()
        output = tiny.d2s("train", *tiny.scene(tmp_path, "auto"), *STEPS, "--visdom_port", port, "--set", "training.n_iters=2")
        assert "Visdom: not used" in output
    finally:
        if other is not None:
            other.kill()
            other.wait()


def test_a_server_that_comes_back_with_nothing_gets_everything(tmp_path, monkeypatch, caplog, run_folder):
    monkeypatch.setattr(visdom_link, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(visdom_tracker, "SEND_SECONDS", 0.1)
    caplog.set_level("INFO")
    port, half = free_port(), len(RECORDS) // 2
    process = start(port, tmp_path / "first", tmp_path)
    tracker = VisdomTracker("again", "http://localhost", port, run_folder / "validation_view.npz")
    tracker.begin(RECORDS[:3])
    for record in RECORDS[3:half]:
        tracker.log(record)
    wait_for(lambda: KEYPOINTS_WINDOW in windows(port, "again"))
    stop(process)
    for record in RECORDS[half:-1]:
        tracker.log(record)
    wait_for(lambda: "Visdom is gone" in caplog.text)
    process = start(port, tmp_path / "second", tmp_path)  # without the environments of the first
    try:
        wait_for(lambda: "Visdom is back" in caplog.text)
        tracker.log(RECORDS[-1])
        tracker.close()
        assert curve(port, "again", "loss_win", "train_loss") == [record["total_steps"] for record in RECORDS if record["kind"] == "step"]
        assert set(windows(port, "again")) == set(NAMES)
        assert caplog.text.count("Visdom is gone") == caplog.text.count("Visdom is back") == 1
        assert (tmp_path / "second" / "again.json").is_file()
    finally:
        stop(process)


def test_a_server_that_was_started_anew_between_two_rounds_gets_everything(tmp_path):
    port, shown = free_port(), Windows()
    for record in RECORDS:
        shown.add(record)
    process = start(port, tmp_path / "first", tmp_path)
    link = VisdomLink("anew", "http://localhost", port)
    assert link.send(shown)
    first = contents(port, "anew")
    stop(process)
    process = start(port, tmp_path / "second", tmp_path)
    try:
        wait_for(lambda: link.send(shown, now=True))  # nothing has changed since the first time
        assert contents(port, "anew") == first
    finally:
        stop(process)


def test_files_are_written_by_the_server_and_where_it_was_told(tmp_path, monkeypatch, run_folder):
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(), work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    before = sorted(run_folder.rglob("*"))
    port = free_port()
    process = start(port, tmp_path / "environments", home)
    try:
        assert main(["watch", str(run_folder), "--port", str(port)]) == 0
        saved = json.loads((tmp_path / "environments" / "a_run.json").read_text())
        assert set(saved["jsons"]) == set(NAMES)
        assert not [path for folder in (home, work) for path in folder.rglob("*")]
        assert sorted(run_folder.rglob("*")) == before
    finally:
        stop(process)


def test_windows_of_an_earlier_run_of_the_name_do_not_stay(run_folder, lasting):
    assert main(["watch", str(run_folder), "--port", str(lasting), "--env", "twice"]) == 0
    assert "reprj_loss" in windows(lasting, "twice")
    kept = [{key: value for key, value in record.items() if key != "reprojection"} for record in RECORDS[:4]]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    (run_folder / "validation_view.npz").unlink()
    assert main(["watch", str(run_folder), "--port", str(lasting), "--env", "twice"]) == 0
    assert set(windows(lasting, "twice")) == set(NAMES) - {"reprj_loss", POINTS_WINDOW, KEYPOINTS_WINDOW}


def test_following_goes_on_until_the_run_is_finished(tiny, run_folder, lasting):
    metrics = run_folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:4]))
    (run_folder / "state.json").write_text('{"finished_stages": []}')
    process = tiny.start("watch", run_folder, "--port", lasting, "--env", "followed", "--follow")

    def steps() -> list[int]:
        return curve(lasting, "followed", "loss_win", "train_loss") if "loss_win" in windows(lasting, "followed") else []

    try:
        wait_for(lambda: len(steps()) > 1)
        with metrics.open("a") as file:
            file.write("".join(lines[4:]))
        wait_for(lambda: steps()[-1] == 99)
        new = metrics.with_name("new")  # a run that was killed and resumed after its 7th step
        new.write_text("".join(lines[:2]) + json.dumps({**step(8), "loss": 0.1}) + "\n")
        new.replace(metrics)
        wait_for(lambda: steps()[-1] == 8)
        assert steps() == [1, 8]
        assert process.poll() is None
        (run_folder / "state.json").write_text('{"finished_stages": [1]}')
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda run: run / "nowhere", "does not exist"),
        (lambda run: (run / "metrics.jsonl").write_text("") or run, "has no records yet"),
        (lambda run: (run / "metrics.jsonl").write_text("") or finished(run), "Nothing was trained, and there were no validation images"),
        (lambda run: run, "No Visdom server answers"),
    ],
    ids=["no run", "no records", "nothing trained", "no server"],
)
def test_watch_says_in_one_line_what_is_missing(run_folder, capsys, broken, says):
    port = free_port()
    assert main(["watch", str(broken(run_folder)), "--port", str(port)]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert (printed.out + printed.err).count("\n") == 1
    if says.startswith("No Visdom"):
        assert f"http://localhost:{port} (Connection refused). Start one: python -m visdom.server -port {port}." in printed.err


def test_a_recipe_that_trains_nothing_shows_its_validation_and_no_empty_window(tiny, tmp_path, lasting):
    output = tiny.d2s("train", *tiny.scene(tmp_path, "untrained"), "--visdom", "on", "--visdom_port", lasting)
    assert "session" not in output and "Visdom is gone" not in output
    live = contents(lasting, "untrained")
    assert set(live) == {"val_error", "val_recall", POINTS_WINDOW, KEYPOINTS_WINDOW}
    assert [curve(lasting, "untrained", "val_error", trace) for trace in ("median_t", "median_r_deg")] == [[0], [0]]
    assert curve(lasting, "untrained", "val_recall", "recall") == [0]
    for follow in ([], ["--follow"]):
        tiny.d2s("watch", tmp_path / "untrained", "--port", lasting, "--env", "replayed", *follow)
        assert contents(lasting, "replayed") == live


def test_following_a_run_that_has_nothing_to_show_ends_when_it_is_finished(run_folder, lasting, monkeypatch):
    (run_folder / "metrics.jsonl").write_text("")
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        assert len(pauses) < 3, "it goes on"
        finished(run_folder)

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=pause))
    assert main(["watch", str(run_folder), "--port", str(lasting), "--follow"]) == 0
    assert len(pauses) == 1


def test_watching_costs_little(lasting):
    """Of processor time, with a record every 5 ms: far more than any training writes."""
    tracker = VisdomTracker("busy", "http://localhost", lasting)
    tracker.begin()
    spent, began = 0.0, time.monotonic()
    for number in range(1, 1500):
        before = time.thread_time()
        tracker.log(step(number))
        spent += time.thread_time() - before
        time.sleep(0.005)
    elapsed = time.monotonic() - began
    sending = tracker.cpu_seconds
    tracker.close()
    assert curve(lasting, "busy", "lr_win", "lr")[-1] == 1499
    assert (spent + sending) / elapsed < 0.02


WATCHED = re.findall(r"^d2s (watch .*?)(?:  #.*)?$", (ROOT / "docs" / "watching.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("line", WATCHED)
def test_the_commands_of_the_page_on_watching(run_folder, lasting, line):
    (run_folder / "state.json").write_text('{"finished_stages": [1]}')
    words = line.replace("logs/demo", str(run_folder)).replace("http://gpu-box", "http://localhost").replace("8097", str(lasting)).split()
    assert main([*words, *([] if "--port" in words else ["--port", str(lasting)])]) == 0
    assert set(windows(lasting, words[words.index("--env") + 1] if "--env" in words else "a_run")) == set(NAMES)


def test_the_page_on_watching_has_commands():
    assert len(WATCHED) == 3


def test_a_server_with_a_login(tmp_path, monkeypatch, capsys, run_folder):
    (tmp_path / ".visdom").mkdir()
    (tmp_path / ".visdom" / "COOKIE_SECRET").write_text("a secret")
    port = free_port()
    secret = "user_credential={'username': 'ada', 'password': hash_password(hash_password('room 7'))}"
    code = SERVER.format(port=port, folder=str(tmp_path / ".visdom")).removesuffix(")") + f", {secret})"
    code = f"from visdom.utils.server_utils import hash_password; {code}"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "HOME": str(tmp_path)}, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port))
        assert main(["watch", str(run_folder), "--port", str(port)]) == 2
        assert "VISDOM_USERNAME and VISDOM_PASSWORD" in capsys.readouterr().err
        monkeypatch.setenv("VISDOM_USERNAME", "ada")
        monkeypatch.setenv("VISDOM_PASSWORD", "room 6")
        assert main(["watch", str(run_folder), "--port", str(port)]) == 2
        monkeypatch.setenv("VISDOM_PASSWORD", "room 7")
        assert main(["watch", str(run_folder), "--port", str(port)]) == 0
        assert set(json.loads((tmp_path / ".visdom" / "a_run.json").read_text())["jsons"]) == set(NAMES)
    finally:
        stop(process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
