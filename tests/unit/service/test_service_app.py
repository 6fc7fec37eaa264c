"""The HTTP interface: answers, and refusals for whatever a client sends wrong."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from d2s.errors import MissingFileError
from d2s.service import server
from d2s.service.settings import Limits

from .conftest import BOUNDARY, CAMERA, form, image_bytes, model_folder, wait_until

KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def test_an_image_gets_its_pose(start, localizer):
    client = start()
    localizer.pose = np.column_stack([np.eye(3), [1.0, 2.0, 3.0]])
    answer = client.localize(image_bytes(format="PNG"), camera="SIMPLE_PINHOLE 160 120 100 80 60")
    assert answer.status == 200
    value = answer.json
    assert value["success"] and value["image"] == "photo.jpg" and value["center"] == [-1.0, -2.0, -3.0]
    assert (value["inliers"], value["kept"], value["extracted"]) == (3, 4, 4) and "points" not in value
    image, camera = localizer.seen[0]
    np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(image_bytes(format="PNG")))))
    assert camera.params[0] == 100


def test_the_camera_may_be_left_out(start, localizer):
    client = start()
    for size, focal in (((160, 120), 130), ((80, 60), 65)):  # the mapping images' one, scaled where the size differs
        assert client.localize(image_bytes(*size)).status == 200
        assert localizer.seen[-1][1].params[0] == focal
    assert client.localize(image_bytes(90, 50)).status == 200 and localizer.seen[-1][1] is None  # estimated with the pose


def test_details_list_the_inliers_most_reliable_first(start):
    points = start().localize(image_bytes(), details="1").json["points"]
    assert points == {"pixels": [[9, 10], [3, 4], [0, 1]], "xyz": [[9, 10, 11], [3, 4, 5], [0, 1, 2]]}


def test_a_pose_that_is_not_finite_is_none(start, localizer):
    localizer.pose = np.full((3, 4), np.nan)
    value = start().localize(image_bytes()).json
    assert not value["success"] and value["qvec"] is None and value["center"] is None and "finite" in value["reason"]


def test_what_the_service_says_of_itself(start):
    client = start()
    assert client.get("/healthz").json["status"] == "ok"
    (scene,) = client.get("/scenes").json["scenes"]
    assert (scene["name"], scene["units"], scene["features"], scene["loaded"]) == ("hall", "metres", "made", False)
    client.localize(image_bytes())
    assert client.get("/scenes").json["scenes"][0]["loaded"] and client.get("/scenes").json["scenes"][0]["cameras"] == [CAMERA]
    paths = client.get("/openapi.json").json["paths"]
    assert set(paths) == {"/", "/healthz", "/scenes", "/metrics", "/scenes/{name}/localize", "/scenes/{name}/points"}
    post = paths["/scenes/{name}/localize"]["post"]
    assert "422" not in post["responses"] and post["parameters"][0]["name"] == "name"
    assert "multipart/form-data" in paths["/scenes/{name}/localize"]["post"]["requestBody"]["content"]


def test_points_of_the_map_are_few_and_of_the_whole_map(start, tmp_path, caplog):
    folders = {name: model_folder(tmp_path / name) for name in ("hall", "regression", "damaged")}
    xyz = np.arange(3 * 9000, dtype=np.float32).reshape(-1, 3)
    save_file({"landmarks.xyz": xyz, "landmarks.codes": np.zeros((9000, 4), np.int8)}, folders["hall"] / "model.safetensors")
    save_file({"center": np.zeros(3, np.float32)}, folders["regression"] / "model.safetensors")
    client = start(scenes=folders)
    points = client.get("/scenes/hall/points").json["points"]
    assert 1000 < len(points) <= 3000 and points[0] == xyz[0].tolist() and points[-1] == xyz[-1].tolist()
    assert client.get("/scenes/regression/points").json == {"points": []}
    damaged = client.get("/scenes/damaged/points")
    assert "damaged cannot be read" in caplog.text and "Traceback" not in caplog.text
    assert damaged.status == 503 and damaged.headers["retry-after"] and "damaged" in damaged.error
    assert client.get("/scenes/elsewhere/points").status == 404


def test_the_page_runs_its_own_script_alone(start):
    page = start().get("/")
    assert page.status == 200 and b"<svg" in page.body and b"http://" not in page.body.replace(b"http://www.w3.org/2000/svg", b"")
    policy = page.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy
        and "script-src 'sha256-" in policy
        and "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    )


def test_metrics_count_what_happened(start):
    client = start()
    client.localize(image_bytes())
    client.localize(b"nonsense")
    client.get("/nowhere")
    assert client.metric('d2s_images_total{scene="hall",result="localized"}') == 1
    assert client.metric('d2s_requests_total{route="localize",method="POST",status="400"}') == 1
    assert client.metric('d2s_requests_total{route="other",method="GET",status="404"}') == 1
    assert client.metric('d2s_answer_seconds_bucket{scene="hall",le="+Inf"}') == 1
    assert client.metric('d2s_stage_seconds_total{scene="hall",stage="pnp"}') == 0.003
    assert client.metric("d2s_model_loads_total") == 1 and client.metric("d2s_resident_bytes") > 1e6


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (160, 120)).save(buffer, "GIF")
    return buffer.getvalue()


SCANS = image_bytes()[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 5000 + b"\xff\xd9"

HOSTILE = {
    "empty": (b"", 400, "empty"),
    "text": (b"GET / HTTP/1.1\r\n\r\n" * 50, 400, "not one that can be read"),
    "zeros": (bytes(100_000), 400, "not one that can be read"),
    "truncated": (image_bytes()[:2000], 400, "truncated"),
    "truncated in the header": (image_bytes()[:30], 400, "not one that can be read"),
    "png bomb": (png_header(12_000, 12_000), 413, "12000x12000"),
    "great png bomb": (png_header(30_000, 30_000), 413, "pixels"),
    "greater png bomb": (png_header(2**31 - 1, 2**31 - 1), 413, "pixels"),
    "png without its pixels": (png_header(160, 120), 400, ""),
    "png without size": (png_header(0, 0), 400, ""),
    "a format that is not taken": (gif(), 400, "JPEG, PNG, WEBP"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 400, ""),
    "a thousand scans": (SCANS, 400, "scans"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_image_is_refused(steady, what):
    (image, status, words), (client, localizer) = HOSTILE[what], steady
    localizer.seen.clear()
    answer = client.localize(image, camera=CAMERA)
    assert answer.status == status and words in answer.error and not localizer.seen
    assert client.localize(image_bytes()).status == 200


def test_damaged_pixels_are_no_defect(steady):
    client, whole = steady[0], image_bytes()
    for seed in range(40):
        bad, random = bytearray(whole), np.random.default_rng(seed)
        for position in random.integers(0, len(bad), 20):
            bad[position] = random.integers(256)
        assert client.localize(bytes(bad), camera=CAMERA).status in (200, 400, 413)


@pytest.mark.parametrize(
    "camera",
    [
        *("nonsense", "SIMPLE_PINHOLE", "SIMPLE_PINHOLE 160 120 130 80", "PINHOLER 160 120 130 80 60", "SIMPLE_PINHOLE 320 240 130 80 60"),
        *(
            "SIMPLE_PINHOLE 160 120 nan 80 60",
            "SIMPLE_PINHOLE 160 120 inf 80 60",
            "SIMPLE_PINHOLE 160 120 0 80 60",
            "SIMPLE_PINHOLE -1 -1 1 1 1",
        ),
        *("SIMPLE_PINHOLE 160 120 1e300 80 60", "SIMPLE_RADIAL 160 120 130 80 60 1e30", "SIMPLE_PINHOLE 160 120 1e-9 80 60"),
        *(
            "SIMPLE_PINHOLE 99999999999999999999 120 130 80 60",
            "SIMPLE_PINHOLE " + "9" * 900 + " 120 1 1 1",
            "X" * 990,
            "X" * 5000,
            "\0",
            "é\u202e",
        ),
        *("SIMPLE_PINHOLE 1٣0 120 130 80 60", '{"model": "PINHOLE"}', "160 120 130 80", "EQUIRECTANGULAR 160 120 1 1"),
    ],
)
def test_a_wrong_camera_is_refused(steady, camera):
    client, localizer = steady
    localizer.seen.clear()
    answer = client.localize(image_bytes(), camera=camera)
    assert answer.status == 400 and answer.error and not localizer.seen


def part(headers: str, body: bytes = b"x") -> bytes:
    return f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode()


FORMS = {
    "no image": (form(None, camera=CAMERA), KIND, 400),
    "image is text": (form(None, image="photo.jpg"), KIND, 400),
    "camera is a file": (form(image_bytes()).replace(b'name="image"', b'name="camera"'), KIND, 400),
    "two images": (form(image_bytes())[: -len(BOUNDARY) - 6] + form(image_bytes()), KIND, 400),
    "another field": (form(image_bytes(), gain="3"), KIND, 400),
    "neither 0 nor 1": (form(image_bytes(), details="2"), KIND, 400),
    "many fields": (form(image_bytes(), **{f"f{i}": "1" for i in range(2000)}), KIND, 400),
    "part without name": (part("Content-Disposition: form-data"), KIND, 400),
    "part without headers": (part("X: y"), KIND, 400),
    "no boundary": (form(image_bytes()), {"Content-Type": "multipart/form-data"}, 400),
    "another boundary": (form(image_bytes()), {"Content-Type": "multipart/form-data; boundary=other"}, 400),
    "long boundary": (form(image_bytes()), {"Content-Type": "multipart/form-data; boundary=" + "b" * 3000}, 400),
    "unknown charset": (form(None, camera="é"), {"Content-Type": KIND["Content-Type"] + "; charset=klingon"}, 400),
    "end is missing": (form(image_bytes())[:-20], KIND, 400),
    "header bomb": (part('Content-Disposition: form-data; name="image"; filename="' + "f" * 500_000 + '"'), KIND, 400),
    "json": (b'{"image": "x"}', {"Content-Type": "application/json"}, 415),
    "bare image": (image_bytes(), {"Content-Type": "image/jpeg"}, 415),
    "urlencoded": (b"image=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "no content type": (b"x", {}, 415),
    "nothing": (None, {}, 415),
    "empty body": (b"", KIND, 400),
}


@pytest.mark.parametrize("what", FORMS)
def test_a_wrong_form_is_refused(steady, what):
    (body, headers, status), (client, localizer) = FORMS[what], steady
    localizer.seen.clear()
    answer = client.request("POST", "/scenes/hall/localize", body, headers)
    assert answer.status == status and answer.error and not localizer.seen


@pytest.mark.parametrize("name", ["cellar", "..%2f..%2fetc", "hall%00", "%F0%9F%A6%8A", "h" * 3000])
def test_an_unknown_scene_is_404(steady, name):
    assert steady[0].localize(image_bytes(), scene=name).status == 404


def test_other_methods_and_paths(start):
    client = start()
    assert client.request("DELETE", "/scenes").status == 405 and client.get("/scenes/hall/localize").status == 405
    assert client.get("/etc/passwd").status == 404 and client.request("BREW", "/").status == 405
    assert client.get("/docs").status == 404  # its scripts would come from elsewhere


def test_what_is_no_http_is_refused(start):
    client = start()
    for data in (b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"):
        with client.raw(data) as connection:
            assert b" 400 " in connection.recv(1000) or data.startswith(b"\x16")
    assert client.get("/healthz").status == 200


def test_too_large_is_said_before_it_is_read(start, localizer):
    client = start(body_bytes=100_000)
    with client.raw(
        b"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data\r\nContent-Length: 99999999\r\n\r\n"
    ) as raw:
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")  # no byte of it was ever sent: waiting for one ends with 408
    assert client.localize(image_bytes(), headers={"Expect": "100-continue"}).status == 200
    assert "0.0953674 MiB" in client.localize(bytes(200_000)).error


def test_too_large_is_noticed_while_it_streams(start, localizer):
    client = start(body_bytes=100_000)
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"2710\r\n" + bytes(10_000) + b"\r\n"
    with client.raw(head.encode() + 20 * chunk) as connection:  # the body does not end
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert not localizer.seen


def test_a_slow_client_is_not_waited_for(start):
    client = start(upload_seconds=2)
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: 5000\r\n\r\n--e7"
    begun = time.monotonic()
    with client.raw(head.encode()) as raw:
        assert client.localize(image_bytes()).status == 200  # meanwhile
        assert raw.recv(1000).startswith(b"HTTP/1.1 408")
    assert 1.9 < time.monotonic() - begun < Limits.stall_seconds - 1, "it was not this limit that ended it"


def test_headers_that_do_not_come_end_the_connection(start):
    client = start(header_seconds=0.3)
    for data in (b"", b"GET / HT", b"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\n"):
        begun = time.monotonic()
        with client.raw(data) as connection:
            assert connection.recv(100) == b""
        assert time.monotonic() - begun < Limits.header_seconds - 1, "it was not this limit that ended it"


def test_a_further_request_on_a_connection_must_come_soon_too(start):
    client = start(header_seconds=1)
    begun = time.monotonic()
    with client.raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /healthz HT")
        while connection.recv(1000):
            pass
    assert 0.9 < time.monotonic() - begun < Limits.header_seconds - 1, "it was not this limit that ended it"


@pytest.fixture
def slow_clients(monkeypatch):
    """Clients may take as long as a busy machine makes them: no connection is closed for having been idle."""
    monkeypatch.setattr(server, "PROMPT_SECONDS", 600.0)


def test_connections_are_counted(start, slow_clients):
    client = start(connections=2, header_seconds=600)
    with client.raw(b"") as first, client.raw(b"") as second:
        wait_until(lambda: len(client.server.server_state.connections) == 2)
        busy = client.get("/healthz")
        assert busy.status == 503 and busy.headers["Retry-After"] and busy.error
        assert first.fileno() != second.fileno()
    wait_until(lambda: not client.server.server_state.connections)
    assert client.get("/healthz").status == 200


def test_the_longest_idle_connection_makes_room_for_a_new_one(start):
    client = start(connections=2, header_seconds=600)
    with client.raw(b"GET / HT") as first, client.raw(b"") as second:
        wait_until(lambda: len(client.server.server_state.connections) == 2)
        time.sleep(1.1)  # an honest client has asked by then
        assert client.localize(image_bytes()).status == 200
        assert first.recv(10) == b""
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert second.recv(1000).startswith(b"HTTP/1.1 200")
    assert client.metric('d2s_connections_closed_total{reason="idle"}') == 1


def test_a_refused_connection_reads_on_so_that_its_answer_arrives(start, slow_clients):
    client = start(connections=1, header_seconds=600)
    with client.raw(b"GET / HT"):
        wait_until(lambda: client.server.server_state.connections)
        for _ in range(3):
            busy = client.localize(bytes(3_000_000))
            assert busy.status == 503 and busy.headers["Retry-After"] == "5" and busy.error
    wait_until(lambda: not client.server.server_state.connections)


def test_refused_connections_are_counted_too(start, slow_clients, monkeypatch):
    monkeypatch.setattr(server, "LINGER_SECONDS", 600.0)
    client = start(connections=2, header_seconds=600)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(client.raw(b""))
        wait_until(lambda: len(client.server.server_state.connections) in (4, 5))
        monkeypatch.setattr(server, "PROMPT_SECONDS", 0.0)
        assert client.get("/healthz").status == 200
    wait_until(lambda: client.metric('d2s_connections_closed_total{reason="too_many"}') == 10)


def test_a_connection_too_many_that_is_gone_before_it_is_refused_is_no_defect(start, caplog, slow_clients):
    client = start(connections=1, header_seconds=600)
    with client.raw(b"GET / HT"):
        wait_until(lambda: client.server.server_state.connections)
        client.server.servers[0].get_loop().call_soon_threadsafe(time.sleep, 0.5)
        for _ in range(20):
            with client.raw(b"GET / HT") as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        count = client.server.config.app.metrics.snapshot
        wait_until(lambda: count().get('d2s_connections_closed_total{reason="too_many"}', 0) > 15)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_upload_that_stalls_is_ended(start):
    client = start(stall_seconds=2)
    body = form(image_bytes())
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with client.raw(head.encode() + body[:100]) as stalled, client.raw(head.encode()) as slow:
        begun, part = time.monotonic(), len(body) // 12 + 1
        for start_of_part in range(0, len(body), part):  # longer in all than it may stall
            slow.sendall(body[start_of_part : start_of_part + part])
            time.sleep(0.2)
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        assert stalled.recv(1000).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < Limits.stall_seconds - 1, "it was not this limit that ended it"


def test_overload_is_503_and_everything_accepted_is_answered(start, localizer):
    client = start(queue=3)
    localizer.go.clear()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(client.localize(image_bytes()))) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answers) == 8)
    assert client.get("/healthz").json["queue"] == {"waiting": 3, "capacity": 3} and client.metric("d2s_queue_length") == 3
    localizer.go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status for answer in answers) == [200] * 4 + [503] * 8
    assert all(int(a.headers["retry-after"]) >= 1 and "Try again" in a.error for a in answers if a.status == 503)
    assert client.localize(image_bytes()).status == 200 and len(localizer.seen) == 5


def test_bodies_that_are_being_read_are_counted(start):
    client = start(uploads=1)
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: 5000\r\n\r\n--e7"
    with client.raw(head.encode()):
        wait_until(lambda: client.metric("d2s_uploads") == 1)
        assert client.localize(image_bytes()).status == 503
    wait_until(lambda: client.metric("d2s_uploads") == 0)
    assert client.localize(image_bytes()).status == 200


def test_a_client_that_leaves_in_the_middle_is_no_defect(start, caplog):
    client = start()
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: 5000\r\n\r\n--e7"
    with client.raw(head.encode()):
        wait_until(lambda: client.metric("d2s_uploads") == 1)
    wait_until(lambda: client.metric('d2s_requests_total{route="localize",method="POST",status="499"}') == 1)
    complaints = [record for record in caplog.records if record.levelno > logging.INFO]  # other tests may have switched the access log on
    assert client.metric("d2s_uploads") == 0 and "Traceback" not in caplog.text and not complaints


def test_time_limits_of_computing_and_waiting(start, localizer):
    client = start(answer_seconds=1)
    localizer.go.clear()
    statuses = []

    def ask(focal: int) -> None:
        statuses.append(client.localize(image_bytes(), camera=f"SIMPLE_PINHOLE 160 120 {focal} 80 60").status)

    threads = [threading.Thread(target=ask, args=(focal,)) for focal in (100, 101)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [503, 504]
    localizer.go.set()
    wait_until(lambda: client.localize(image_bytes()).status == 200)
    assert sum(camera.params[0] in (100, 101) for _, camera in localizer.seen) == 1, "the second never began"


def test_a_thread_that_does_not_come_back_makes_the_service_unhealthy(start, localizer):
    client = start(answer_seconds=0.3)
    localizer.go.clear()
    wait_until(lambda: client.localize(image_bytes()).status == 504)  # 503: its turn did not come
    wait_until(lambda: client.get("/healthz").status == 503)
    localizer.go.set()
    wait_until(lambda: client.get("/healthz").status == 200)


def test_work_of_a_client_that_went_away_is_dropped(start, localizer):
    client = start()
    localizer.go.clear()
    body = form(image_bytes())
    head = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND['Content-Type']}\r\nContent-Length: {len(body)}\r\n\r\n"
    with client.raw(head.encode() + body):
        wait_until(lambda: len(localizer.seen) == 1)
        with client.raw(head.encode() + body):
            wait_until(lambda: client.metric("d2s_queue_length") == 1)
        wait_until(lambda: client.metric("d2s_queue_length") == 0)
    localizer.go.set()
    assert client.localize(image_bytes()).status == 200 and len(localizer.seen) == 2


def test_a_defect_is_500_without_details(start, localizer, caplog):
    client = start()
    localizer.error = ZeroDivisionError("secret")
    answer = client.localize(image_bytes())
    assert answer.status == 500 and "secret" not in answer.error
    wait_until(lambda: "secret" in caplog.text)
    localizer.error = None
    assert client.localize(image_bytes()).status == 200


def test_full_memory_is_no_defect(start, localizer):
    localizer.error = MemoryError()
    assert start().localize(image_bytes()).status == 503


def test_a_scene_that_cannot_be_loaded_leaves_the_others(start, localizer, tmp_path, caplog):
    def load(path):
        if path.name == "broken":
            raise MissingFileError(f"{path}/secret is missing")
        return localizer

    client = start(scenes={name: model_folder(tmp_path / name) for name in ("hall", "broken")}, load=load)
    broken = client.localize(image_bytes(), scene="broken")
    assert broken.status == 503 and "secret" not in broken.error and "secret" in caplog.text
    assert client.localize(image_bytes()).status == 200


def test_keys(start):
    client = start(keys=("first key 1", "second key"))
    assert client.get("/healthz").status == client.get("/").status == client.get("/openapi.json").status == 200
    for path in ("/scenes", "/metrics", "/nowhere"):
        refused = client.get(path)
        assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer" and refused.error
    assert client.localize(image_bytes()).status == 401
    for wrong in ("", "second", "second key2", "é", "x" * 10_000):
        assert client.get("/scenes", **{"X-API-Key": wrong}).status == 401
    assert client.get("/scenes", **{"X-API-Key": "second key"}).status == 200
    assert client.get("/scenes", Authorization="Bearer first key 1").status == 200
    assert client.localize(image_bytes(), headers={"X-API-Key": "first key 1"}).status == 200


def test_one_line_of_json_per_request(start, caplog):
    with caplog.at_level(logging.INFO, "d2s.service.access"):
        client = start(keys=("first key 1",))
        client.localize(image_bytes(), headers={"X-API-Key": "first key 1"})
        client.get("/a%0ab%22c", **{"X-API-Key": "first key 1"})
        wait_until(lambda: len(caplog.records) >= 2)
    good, bad = (json.loads(record.getMessage()) for record in caplog.records[:2])
    assert good["status"] == 200 and good["scene"] == "hall" and good["success"] and good["inliers"] == 3 and good["bytes"] > 1000
    assert bad["status"] == 404 and bad["path"] == '/a\nb"c' and "\n" not in caplog.records[1].getMessage()
    assert "first key" not in caplog.text
