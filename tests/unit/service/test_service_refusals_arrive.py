"""Refusals reach clients that send everything before they read: closing a connection with data unread would reset it."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from d2s.service import gate

from .conftest import BOUNDARY, form, image_bytes, wait_until

HEAD = f"POST /scenes/hall/localize HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n".encode()
BODY = form(bytes(2_000_000))


def chunks(body: bytes, size: int = 50_000) -> bytes:
    """A body in HTTP's chunked form."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


def announced(body: bytes, head: bytes = HEAD) -> bytes:
    return head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer_to(client, request: bytes, pauses: float = 0.0) -> bytes:
    """What comes back when all is sent first; `pauses`: seconds between the eight pieces that it is sent in."""
    size = len(request) // 8 + 1
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
        for start in range(0, len(request), size):
            connection.sendall(request[start : start + size])
            time.sleep(pauses)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1000)
        return answer


REQUESTS = {
    "announced": (announced(BODY), 413),
    "announced, then closed": (announced(BODY, HEAD + b"Connection: close\r\n"), 413),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY), 413),
    "another type": (announced(BODY[:900_000], HEAD.replace(b"multipart", b"application")), 415),
    "no such scene": (announced(BODY[:900_000], HEAD.replace(b"hall", b"cellar")), 404),
    "no such path": (announced(BODY[:900_000], HEAD.replace(b"/localize", b"")), 404),
    "wrong chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n" * 500_000, 400),
    "long header": (HEAD + b"X: " + b"x" * 2_000_000, 400),
    "no HTTP": (bytes(range(256)) * 8_000, 400),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(steady_and_small, what):
    request, status = REQUESTS[what]
    assert answer_to(steady_and_small, request).startswith(f"HTTP/1.1 {status} ".encode())
    assert steady_and_small.localize(image_bytes()).status == 200


@pytest.fixture(scope="module")
def steady_and_small(tmp_path_factory):
    """A client of one service that takes a megabyte."""
    from .conftest import made_localizer, services

    with services(tmp_path_factory.mktemp("small"), made_localizer()) as begin:
        yield begin(body_bytes=1_000_000)


def test_a_slow_sender_is_read_on_as_long_as_an_accepted_one(start, monkeypatch):
    monkeypatch.setattr(gate, "SILENT_SECONDS", 0.6)
    assert answer_to(start(body_bytes=100_000), announced(BODY), pauses=0.2).startswith(b"HTTP/1.1 413")


def test_a_client_that_waits_for_a_go_ahead_is_refused_without_it(start):
    client = start(body_bytes=100_000)
    with client.raw(HEAD + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    with client.raw(HEAD + b"Expect: 100-continue\r\nContent-Length: 20000\r\n\r\n") as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")


BEGUN = HEAD + b"Content-Length: 2000000000\r\n\r\n"


def ended_after(client, pause: float, piece: bytes) -> float:
    """Seconds until a refused client that goes on sending is cut off."""
    with client.raw(BEGUN) as connection:
        begun = time.monotonic()
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            while time.monotonic() < begun + 60:
                connection.sendall(piece)
                time.sleep(pause)
    return time.monotonic() - begun


def test_what_was_refused_holds_a_connection_for_so_many_seconds(start):
    assert ended_after(start(body_bytes=100_000, upload_seconds=0.8), 0.05, b"a") > 0.7


def test_what_was_refused_is_taken_in_for_so_many_bytes(start):
    ended_after(start(body_bytes=100_000, discarded_bytes=500_000, upload_seconds=1000), 0, bytes(100_000))


def test_what_was_refused_holds_so_many_connections(start, monkeypatch):
    monkeypatch.setattr(gate, "SILENT_SECONDS", 2.0)
    client = start(body_bytes=100_000, upload_seconds=1000, uploads=1)
    with client.raw(BEGUN) as first:
        assert first.recv(1000).startswith(b"HTTP/1.1 413")
        ended_after(client, 0.05, b"a")


def test_what_was_refused_is_not_waited_for_in_silence(start, monkeypatch):
    monkeypatch.setattr(gate, "SILENT_SECONDS", 0.3)
    with start(body_bytes=100_000, upload_seconds=1000).raw(BEGUN) as connection:
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 413")


def test_garbage_is_taken_in_up_to_a_limit(start):
    client = start(body_bytes=100_000, discarded_bytes=500_000)
    with client.raw(b"\0" * 1000) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(bytes(100_000))
    wait_until(lambda: not client.server.server_state.connections)


def test_among_connections_too_many_the_silent_ones_go_first(start, localizer):
    client = start(connections=1, header_seconds=30)
    localizer.go.clear()
    with client.raw(announced(form(image_bytes()))):
        wait_until(lambda: localizer.seen)
        with client.raw(HEAD) as sender, contextlib.ExitStack() as silent:
            wait_until(lambda: len(client.server.server_state.connections) == 2)
            time.sleep(0.3)  # so that what it sent was read
            for _ in range(3):
                silent.enter_context(client.raw(b""))
                sender.sendall(bytes(1000))
                time.sleep(0.1)
            assert sender.recv(1000).startswith(b"HTTP/1.1 503")
