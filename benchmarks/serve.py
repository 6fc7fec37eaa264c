"""Does `d2s serve` keep answering at twice what it can do, among broken and hostile requests?

Starts a service of one model, measures what it can do (`capacity`: as many clients as one image in work and one waiting need), then sends
good, broken and hostile requests at `--factor` times that rate, whether or not the answers come (`overload`). Prints a table and writes
benchmarks/results/serve.json: requests per second, seconds to the answer (median, 99th percentile), answers by status, memory over time.
A quarter of an hour of it, with Locust and worse clients: serve_soak.py.

    python benchmarks/serve.py --model DIR --images DIR [--seconds 60] [--factor 2] [--workers 1]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from d2s.features.images import IMAGE_SUFFIXES
from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "serve.json"
BOUNDARY = "d2sbenchmark"
PATIENCE = 60.0
GOOD = 0.7
"""Share of good requests in the overload."""


def part(name: str, value: bytes, filename: str = "") -> bytes:
    shown = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'.encode() + value + b"\r\n"


def post(*parts: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> bytes:
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    head = f"POST /scenes/place/localize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def wrong_requests(photo: bytes) -> dict[str, bytes]:
    """Requests that must be refused, or end without harm."""
    good = post(part("image", photo, "a.jpg"))
    return {
        "truncated photo": post(part("image", photo[: len(photo) // 2], "a.jpg")),
        "no photo": post(part("image", b"GIF89a" + bytes(5000), "a.jpg")),
        "bomb": post(part("image", bomb(), "a.png")),
        "wrong camera": post(part("camera", b"PINHOLE 1 1 1e999"), part("image", photo, "a.jpg")),
        "no field": post(part("camera", b"x")),
        "wrong type": post(part("image", photo, "a.jpg"), kind="application/json"),
        "too large": post(part("image", bytes(21 << 20), "a.jpg")),
        "no HTTP": bytes(range(256)) * 20,
        "gone in the middle": good[: len(good) // 2],
        "gone before the answer": good,
    }


@dataclass
class Tally:
    """What became of the requests of one kind."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Answers by status, and the seconds that good ones took."""
        times = {f"p{rank}_s": round(float(np.percentile(self.seconds, rank)), 3) for rank in (50, 99) if self.seconds}
        return {"statuses": dict(sorted(self.statuses.items())), **times}


async def ask(port: int, request: bytes, tally: Tally, leave: bool = False) -> None:
    """One request on a connection of its own. `leave`: do not wait for the answer."""
    begun = time.monotonic()
    try:
        status, retry = await asyncio.wait_for(_exchange(port, request, leave), PATIENCE)
    except asyncio.TimeoutError:
        status, retry = "no answer", ""
    except OSError as error:
        status, retry = type(error).__name__, ""
    tally.statuses[status + (" with Retry-After" if retry else "")] += 1
    if status == "200":
        tally.seconds.append(time.monotonic() - begun)


async def _exchange(port: int, request: bytes, leave: bool) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionError):  # the answer may have been sent already
            await writer.drain()
        if leave:
            await asyncio.sleep(0.05)
            return "left", ""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        return head.split()[1], "retry" if "retry-after:" in head else ""
    except asyncio.IncompleteReadError:
        return "closed", ""
    finally:
        writer.close()


async def capacity(port: int, photos: Sequence[bytes], seconds: float, workers: int) -> dict[str, Any]:
    """Two clients per worker process, each of which asks again as soon as it has its answer."""
    tally, begun = Tally(), time.monotonic()

    async def client() -> None:
        while time.monotonic() < begun + seconds:
            await ask(port, post(part("image", random.choice(photos), "a.jpg")), tally)

    await asyncio.gather(*(client() for _ in range(2 * workers)))
    return {"requests_per_second": round(len(tally.seconds) / (time.monotonic() - begun), 2), **tally.summary()}


