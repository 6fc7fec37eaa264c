"""What a public service gets besides photos: broken, wrong and hostile requests, each with the answers that are right for it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import struct
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from serve import BOUNDARY, Tally, ask, part, post, wrong_requests

BUSY = ("503 with Retry-After",)
REFUSED = ("400", "404", "405", "413", "415", *BUSY)
NO_ANSWER = ("left", "closed", "ConnectionResetError", "BrokenPipeError")
CAMERAS = (
    "SIMPLE_PINHOLE 640 480 nan 320 240",
    "SIMPLE_PINHOLE 640 480 -520 320 240",
    "SIMPLE_PINHOLE 640 480 0 320 240",
    "SIMPLE_PINHOLE 640 480 1e308 320 240",
    "SIMPLE_PINHOLE -640 -480 520 320 240",
    "SIMPLE_PINHOLE 99999999999999999999 480 520 320 240",
    "OPENCV 640 480 520 520 320 240",
    "NONSENSE 640 480 1",
    "SIMPLE_RADIAL 480 640 520 240 320 0",
    "\x00\x01\x02",
    "é" * 300,
)
PRIORS = ("nan 0 0 0 1 2 3", "1e300 0 0 0 1 2 3", "/etc/passwd", '{"qvec": null, "tvec": null}', '{"qvec":' + "[" * 900, "0 " * 5000)
PATHS = (
    "/scenes/../../../etc/passwd/localize",
    "/scenes/%2e%2e%2f%2e%2e%2fetc%2fpasswd/localize",
    "/scenes/place%00/localize",
    "/scenes/place/../../localize",
    "/scenes//localize",
    "/scenes/" + "a" * 50_000 + "/localize",
    "/.env",
    "/scenes/place/localize/..;/",
)


@dataclass(frozen=True)
class Attack:
    """Something hostile: `run` does it once and counts what came back; `allowed`: the answers that are right."""

    run: Callable[[int, Tally], Awaitable[None]]
    allowed: tuple[str, ...]


def simple(request: bytes, allowed: tuple[str, ...] = REFUSED, leave: bool = False) -> Attack:
    """One request as it is."""

    async def run(port: int, tally: Tally) -> None:
        await ask(port, request, tally, leave)

    return Attack(run, allowed)


def one_of(requests: list[bytes], allowed: tuple[str, ...] = REFUSED) -> Attack:
    """One of several requests."""

    async def run(port: int, tally: Tally) -> None:
        await ask(port, random.choice(requests), tally)

    return Attack(run, allowed)


def raw(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


def large_png(side: int) -> bytes:
    """A picture just within the limits: small as a file, large in memory."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def text_bomb() -> bytes:
    """A PNG of 10 x 10 pixels whose comment unpacks to 60 MB."""
    picture = large_png(10)
    data = b"Comment\0\0" + zlib.compress(bytes(60 << 20), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return picture[:33] + chunk + picture[33:]


async def drip(port: int, tally: Tally, start: bytes, seconds: float = 25.0) -> None:
    """A byte a second, for as long as the service puts up with it."""
    answer = b""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(start)
        for _ in range(int(seconds)):
            with contextlib.suppress(asyncio.TimeoutError):
                answer += await asyncio.wait_for(reader.read(1000), 1.0)
                break
            writer.write(b"a")
        writer.close()
    tally.statuses[answer.split()[1].decode() if answer.startswith(b"HTTP/1.1") else "closed"] += 1


async def slowloris(port: int, tally: Tally) -> None:
    """Fifty connections whose headers never end."""
    await asyncio.gather(*(drip(port, tally, b"GET /healthz HTTP/1.1\r\nX: ") for _ in range(50)))


async def slow_bodies(port: int, tally: Tally) -> None:
    """Five uploads of a byte a second."""
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    head = raw(f"POST /scenes/place/localize HTTP/1.1\nHost: a\n{kind}\nContent-Length: 100000")
    await asyncio.gather(*(drip(port, tally, head + part("image", b"\xff\xd8", "a.jpg")[:-2], 40.0) for _ in range(5)))


async def flood(port: int, tally: Tally) -> None:
    """A thousand connections at once that say nothing for five seconds."""

    async def one() -> str:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 30)
        except (OSError, asyncio.TimeoutError) as error:
            return type(error).__name__
        try:
            answer = await asyncio.wait_for(reader.read(100), 5)
            return answer.split()[1].decode() if answer else "closed"
        except asyncio.TimeoutError:
            return "left"
        except OSError as error:
            return type(error).__name__
        finally:
            writer.close()

    tally.statuses.update(await asyncio.gather(*(one() for _ in range(1000))))


