"""uvicorn around the application: the socket, idle connections, signals, several processes."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from d2s.errors import InputError, MissingPackageError
from d2s.service.catalogue import Load
from d2s.service.metrics import Metrics
from d2s.service.settings import Limits, ServiceSettings

logger = logging.getLogger(__name__)

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
BACKLOG = 256
KEEP_ALIVE_SECONDS = 5
RESTART_SECONDS = 1.0
PROMPT_SECONDS = 1.0  # in which a client that means it has sent its request's headers
LINGER_SECONDS = 10.0


def _answer(status: str, text: str) -> bytes:
    """A whole response, for connections that do not get as far as the application."""
    body = json.dumps({"error": text}).encode() + b"\n"
    headers = f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + body


BUSY = _answer("503 Service Unavailable\r\nRetry-After: 5", "The service has too many connections.")
NO_HTTP = _answer("400 Bad Request", "This is no HTTP request.")


def serve(settings: ServiceSettings, host: str, port: int, workers: int = 1, prepare: Callable[[], object] | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT; what is under way then is finished. Raises InputError for an address that cannot be had.

    `prepare`: what further worker processes do first, of what this process has done.
    """
    require_packages()
    with bind(host, port) as listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        logger.info("Serving %s at http://%s:%d/ (stop with Ctrl+C).", ", ".join(settings.scenes), shown, address[1])
        if workers == 1:
            run_process(settings, listener)
        else:
            supervise(settings, listener, workers, prepare)


def require_packages() -> None:
    """Raises MissingPackageError naming what the service needs beyond the project's own requirements."""
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise MissingPackageError(f"d2s serve needs {', '.join(missing)}.", "Install with: sh scripts/setup.sh serve.")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError when the address is taken or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {error}.", "Choose another port, or an address of this machine.") from None
    return listener


def run_process(settings: ServiceSettings, listener: socket.socket) -> None:
    """Answer requests in this process."""
    server = make_server(settings)
    # uvicorn raises the signal again when it is done; with handlers that do nothing, a wanted end has the exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


def make_server(settings: ServiceSettings, load: Load | None = None) -> Any:
    """The `uvicorn.Server` of the application. `load`: reads a model (default: `Localizer.load`)."""
    import uvicorn

    from d2s.service.app import create_app

    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are about what clients send
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    limits = settings.limits
    app = create_app(settings, load)
    config = uvicorn.Config(
        app,
        http=guarded_protocol(limits, app.metrics),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(limits.upload_seconds + limits.answer_seconds) + 1,
    )
    return uvicorn.Server(config)


def guarded_protocol(limits: Limits, metrics: Metrics) -> type[Any]:
    """HTTP/1.1 by uvicorn, with an end to connections that do not get to the point and to their number."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    idle: dict[Any, float] = {}  # connections without a request under way -> since when, the longest first
    refused: dict[Any, int] = {}  # connections whose client is told no more -> bytes that came since

    class GuardedProtocol(H11Protocol):
        """Closes connections whose request's headers take longer than `header_seconds`, and idle ones where others need the room."""

        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) - len(refused) > limits.connections and not self._make_room():
                metrics.add("d2s_connections_closed_total", reason="too_many")
                self._refuse(BUSY)
            else:
                self._wait_for_request()

        def data_received(self, data: bytes) -> None:
            if self in refused:
                return self._throw_away(data)
            super().data_received(data)
            if not self._is_idle():
                idle.pop(self, None)
            elif self._timer is None and self.timeout_keep_alive_task is None:
                self._wait_for_request()  # the first bytes of a further request
            return None

        def on_response_complete(self) -> None:
            idle[self] = self.loop.time()
            super().on_response_complete()
            if not self._is_idle():  # a request that came before the answer to the last one
                idle.pop(self, None)

        def connection_lost(self, exc: Exception | None) -> None:
            idle.pop(self, None)
            refused.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # what it says from now on has no way to the client
                self.cycle.message_event.set()
            self._refuse(NO_HTTP)

        def shutdown(self) -> None:
            if self in refused:
                self.transport.abort()
            else:
                super().shutdown()

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait_for_request(self) -> None:
            idle.pop(self, None)  # to the end of the line
            idle[self] = self.loop.time()
            self._timer = self.loop.call_later(limits.header_seconds, self._give_up)

        def _give_up(self) -> None:
            self._timer = None
            if self._is_idle() and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                self.transport.close()

        def _make_room(self) -> bool:
            """Close the connection that has been idle the longest, if that is long enough for any honest client to have asked."""
            before = self.loop.time() - PROMPT_SECONDS
            other = first_silent([one for one, since in idle.items() if since < before])
            if other is None:
                return False
            del idle[other]
            other.transport.abort()
            metrics.add("d2s_connections_closed_total", reason="idle")
            return True

        def _refuse(self, answer: bytes) -> None:
            """Say so, and take in for a while what the client is sending: with data unread, closing would make it lose the answer."""
            idle.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
            refused[self] = 0
            self.transport.write(answer)
            with contextlib.suppress(OSError):  # the client has gone already
                self.transport.write_eof()
            self.flow.resume_reading()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
            if len(refused) > limits.connections:
                waiting = [one for one, received in refused.items() if not received]  # they lose nothing
                oldest = first_silent(waiting) or first_silent(list(refused)) or next(iter(refused))
                del refused[oldest]
                oldest.transport.abort()

        def _throw_away(self, data: bytes) -> None:
            refused[self] += len(data)
            if refused[self] > limits.body_bytes + limits.discarded_bytes:
                self.transport.abort()

    return GuardedProtocol


def first_silent(connections: Sequence[Any]) -> Any | None:
    """The first whose client has sent nothing that is not read yet: on a busy machine it is us who are late."""
    poll, numbers = select.poll(), [one.transport.get_extra_info("socket").fileno() for one in connections]
    for number in numbers:
        if number >= 0:
            poll.register(number, select.POLLIN)
    waiting = {number for number, _ in poll.poll(0)}
    return next((one for one, number in zip(connections, numbers, strict=True) if number not in waiting), None)


def supervise(settings: ServiceSettings, listener: socket.socket, workers: int, prepare: Callable[[], object] | None = None) -> None:
    """Several processes on one socket; one that dies is replaced. Ends when all have finished what they were at."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="d2s-serve-") as folder:
        settings = replace(settings, board=Path(folder))
        processes = [start_process(settings, listener, workers, prepare) for _ in range(workers)]
        while not stop.wait(RESTART_SECONDS):
            for index, process in enumerate(processes):
                if not process.is_alive():
                    logger.error("worker process %d ended with exit code %s; starting another", process.pid, process.exitcode)
                    processes[index] = start_process(settings, listener, workers, prepare)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def start_process(
    settings: ServiceSettings, listener: socket.socket, workers: int, prepare: Callable[[], object] | None = None
) -> BaseProcess:
    """A worker process, started anew rather than forked: threads and CUDA do not survive a fork."""
    arguments = (settings, listener, workers, logging.getLogger().level, prepare)
    process = multiprocessing.get_context("spawn").Process(target=_process, args=arguments, daemon=True)
    process.start()
    return process


def _process(
    settings: ServiceSettings, listener: socket.socket, workers: int, log_level: int, prepare: Callable[[], object] | None
) -> None:
    """What a worker process runs; the cores are shared out among them."""
    if prepare is not None:
        prepare()
    import cv2
    import torch

    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stdout)
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    run_process(settings, listener)
