"""Between the connection and the application: keys, limits on what arrives, one line of log per request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from d2s.service.metrics import Metrics
from d2s.service.refusal import Refused, client_gone
from d2s.service.settings import Limits

access = logging.getLogger("d2s.service.access")
logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/healthz", "/openapi.json")
"""Paths that need no key: they say nothing about the scenes."""

SILENT_SECONDS = 3.0
"""How long a client that was answered may send nothing more of its request before the connection is closed."""

ROUTE_OF = ("/", "/healthz", "/scenes", "/metrics", "/openapi.json")


class Gate:
    """Wraps an ASGI application."""

    def __init__(self, app: Application, limits: Limits, keys: tuple[str, ...], metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._digests = [_digest(key.encode()) for key in keys]
        self._lingering: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the start and end of the server."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange(scope, receive, send, self.limits, self._lingering)
        try:
            await self._answer(scope, exchange)
        except Exception:
            logger.exception("request %s failed", exchange.id)  # the application has answered 500 already
        finally:
            self._note(scope, exchange)

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        try:
            self._require_key(scope)
            exchange.require_small_body()
        except Refused as refused:
            return await exchange.refuse(refused)
        return await self.app(scope, exchange.receive, exchange.send)

    def _require_key(self, scope: Scope) -> None:
        """Raises Refused (401). All keys are compared, in constant time, so that the time tells nothing about them."""
        if not self._digests or scope["path"] in OPEN:
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").partition(b" ")[2]
        digest = _digest(given.strip())
        if sum(hmac.compare_digest(digest, known) for known in self._digests) == 0:
            raise Refused(401, "This service needs an API key.", "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")

    def _note(self, scope: Scope, exchange: Exchange) -> None:
        path, status = scope["path"], exchange.status
        route = path if path in ROUTE_OF else "localize" if path.endswith("/localize") else "other"
        self.metrics.add("d2s_requests_total", route=route, method=_method(scope), status=status)
        self.metrics.add("d2s_received_bytes_total", exchange.received)
        if status >= 400:
            self.metrics.add("d2s_refused_total", status=status)
        access.info(json.dumps(exchange.log_line(scope)))


class Exchange:
    """One request and its answer: counts what arrives, ends what takes too long, keeps what the log says.

    `lingering`: ids of those that take in the rest of a request that was answered already, of all exchanges.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits, lingering: set[str]) -> None:
        self._receive, self._send, self._limits, self._lingering = receive, send, limits, lingering
        self.id, self.status, self.received, self.complete = uuid.uuid4().hex[:12], 0, 0, False
        self.begun = time.monotonic()
        headers = dict(scope["headers"])
        self._announced = int(headers.get(b"content-length", b"0"))
        self._has_body = self._announced > 0 or b"transfer-encoding" in headers
        self.notes: dict[str, Any] = {}
        scope["d2s.notes"] = self.notes

    def require_small_body(self) -> None:
        """Raises Refused (413) when the headers announce too much."""
        if self._announced > self._limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"The request has more than {self._limits.body_bytes / 2**20:g} MiB.", "Send a smaller image.")

    async def receive(self) -> Message:
        """The next part of the body. Raises Refused when there are too many (413), they come too slowly (408), or no more (499)."""
        expected = not self.complete
        message = await self._next(self._patience() if expected else None)
        if expected and message["type"] == "http.disconnect":
            raise client_gone()
        if self.received > self._limits.body_bytes:
            raise self._too_large()
        return message

    def _patience(self) -> float:
        """Seconds that the next part may take."""
        return min(self._limits.stall_seconds, self.begun + self._limits.upload_seconds - time.monotonic())

    async def _next(self, seconds: float | None) -> Message:
        try:
            message = await asyncio.wait_for(self._receive(), None if seconds is None else max(seconds, 0.0))
        except asyncio.TimeoutError:
            limits = f"within {self._limits.upload_seconds:g} s, or nothing of it for {self._limits.stall_seconds:g} s"
            raise Refused(408, f"The request did not arrive {limits}.", "Send it faster.") from None
        self.received += len(message.get("body", b""))
        self.complete |= message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer. Where the client is still sending, the end of the answer waits for it, within limits."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = [(b"x-request-id", self.id.encode()), (b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            extra += [(b"connection", b"close")] if self._unread else []  # nobody waits for all of a body that nobody wants
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    @property
    def _unread(self) -> bool:
        return self._has_body and not self.complete

    async def _linger(self) -> None:
        """Closing a connection with data on the way makes the client lose the answer; so that is taken in, and thrown away.

        A refused request holds its connection no longer than one that is accepted may, and as few at a time; further ones are cut short.
        """
        few = len(self._lingering) < self._limits.uploads
        end = time.monotonic() + (self._limits.upload_seconds if few else min(SILENT_SECONDS, self._limits.upload_seconds))
        most = self._limits.body_bytes + self._limits.discarded_bytes
        self._lingering.add(self.id)
        try:
            while not self.complete and self.received < most and time.monotonic() < end:
                await self._next(min(SILENT_SECONDS, end - time.monotonic()))
        except Refused:
            return
        finally:
            self._lingering.discard(self.id)

    async def refuse(self, refused: Refused) -> None:
        """Answer without the application."""
        body = json.dumps({"error": str(refused)}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def log_line(self, scope: Scope) -> dict[str, Any]:
        """What the access log says: who asked for what, how it ended, how long it took; nothing of the image, no key."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": self.id,
            "client": scope["client"][0] if scope.get("client") else None,
            "method": _method(scope),
            "path": scope["path"][:200],
            "status": self.status,
            "ms": round(1e3 * (time.monotonic() - self.begun), 1),
            "bytes": self.received,
            **self.notes,
        }


def _method(scope: Scope) -> str:
    """Methods that a client makes up count as one."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") else "other"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
