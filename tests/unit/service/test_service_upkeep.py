"""Between two images the service gives back what a large one left."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from d2s.service import upkeep
from d2s.service.worker import Worker

MIB = 2.0**20


@pytest.fixture
def process(monkeypatch):
    """A process whose memory and clock the test sets; what is given back goes down to what is in use."""
    state = {"resident": 500 * MIB, "used": 400 * MIB, "now": 1000.0, "times": 0}

    def give_back():
        state["resident"], state["times"] = state["used"], state["times"] + 1

    monkeypatch.setattr(upkeep, "resident_bytes", lambda: state["resident"])
    monkeypatch.setattr(upkeep, "give_back", give_back)
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: state["now"])
    return state


def after(keep, process, seconds, resident) -> int:
    """How often memory was given back so far, after an image that left the process with so much."""
    process["now"] += seconds
    process["resident"] = resident * MIB
    keep()
    return process["times"]


def test_images_of_the_usual_size_find_the_memory_of_the_last_one(process):
    keep = upkeep.Upkeep()
    keep()
    assert process["times"] == 1 and process["resident"] == 400 * MIB  # after the start
    assert [after(keep, process, 60, resident) for resident in (500, 650, 500, 650)] == [1] * 4


def test_what_a_large_image_left_is_given_back(process):
    keep = upkeep.Upkeep()
    assert after(keep, process, 0, 500) == 1 and after(keep, process, 60, 1500) == 2
    assert process["resident"] == 400 * MIB


def test_memory_is_not_given_back_all_the_time(process):
    keep = upkeep.Upkeep()
    keep()
    times = [after(keep, process, upkeep.SECONDS / 10, 1500) for _ in range(40)]
    assert times[-1] in (4, 5)


def test_a_scene_more_in_memory_is_no_waste(process):
    keep = upkeep.Upkeep()
    keep()
    process["used"] = 1000 * MIB
    assert after(keep, process, 60, 1100) == 2
    assert after(keep, process, 60, 1200) == 2
    process["used"] = 400 * MIB  # it left
    assert after(keep, process, 60, 450) == 2 and after(keep, process, 60, 800) == 3


def test_upkeep_comes_after_each_piece_of_work_and_when_asked():
    done, seen = [], threading.Event()
    worker = Worker(3, lambda: (done.append("upkeep"), seen.set())[0])
    for name in ("a", "b"):
        worker.submit(lambda name=name: done.append(name)).result(10)
    seen.clear()
    worker.tidy()
    assert seen.wait(10)
    worker._executor.submit(lambda: None).result(10)
    assert done == ["a", "upkeep", "b", "upkeep", "upkeep"] and worker.waiting == 0
    worker.close()
    worker.tidy()  # no error


PROBE = """
from d2s.commands.memory import keep_freed_memory
from d2s.service.metrics import resident_bytes
from d2s.service.upkeep import give_back

kept = keep_freed_memory()
blocks = [b"x" * 10_000_000 for _ in range(30)]
last = blocks[-1]
before = resident_bytes()
del blocks
freed = before - resident_bytes()
print(kept, freed, give_back(), before - resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_what_commands_keep_can_be_given_back():
    done = subprocess.run([sys.executable, "-c", PROBE], env={}, capture_output=True, text=True, check=True)
    kept, freed, given, after_that = done.stdout.split()
    if kept != "True" or given != "True":
        pytest.skip("this C library cannot be told")
    assert float(freed) < 10e6 and float(after_that) > 280e6
