"""The parts of the service without HTTP: scenes in memory, the worker, metrics, settings, the command."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from d2s.cli import main
from d2s.errors import FormatError, InputError, MissingFileError
from d2s.features.base import LocalFeatures
from d2s.geometry.camera import parse_camera
from d2s.localization.localizer import Localizer
from d2s.regressor.base import ModelInfo
from d2s.service.catalogue import Catalogue, describe
from d2s.service.compute import answer
from d2s.service.metrics import Board, Metrics, render
from d2s.service.refusal import Refused
from d2s.service.server import bind, first_silent, start_process
from d2s.service.settings import ServiceSettings, parse_scenes, read_keys
from d2s.service.uploads import camera_for, check_header, decode
from d2s.service.worker import Worker

from .conftest import image_bytes, made_localizer, model_folder, wait_until


def places(tmp_path, *names):
    return {name: model_folder(tmp_path / name) for name in names}


def test_the_scene_that_was_not_asked_for_the_longest_leaves(tmp_path):
    loads = []
    catalogue = Catalogue(places(tmp_path, "a", "b", "c"), 2, lambda path: loads.append(path.name) or made_localizer(path.name))
    for name in ("a", "b", "a", "c", "a", "b"):
        catalogue.localizer(name)
        assert len(catalogue.loaded) <= 2 and catalogue.loaded[-1] == name
    assert loads == ["a", "b", "c", "b"] and catalogue.loads == 4


def test_scenes_with_the_same_features_share_the_network(tmp_path):
    made = []

    class Regressor:
        def __init__(self, info):
            self.info = info

        def predict(self, features: LocalFeatures):
            raise AssertionError

    class Counted(Localizer):
        @property
        def extractor(self):
            if self._extractor is None:
                self._extractor = object()
                made.append(1)
            return self._extractor

    def load(path):
        return Counted(Regressor(ModelInfo("made", path.name, "metres", {"name": "other" if path.name == "c" else "made"}, 10)))

    catalogue = Catalogue(places(tmp_path, "a", "b", "c"), 3, load)
    a, b, c = (catalogue.localizer(name) for name in "abc")
    assert a.extractor is b.extractor and c.extractor is not a.extractor and len(made) == 2
    assert (a.info.scene, b.info.scene) == ("a", "b")


def test_a_wrong_folder_is_said_at_the_start(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        describe("hall", tmp_path / "nowhere")
    folder = model_folder(tmp_path / "hall")
    assert describe("hall", folder / "model.safetensors").info["scene"] == "hall"
    for damaged in ("[]", "{}", '{"info": {}}', '{"info": {"cameras": [3]}}', "{"):
        (folder / "model.json").write_text(damaged)
        with pytest.raises(FormatError):
            describe("hall", folder)


def test_preloading_goes_on_after_a_scene_that_cannot_be_read(tmp_path, localizer, caplog):
    def load(path):
        if path.name == "a":
            raise MissingFileError("gone")
        return localizer

    catalogue = Catalogue(places(tmp_path, "a", "b", "c"), 2, load)
    catalogue.preload()
    assert catalogue.loaded == ("b",) and "gone" in caplog.text


def test_the_worker_does_one_thing_after_another():
    worker, go, order = Worker(2), threading.Event(), []
    futures = [worker.submit(lambda: go.wait(5))]
    wait_until(lambda: worker.busy_seconds > 0)
    futures += [worker.submit(lambda i=i: order.append(i)) for i in range(2)]
    assert worker.waiting == 2
    with pytest.raises(Refused) as refused:
        worker.submit(lambda: None)
    assert refused.value.status == 503 and int(refused.value.headers["Retry-After"]) >= 1
    assert futures[1].cancel()
    worker.require_room()  # what was cancelled makes room
    go.set()
    futures[2].result(5)
    assert order == [1]
    wait_until(lambda: worker.waiting == 0)
    worker.close()
    with pytest.raises(Refused):
        worker.submit(lambda: None)
    worker.require_room()


def test_metrics_in_the_format_of_prometheus():
    metrics = Metrics()
    metrics.add("d2s_images_total", scene='a"\n\\', result="failed")
    metrics.observe("d2s_answer_seconds", 0.3, scene="a")
    metrics.observe("d2s_answer_seconds", 70, scene="a")
    text = render([metrics.snapshot(), {"d2s_processes": 1.0}, {"d2s_processes": 1.0}])
    lines = text.splitlines()
    assert r'd2s_images_total{scene="a\"\n\\",result="failed"} 1' in lines
    assert "# TYPE d2s_answer_seconds histogram" in lines and "d2s_processes 2" in lines and text.endswith("\n")
    counts = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("d2s_answer_seconds_bucket")]
    assert counts == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2]
    assert 'd2s_answer_seconds_count{scene="a"} 2' in lines and 'd2s_answer_seconds_sum{scene="a"} 70.299999999999997' in lines


def test_processes_add_up_and_the_counters_of_ended_ones_stay(tmp_path):
    board = Board(tmp_path)
    board.publish({"d2s_models_loaded": 3.0})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getppid()):
        (tmp_path / f"{pid}.json").write_text(json.dumps({"d2s_models_loaded": 1.0, 'd2s_images_total{scene="a"}': 5.0}))
    text = render([{"d2s_models_loaded": 4.0}, *board.others()])
    assert "d2s_models_loaded 5" in text and 'd2s_images_total{scene="a"} 10' in text


def test_a_connection_with_something_to_read_is_not_silent():
    pairs = [socket.socketpair() for _ in range(3)]
    connections = [SimpleNamespace(transport=SimpleNamespace(get_extra_info=lambda _, ours=ours: ours)) for ours, _ in pairs]
    assert first_silent(connections) is connections[0] and first_silent([]) is None
    pairs[0][1].sendall(b"G")
    pairs[1][1].close()  # the end of a connection is something to read, too
    assert first_silent(connections) is connections[2]
    assert first_silent(connections[:2]) is None
    for one in (pairs[0][0], pairs[0][1], pairs[1][0], *pairs[2]):
        one.close()


def test_names_of_scenes():
    assert list(parse_scenes(["a=x", "b.c-d=y=z"])) == ["a", "b.c-d"]
    for wrong in (["a"], ["=x"], ["a="], ["a/b=x"], ["a b=x"], ["a=x", "a=y"], ["-a=x"], ["a" * 65 + "=x"]):
        with pytest.raises(InputError, match="--model"):
            parse_scenes(wrong)


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the robot\nfirst key\n\n second key \n")
    assert read_keys(path, " of the environment\n") == ("of the environment", "first key", "second key")
    assert read_keys(None, None) == read_keys(None, "  ") == ()
    path.write_text("# none\n")
    with pytest.raises(InputError, match="no key"):
        read_keys(path, None)
    with pytest.raises(InputError, match="cannot be read"):
        read_keys(tmp_path, None)
    for weak in ("short", "kéy of some length"):
        with pytest.raises(InputError, match="8 printable") as error:
            read_keys(None, weak)
        assert weak not in str(error.value)


def test_the_header_is_checked_against_the_limit():
    assert check_header(image_bytes(), 160 * 120) == (160, 120)
    with pytest.raises(Refused, match="160x120") as refused:
        check_header(image_bytes(), 160 * 120 - 1)
    assert refused.value.status == 413


KINDS = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("L", "RGB", "RGBA", "I;16", "P", "1", "LA"), "WEBP": ("RGB", "RGBA")}


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format, modes in KINDS.items() for mode in modes])
def test_pictures_of_all_kinds(format, mode):
    buffer = io.BytesIO()
    Image.new(mode, (5, 6)).save(buffer, format)
    size = check_header(buffer.getvalue(), 100)
    assert size == (5, 6) and decode(buffer.getvalue(), size).shape == (6, 5, 3)


def test_a_picture_that_is_not_what_its_header_says():
    with pytest.raises(Refused, match="header says 10x10"):
        decode(image_bytes(), (10, 10))


def test_which_camera_is_taken():
    other = "SIMPLE_PINHOLE 160 120 140 80 60"
    assert camera_for((160, 120), other).params[0] == 140
    assert camera_for((160, 120), None) is None and camera_for((160, 120), " ") is None  # the mapping images' one, or estimated
    with pytest.raises(Refused, match="for 160x120"):
        camera_for((320, 240), other)


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "THIN_PRISM_FISHEYE", "FOV"])
def test_cameras_that_are_let_in_do_no_harm(place_localizer, model):
    """Parameters at the edge of what is taken: a pose or none, never an exception, and soon."""
    count = {"SIMPLE_RADIAL": 4, "OPENCV": 8, "FULL_OPENCV": 12, "OPENCV_FISHEYE": 8, "THIN_PRISM_FISHEYE": 12, "FOV": 5}[model]
    for extreme in (1e6, -1e6, 1.0, 1e-12, -3.0):
        text = f"{model} 160 120 " + " ".join(["130"] * (1 if count == 4 else 2) + ["80", "60"] + [str(extreme)] * 12)
        text = " ".join(text.split()[: 3 + count])
        camera = camera_for((160, 120), text)
        json.dumps(answer("x", place_localizer.localize(np.zeros((120, 160, 3), np.uint8), camera), True), allow_nan=False)


@pytest.fixture
def place_localizer():
    """A localizer with right and wrong points."""
    random = np.random.default_rng(0)
    pixels = random.uniform([0, 0], [159, 119], (200, 2)).astype(np.float32)
    rays = np.column_stack([(pixels - [79.5, 59.5]) / 130, np.ones(200)])
    xyz = (rays * random.uniform(2, 8, (200, 1))).astype(np.float32)

    class Extractor:
        def extract(self, images):
            return [LocalFeatures(pixels, np.ones(200, np.float32), np.zeros((200, 4), np.float32), (160, 120))]

    class Regressor:
        info = ModelInfo("made", "hall", "metres", {"name": "made"}, 200)

        def predict(self, features):
            return xyz, np.full(200, 0.9, np.float32)

    localizer = Localizer(Regressor(), extractor=Extractor())
    assert localizer.localize(np.zeros((120, 160, 3), np.uint8), parse_camera("SIMPLE_PINHOLE 160 120 130 80 60")).success
    return localizer


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "hall"], "NAME=DIR"),
        (["--model", "hall=/nowhere"], "/nowhere"),
        (["--port", "99999"], "--port"),
        (["--queue", "0"], "--queue"),
        (["--max_body_mb", "nan"], "--max_body_mb"),
        (["--api_key_file", "/nowhere"], "--api_key_file"),
        (["--host", "192.0.2.1"], "--host"),
    ],
)
def test_wrong_options_are_said_in_one_line(tmp_path, capsys, options, words):
    model = [] if options[0] == "--model" else ["--model", f"hall={model_folder(tmp_path / 'hall')}"]
    assert main(["serve", *model, "--cudaid", "-1", "--port", "0", *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_port_that_is_taken_is_said(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", f"hall={model_folder(tmp_path / 'hall')}", "--cudaid", "-1", "--port", port]) == 2
    assert port in capsys.readouterr().err


def test_without_its_packages_the_command_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("d2s.service.server.PACKAGES", {"no_such_module": "no-such-package"})
    assert main(["serve", "--model", f"hall={model_folder(tmp_path / 'hall')}"]) == 2
    assert "no-such-package" in capsys.readouterr().err


def test_further_processes_are_prepared_as_the_first_one():
    with bind("127.0.0.1", 0) as listener:
        process = start_process(ServiceSettings({}), listener, 2, partial(sys.exit, 7))
        process.join(60)
    assert process.exitcode == 7
