"""uvicorn around the application: the socket, idle connections, signals, several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from d2s.errors import InputError, MissingPackageError
from d2s.service.catalogue import Load
from d2s.service.settings import Limits, ServiceSettings

logger = logging.getLogger(__name__)

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
BACKLOG = 256
KEEP_ALIVE_SECONDS = 5
RESTART_SECONDS = 1.0
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b'Content-Length: 51\r\n\r\n{"error": "The service has too many connections."}\n'
)


def serve(settings: ServiceSettings, host: str, port: int, workers: int = 1) -> None:
    """Answer requests until SIGTERM or SIGINT; what is under way then is finished. Raises InputError for an address that cannot be had."""
    require_packages()
    with bind(host, port) as listener:
        address = listener.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        logger.info("Serving %s at http://%s:%d/ (stop with Ctrl+C).", ", ".join(settings.scenes), shown, address[1])
        if workers == 1:
            run_process(settings, listener)
        else:
            supervise(settings, listener, workers)


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
    config = uvicorn.Config(
        create_app(settings, load),
        http=guarded_protocol(limits),
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


def guarded_protocol(limits: Limits) -> type[Any]:
    """HTTP/1.1 by uvicorn, with an end to connections that do not get to the point and to their number."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class GuardedProtocol(H11Protocol):
        """Closes connections whose request's headers take longer than `header_seconds`."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer: Any = None
            if len(self.connections) > limits.connections:
                transport.write(BUSY)
                transport.close()
            else:
                self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._idle() and self._timer is None and self.timeout_keep_alive_task is None:
                self._watch()  # the first bytes of a further request

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _watch(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self._give_up)

        def _give_up(self) -> None:
            self._timer = None
            if self._idle() and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                self.transport.close()

    return GuardedProtocol


def supervise(settings: ServiceSettings, listener: socket.socket, workers: int) -> None:
    """Several processes on one socket; one that dies is replaced. Ends when all have finished what they were at."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="d2s-serve-") as folder:
        settings = replace(settings, board=Path(folder))
        processes = [start_process(settings, listener, workers) for _ in range(workers)]
        while not stop.wait(RESTART_SECONDS):
            for index, process in enumerate(processes):
                if not process.is_alive():
                    logger.error("worker process %d ended with exit code %s; starting another", process.pid, process.exitcode)
                    processes[index] = start_process(settings, listener, workers)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def start_process(settings: ServiceSettings, listener: socket.socket, workers: int) -> BaseProcess:
    """A worker process, started anew rather than forked: threads and CUDA do not survive a fork."""
    arguments = (settings, listener, workers, logging.getLogger().level)
    process = multiprocessing.get_context("spawn").Process(target=_process, args=arguments, daemon=True)
    process.start()
    return process


def _process(settings: ServiceSettings, listener: socket.socket, workers: int, log_level: int) -> None:
    """What a worker process runs; the cores are shared out among them."""
    import cv2
    import torch

    logging.basicConfig(level=log_level, format="%(message)s", stream=sys.stdout)
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    run_process(settings, listener)
