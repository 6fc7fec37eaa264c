"""Does `d2s serve` live through a quarter of an hour of good, broken and hostile requests at twice what it can do?

Locust (`pip install locust`, in an environment of its own) plays the good clients (serve_locust.py), serve_hostile.py the others. Every
good request must be answered with the pose that the idle service gave, or told when to come back; the service must stay alive, its memory
flat, and end with exit code 0 on SIGTERM while requests are under way. Writes `soak` into benchmarks/results/serve.json.

    python benchmarks/serve_soak.py --model DIR --images DIR --locust VENV/bin/locust [--minutes 15] [--factor 2]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from serve import RESULTS, Tally, ask, capacity, machine, part, post, read_photos, resident, service
from serve_hostile import RARE, Attack, attacks

from d2s.scene.atomic import read_json, write_json

LOCUSTFILE = Path(__file__).with_name("serve_locust.py")
LONGEST = 20.0
"""Seconds that an answer may take before its user is late for its next request."""

OTHER = 0.01
"""Share of photos for a second scene, which has no room in memory beside the first: each makes the service load it, and then the first."""

EVERY = 0.5  # seconds between two hostile requests
LOOK = 5.0  # seconds between two looks at memory


def centers(port: int, photos: dict[str, bytes]) -> dict[str, list[float]]:
    """What the idle service says of each photo; those without a pose are left out."""
    found = {}
    for name, data in photos.items():
        request = urllib.request.Request(f"http://127.0.0.1:{port}/scenes/place/localize", method="POST")
        request.add_header("Content-Type", "multipart/form-data; boundary=d2sbenchmark")
        request.data = post(part("image", data, name)).partition(b"\r\n\r\n")[2]
        value = patiently(request)
        if value["success"]:
            found[name] = value["center"]
    return found


def patiently(request: urllib.request.Request, tries: int = 5) -> dict[str, Any]:
    """The answer to a request; come back when told so (a machine that others use may stand still for a while)."""
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            if error.code not in (503, 504) or not left:
                raise
            time.sleep(float(error.headers["Retry-After"]))
    raise AssertionError


def locust(args: argparse.Namespace, port: int, rate: float, plan: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Users whose pacing gives `rate` requests a second as long as answers take less than LONGEST."""
    users = max(1, round(rate * LONGEST))
    folder = args.log.parent
    write_json(folder / "plan.json", {**plan, "pacing": users / rate, "other": OTHER})
    command = [str(args.locust), "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--host", f"http://127.0.0.1:{port}"]
    limits = ["-u", str(users), "-r", f"{rate:.3f}", "-t", f"{round(60 * args.minutes)}s", "--stop-timeout", "120"]
    environment = {**os.environ, "D2S_SOAK": str(folder / "plan.json")}
    output = (folder / "locust.log").open("w")
    return subprocess.Popen([*command, *limits, "--json-file", str(folder / "locust")], env=environment, stdout=output, stderr=output)


async def hostile(port: int, photo: bytes, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Attacks by turns until Locust has ended; what came of them."""
    kinds = attacks(photo)
    tallies, tasks, begun = {name: Tally() for name in kinds}, set(), time.monotonic()
    due = {name: begun + seconds * random.random() for name, seconds in RARE.items()}
    usual = [name for name in kinds if name not in RARE]
    while process.poll() is None:
        late = [name for name, when in due.items() if when <= time.monotonic()]
        for name in late:
            due[name] = time.monotonic() + RARE[name]
        for name in late or [random.choice(usual)]:
            task = asyncio.create_task(kinds[name].run(port, tallies[name]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(EVERY)
    await asyncio.gather(*tasks)
    return {name: verdict(tallies[name], kinds[name]) for name in kinds}


def verdict(tally: Tally, attack: Attack) -> dict[str, Any]:
    """Answers by status, and how many were not among the right ones."""
    wrong = {status: count for status, count in tally.statuses.items() if status not in attack.allowed}
    return {"statuses": dict(sorted(tally.statuses.items())), "unexpected": sum(wrong.values())}


async def watch(pid: int, port: int, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Memory, open files and images answered, every few seconds."""
    looks, begun = [], time.monotonic()
    while process.poll() is None:
        answered = await asyncio.to_thread(images, port)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        second = round(time.monotonic() - begun, 1)
        looks.append({"second": second, "rss_mib": round(resident(pid) / 2**20, 1), "files": files, "images": answered})
        await asyncio.sleep(LOOK)
    return looks


def images(port: int) -> int | None:
    """Images that were computed so far; None where the service did not say."""
    with contextlib.suppress(OSError):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
        return int(sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("d2s_images_total{")))
    return None


