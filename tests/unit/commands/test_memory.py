"""Commands keep freed memory: large arrays are not handed out page by page again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import resource
from d2s.commands.memory import keep_freed_memory

kept = keep_freed_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 64_000_000
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[1:]), max(faults[1:]))
"""


def probe(**environment):
    done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=True)
    kept, *faults = done.stdout.split()
    return kept == "True", [int(count) for count in faults]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told")
def test_large_arrays_are_used_again():
    kept, (_, most) = probe()
    if not kept:
        pytest.skip("this C library cannot be told")
    assert most < 1000
    kept, (fewest, _) = probe(MALLOC_ARENA_MAX="4")  # the user's own settings are left alone
    assert not kept and fewest > 10_000