async def pipeline(port: int, tally: Tally) -> None:
    """Fifty requests on a connection without waiting for an answer."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 49 + b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(-1), 30)
        writer.close()
        tally.statuses["200"] += answers.count(b"HTTP/1.1 200")
        tally.statuses["503"] += answers.count(b"HTTP/1.1 503")
        return
    tally.statuses["closed"] += 1


def cancelled(photo: bytes) -> Attack:
    """A good request whose client leaves at some moment before the answer."""

    async def run(port: int, tally: Tally) -> None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(part("image", photo, "a.jpg")))
            await asyncio.sleep(random.uniform(0, 3))
            writer.transport.abort()
        tally.statuses["left"] += 1

    return Attack(run, NO_ANSWER)


def attacks(photo: bytes) -> dict[str, Attack]:
    """All of them, by name."""
    wrong = wrong_requests(photo)
    image = part("image", photo, "a.jpg")
    kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /scenes/place/localize HTTP/1.1\nHost: a\nConnection: close\n{kind}"
    lens = part("camera", b"SIMPLE_PINHOLE 7000 7000 6000 3500 3500")
    zipped = zlib.compress(bytes(60_000), 9)
    small = part("camera", b"SIMPLE_PINHOLE 10 10 10 5 5")
    body = image + f"--{BOUNDARY}--\r\n".encode()
    simple_ones = {name: simple(request, leave=name.startswith("gone")) for name, request in wrong.items() if not name.startswith("gone")}
    return {
        **simple_ones,
        "gone in the middle": simple(wrong["gone in the middle"], NO_ANSWER, leave=True),
        "gone before the answer": cancelled(photo),
        "wrong cameras": one_of([post(part("camera", text.encode()), image) for text in CAMERAS]),
        "wrong priors": one_of([post(part("prior", text.encode()), image) for text in PRIORS]),
        "paths": one_of([raw(f"POST {path} HTTP/1.1\nHost: a\nConnection: close\nContent-Length: 0") for path in PATHS]),
        "noise as a photo": simple(post(part("image", random.Random(1).randbytes(200_000), "a.jpg"))),
        "largest picture, blank": simple(post(lens, part("image", large_png(7000), "a.png")), ("200", "504 with Retry-After", *BUSY)),
        "comment bomb": simple(post(small, part("image", text_bomb(), "a.png")), ("200", *REFUSED)),
        "gzip body": simple(raw(f"{head}\nContent-Encoding: gzip\nContent-Length: {len(zipped)}", zipped)),
        "two lengths": simple(raw(f"{head}\nContent-Length: 5\nContent-Length: {len(body)}", body), ("400", *BUSY)),
        "length and chunks": simple(raw(f"{head}\nTransfer-Encoding: chunked\nContent-Length: 5", b"zz\r\n"), ("400", *BUSY)),
        "a thousand fields": simple(post(*(part(f"f{i}", b"x") for i in range(1000)))),
        "no boundary": simple(raw(head.partition(";")[0] + "\nContent-Length: 3", b"abc")),
        "method": simple(raw("BREW /scenes/place/localize HTTP/1.1\nHost: a\nConnection: close")),
        "slow headers": Attack(slowloris, ("closed", "503", "408")),
        "slow bodies": Attack(slow_bodies, ("408", "400", "503", "closed")),
        "a thousand connections": Attack(flood, ("left", "closed", "503", "ConnectionResetError", "TimeoutError")),
        "pipeline": Attack(pipeline, ("200", "503", "closed")),
    }


RARE = {"a thousand connections": 60.0, "slow headers": 45.0, "slow bodies": 60.0, "largest picture, blank": 45.0, "too large": 20.0}
"""Seconds between two of a kind that costs much; all others come by turns."""
