"""A tiny demo scene, made once, and the commands as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--demo_option", "mapping_images=32"),
    *("--demo_option", "query_images=5"),
    *("--demo_option", "size=320x240"),
    *("--num_keypoints", "500"),
]

KILLED = """
import os, signal, sys
from pathlib import Path
from d2s.cli import main

published, containing, printed = sys.argv[1:4]
replace, write = os.replace, sys.stdout.write

def end():
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)

def publish(source, target, **options):
    replace(source, target, **options)
    if published and os.fspath(target).endswith(published) and (not containing or containing in Path(target).read_text()):
        end()

def tell(text):
    count = write(text)
    if printed and printed in text:
        end()
    return count

os.replace, sys.stdout.write = publish, tell
sys.exit(main(sys.argv[4:]))
"""


def kill_d2s(*arguments: object, published: str = "", containing: str = "", printed: str = "") -> None:
    """`d2s ARGUMENTS` as a process that gets SIGKILL at a moment of its own, however busy the machine is.

    `published`: the moment at which a path with this ending is published, with the text `containing` in it; `printed`: that at which
    this is printed.
    """
    command = [sys.executable, "-c", KILLED, published, containing, printed, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout


@dataclass(frozen=True)
class Tiny:
    """A preprocessed demo scene, which tests may read but not change, and the commands as processes."""

    data_dir: Path

    @property
    def folder(self) -> Path:
        return self.data_dir / "demo" / "gallery"

    def scene(self, logs: Path, name: str) -> list[str]:
        """Options that name the scene and a run."""
        where = ["--dataset", "demo", "--scene", "gallery", "--data_dir", str(self.data_dir)]
        return [*where, "--log_dir", str(logs), "--name", name, "--cudaid", "-1"]

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """`d2s ARGUMENTS` as a process of its own, on one thread; what it prints is in stdout, errors among it."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "d2s", *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **options)

    def d2s(self, *arguments: object) -> str:
        """What a command prints that must succeed."""
        process = self.start(*arguments)
        output = process.communicate()[0]
        assert process.returncode == 0, output
        assert "Traceback" not in output
        return output


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    """The scene, preprocessed once."""
    made = Tiny(tmp_path_factory.mktemp("tiny"))
    made.d2s("preprocess", "--dataset", "demo", *TINY, "--out_dir", made.data_dir, "--cudaid", "-1")
    return made
