"""Counters in Prometheus' text format, summed over the worker processes of a service."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from d2s.scene.atomic import write_json

KINDS: dict[str, tuple[str, str]] = {
    "d2s_requests_total": ("counter", "Requests by route and status."),
    "d2s_refused_total": ("counter", "Requests that were not computed, by status."),
    "d2s_images_total": ("counter", "Images by scene and result."),
    "d2s_connections_closed_total": ("counter", "Connections that were closed because there were too many: idle ones, and new ones."),
    "d2s_received_bytes_total": ("counter", "Bytes of request bodies."),
    "d2s_model_loads_total": ("counter", "Models read into memory."),
    "d2s_answer_seconds": ("histogram", "Seconds from a request's first byte to its answer, images only."),
    "d2s_stage_seconds_total": ("counter", "Seconds of computing by scene and stage."),
    "d2s_queue_length": ("gauge", "Images that wait."),
    "d2s_queue_capacity": ("gauge", "Images that may wait."),
    "d2s_uploads": ("gauge", "Requests whose body is being read."),
    "d2s_models_loaded": ("gauge", "Models in memory."),
    "d2s_resident_bytes": ("gauge", "Memory of the processes."),
    "d2s_processes": ("gauge", "Worker processes."),
}
BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

Values = Mapping[str, float]
"""Sample, as it is written (`name{label="value"}`), -> value."""


class Metrics:
    """The numbers of this process. Label values come from fixed sets (routes, scenes, statuses), so that there are few samples."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, value: float = 1.0, **labels: object) -> None:
        """Count."""
        with self._lock:
            key = sample(name, **labels)
            self._values[key] = self._values.get(key, 0.0) + value

    def set(self, name: str, value: float, **labels: object) -> None:
        """Say what a gauge stands at."""
        with self._lock:
            self._values[sample(name, **labels)] = value

    def observe(self, name: str, value: float, **labels: object) -> None:
        """Count into a histogram."""
        for bound in (*BUCKETS, float("inf")):
            self.add(f"{name}_bucket", float(value <= bound), **labels, le="+Inf" if bound == float("inf") else bound)
        self.add(f"{name}_sum", value, **labels)
        self.add(f"{name}_count", 1.0, **labels)

    def snapshot(self) -> dict[str, float]:
        """All samples."""
        with self._lock:
            return dict(self._values)


def sample(name: str, **labels: object) -> str:
    """Name and labels as Prometheus writes them."""
    inner = ",".join(f'{key}="{escape(str(value))}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


def escape(value: str) -> str:
    """A label's value: backslash, quote and line feed are escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def family(key: str) -> str:
    """The metric that a sample belongs to."""
    name = key.partition("{")[0]
    for suffix in ("_bucket", "_sum", "_count"):
        if name.removesuffix(suffix) in KINDS:
            return name.removesuffix(suffix)
    return name


def render(processes: Iterable[Values]) -> str:
    """The page that Prometheus reads: samples of all processes, added up."""
    total: dict[str, float] = {}
    for values in processes:
        for key, value in values.items():
            total[key] = total.get(key, 0.0) + value
    lines = []
    for name, (kind, text) in KINDS.items():
        samples = [f"{key} {value:.17g}" for key, value in total.items() if family(key) == name]
        if samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


class Board:
    """A folder where every worker process leaves its numbers, so that whichever is asked can answer for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(self, values: Values) -> None:
        """Leave the numbers of this process."""
        write_json(self.folder / f"{os.getpid()}.json", dict(values))

    def others(self) -> Iterable[Values]:
        """What the other processes left; of those that have ended, the counters alone."""
        for path in self.folder.glob("[0-9]*.json"):
            if path.stem != str(os.getpid()):
                values = json.loads(path.read_text())
                yield values if _alive(int(path.stem)) else {k: v for k, v in values.items() if KINDS[family(k)][0] != "gauge"}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def resident_bytes() -> float:
    """Memory of this process; 0 where the system does not say (no /proc)."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0