def good_requests(path: Path) -> dict[str, Any]:
    """Locust's statistics: requests by outcome, seconds to an answer."""
    entries = json.loads(path.read_text())
    outcomes = {entry["name"]: entry["num_requests"] for entry in entries}
    result: dict[str, Any] = {"requests": sum(outcomes.values()), "outcomes": outcomes}
    for entry in entries:
        if entry["name"] in ("answered", "told to come back"):
            times = Counter({float(ms): count for ms, count in entry["response_times"].items()})
            result[f"seconds, {entry['name']}"] = {f"p{rank}": percentile(times, rank) for rank in (50, 99)}
    result["lost"] = sum(count for name, count in outcomes.items() if name not in ("answered", "told to come back"))
    return result


def percentile(times: Counter[float], rank: float) -> float:
    """Seconds, of Locust's histogram of milliseconds."""
    values = sorted(times)
    reached = np.cumsum([times[value] for value in values])
    return round(values[int(np.searchsorted(reached, rank / 100 * reached[-1]))] / 1e3, 2)


def trend(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Is memory flat? Medians of the thirds after the first minute, and the slope there."""
    later = [look for look in looks if look["second"] > 60] or looks
    seconds, rss = (np.array([look[key] for look in later], dtype=float) for key in ("second", "rss_mib"))
    thirds = [round(float(np.median(part_)), 1) for part_ in np.array_split(rss, 3) if len(part_)]
    slope = float(np.polyfit(seconds, rss, 1)[0]) * 60 if len(later) > 1 else 0.0
    return {
        "thirds_mib": thirds,
        "max_mib": float(rss.max()),
        "mib_per_minute": round(slope, 2),
        "max_files": max(look["files"] for look in later),
    }


async def end_under_way(port: int, photos: list[bytes], process: subprocess.Popen[str]) -> dict[str, Any]:
    """SIGTERM while requests are under way: all of them must get their answer, and the exit code be 0."""
    tally = Tally()
    tasks = [asyncio.create_task(ask(port, post(part("image", data, "a.jpg")), tally)) for data in photos[:6]]
    await asyncio.sleep(1.0)
    process.terminate()
    await asyncio.gather(*tasks)
    return {"statuses": dict(tally.statuses), "exit_code": await asyncio.to_thread(process.wait, 60)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model/ folder of a run")
    parser.add_argument("--images", type=Path, required=True, help="folder with photos of the place, of the mapping camera's size")
    parser.add_argument("--locust", default="locust", help="Locust's command (default: locust)")
    parser.add_argument("--minutes", type=float, default=15, help="(default: 15)")
    parser.add_argument("--factor", type=float, default=2.0, help="good requests sent, as a multiple of the capacity (default: 2)")
    parser.add_argument("--log", type=Path, default=Path("serve.log"), help="the service's log; Locust's beside it (default: serve.log)")
    args = parser.parse_args(argv)
    args.log.parent.mkdir(parents=True, exist_ok=True)
    random.seed(0)
    result = soak(args)
    write_json(RESULTS, {**(read_json(RESULTS) if RESULTS.is_file() else {}), "soak": result})
    print(json.dumps({key: value for key, value in result.items() if key != "looks"}, indent=1))
    return 0


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run."""
    photos = read_photos(args.images)
    scenes = {"place": args.model, "other": args.model}
    with service(scenes, 1, args.log, "--max_loaded", "1") as (port, process):
        plan = {"centers": centers(port, {path.name: data for path, data in photos.items()})}
        plan["photos"] = [str(path.resolve()) for path in photos if path.name in plan["centers"]]
        tries = [asyncio.run(capacity(port, list(photos.values()), 20, 1)) for _ in range(3)]  # the machine may be busy with something else
        able = max(tries, key=lambda one: one["requests_per_second"])
        rate = args.factor * able["requests_per_second"]
        print("capacity", able, flush=True)
        good = locust(args, port, rate, plan)

        async def both() -> Any:
            return await asyncio.gather(hostile(port, next(iter(photos.values())), good), watch(process.pid, port, good))

        wrong, looks = asyncio.run(both())
        alive = process.poll() is None
        after = asyncio.run(capacity(port, list(photos.values()), 30, 1))
        end = asyncio.run(end_under_way(port, list(photos.values()), process))
    requests = good_requests(args.log.parent / "locust.json")
    counts = [(look["second"], look["images"]) for look in looks if look["images"] is not None]
    return {
        "settings": {"minutes": args.minutes, "factor": args.factor, "photos": len(plan["photos"]), "machine": machine()},
        "capacity_before": able,
        "good_per_second_sent": round(rate, 2),
        "good": requests,
        "images_computed_per_second": round((counts[-1][1] - counts[0][1]) / (counts[-1][0] - counts[0][0]), 2),
        "hostile": wrong,
        "hostile_unexpected": sum(entry["unexpected"] for entry in wrong.values()),
        "alive_at_the_end": alive,
        "capacity_after": after,
        "sigterm_under_way": end,
        "tracebacks": args.log.read_text().count("Traceback"),
        "memory": trend(looks),
        "looks": [look for index, look in enumerate(looks) if index % 6 == 0],
    }


if __name__ == "__main__":
    sys.exit(main())