async def overload(port: int, photos: Sequence[bytes], seconds: float, rate: float, pid: int) -> dict[str, Any]:
    """Good, broken and hostile requests at a fixed rate of good ones."""
    good, others = Tally(), {name: Tally() for name in wrong_requests(photos[0])}
    wrong, tasks, memory, begun = wrong_requests(photos[0]), [], [], time.monotonic()
    last = 0.0
    while (now := time.monotonic() - begun) < seconds:
        if random.random() < GOOD:
            tasks.append(asyncio.create_task(ask(port, post(part("image", random.choice(photos), "a.jpg")), good)))
        else:
            name = random.choice(list(wrong))
            tasks.append(asyncio.create_task(ask(port, wrong[name], others[name], leave=name.startswith("gone"))))
        if not memory or now - last > seconds / 12:
            memory.append({"second": round(now, 1), "rss_mib": round(resident(pid) / 2**20, 1)})
            last = now
        await asyncio.sleep(random.expovariate(rate / GOOD))
    await asyncio.gather(*tasks)
    took = time.monotonic() - begun
    memory.append({"second": round(took, 1), "rss_mib": round(resident(pid) / 2**20, 1)})
    result = {"good_per_second_sent": round(rate, 2), "good_per_second_answered": round(len(good.seconds) / took, 2)}
    return {**result, "good": good.summary(), "wrong": {name: tally.summary() for name, tally in others.items()}, "memory": memory}


def read_photos(folder: Path, most: int = 40) -> dict[Path, bytes]:
    """Image files of a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    return {path: path.read_bytes() for path in paths[:most]}


def machine() -> dict[str, Any]:
    """Where figures were taken."""
    return {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "default"), "python": platform.python_version()}


def resident(pid: int) -> float:
    """Memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in (pid, *children))
    return pages * float(os.sysconf("SC_PAGE_SIZE"))


@contextlib.contextmanager
def service(scenes: Mapping[str, Path], workers: int, log: Path, *options: str) -> Any:
    """A running `d2s serve`: its port and process."""
    models = [word for name, model in scenes.items() for word in ("--model", f"{name}={model}")]
    command = ["serve", *models, "--port", "0", "--preload", "--workers", str(workers), "--cudaid", "-1", *options]
    with log.open("w+") as file, subprocess.Popen([sys.executable, "-u", "-m", "d2s", *command], stdout=file, stderr=file) as process:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127.0.0.1:(\d+)/", log.read_text())):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        try:
            yield int(found[1]), process
        finally:
            process.terminate()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model/ folder of a run")
    parser.add_argument("--images", type=Path, required=True, help="folder with photos of the place, of the mapping camera's size")
    parser.add_argument("--seconds", type=float, default=60, help="of overload; a quarter of it for the capacity (default: 60)")
    parser.add_argument("--factor", type=float, default=2.0, help="good requests sent, as a multiple of the capacity (default: 2)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log", type=Path, default=Path("serve.log"), help="the service's log (default: serve.log)")
    args = parser.parse_args(argv)
    random.seed(0)
    photos = list(read_photos(args.images).values())
    with service({"place": args.model}, args.workers, args.log) as (port, process):
        asyncio.run(capacity(port, photos, 3, args.workers))  # warm
        able = asyncio.run(capacity(port, photos, args.seconds / 4, args.workers))
        print("capacity", able)
        over = asyncio.run(overload(port, photos, args.seconds, args.factor * able["requests_per_second"], process.pid))
        alive = process.poll() is None
    tracebacks = args.log.read_text().count("Traceback")
    ended = {"alive_at_the_end": alive, "exit_code": process.returncode, "tracebacks": tracebacks}
    settings = {"seconds": args.seconds, "factor": args.factor, "workers": args.workers, "photos": len(photos), "machine": machine()}
    earlier = {key: value for key, value in read_json(RESULTS).items() if key == "soak"} if RESULTS.is_file() else {}
    write_json(RESULTS, {"settings": settings, "capacity": able, "overload": over, **ended, **earlier})
    print_overload(over, ended)
    return 0


def print_overload(over: dict[str, Any], ended: dict[str, Any]) -> None:
    print(f"good requests: {over['good_per_second_sent']}/s sent, {over['good_per_second_answered']}/s answered: {over['good']}")
    for name, summary in over["wrong"].items():
        print(f"  {name:<24}{summary}")
    print("memory (MiB):", *(f"{entry['second']:.0f}s {entry['rss_mib']:.0f}" for entry in over["memory"]))
    print(ended)


if __name__ == "__main__":
    sys.exit(main())
