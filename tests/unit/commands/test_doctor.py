"""`d2s doctor`: what is missing is named, with what to do, and decides the exit code."""

from __future__ import annotations

import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from d2s import cli
from d2s.commands import doctor
from d2s.features.table import FEATURES

REQUIREMENTS = [
    "numpy>=1.24",
    "opencv-python-headless>=4.7",
    "visdom>=0.2.4; python_version < '3'",
    "d2s-no-such-server>=1; extra == 'serve'",
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Distributions and their versions as the doctor sees them; a test may change them."""
    versions = {"numpy": "2.0", "opencv-python-headless": "4.9"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "requires", lambda name: REQUIREMENTS)
    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setenv("D2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return versions


def test_a_sound_machine_exits_with_0_and_leaves_nothing_behind(
    installed: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "missing:" not in out
    assert "d2s-no-such-server        not installed (for d2s serve): sh scripts/setup.sh serve" in out
    assert all(f"\n  {name} " in out for name in (*FEATURES, "numpy", "CPU", "hloc", "d2s-no-such-server"))
    assert not list(tmp_path.iterdir())


def test_every_feature_shows_its_licences_and_where_its_weights_are_or_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = tmp_path / "weights"
    monkeypatch.setattr(doctor, "weights_status", lambda: [(name, here, f"licence {name}", "") for name in ("disk",)] + _absent())
    found = {}
    for finding in doctor.features():
        if finding.name:
            name = finding.name
        found.setdefault(name, []).append(finding.text)
    assert list(found) == list(FEATURES)
    assert found["sift"] == [f"{FEATURES['sift'].code_licence}; needs no weights"]
    assert found["disk"][0].endswith("licence disk, found") and found["disk"][1] == str(here)
    assert found["aliked"][0].endswith("licence aliked, not here") and found["aliked"][1] == "get aliked"


def _absent() -> list[tuple[str, None, str, str]]:
    names = {spec.weights for spec in FEATURES.values() if spec.weights} - {"disk"}
    return [(name, None, f"licence {name}", f"get {name}") for name in sorted(names)]


def test_a_missing_package_is_named_with_its_remedy_and_exits_with_1(installed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    del installed["numpy"]
    assert cli.main(["doctor"]) == 1
    assert "missing: numpy: pip install 'numpy>=1.24'" in capsys.readouterr().out


def test_a_version_that_is_too_old_counts_as_missing(installed: dict[str, str]) -> None:
    installed["numpy"] = "1.20"
    finding = doctor.check_package(Requirement("numpy>=1.24"))
    assert finding.missing and "1.20" in finding.text and ">=1.24" in finding.text


def test_a_package_that_cannot_be_imported_counts_as_missing(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> types.ModuleType:
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = doctor.check_package(Requirement("numpy>=1.24"))
    assert finding.missing and "libGL.so.1" in finding.text


@pytest.mark.parametrize("name", ["opencv-python", "opencv-contrib-python"])
def test_any_opencv_will_do(installed: dict[str, str], name: str) -> None:
    del installed["opencv-python-headless"]
    installed[name] = "4.9"
    finding = doctor.check_package(Requirement("opencv-python-headless>=4.7"))
    assert (finding.name, finding.text, finding.missing) == (name, "4.9", False)


def test_visdom_is_never_essential(installed: dict[str, str]) -> None:
    finding = doctor.check_package(Requirement("visdom>=0.2.4"))
    assert not finding.missing and "pip install" in finding.text


def test_an_uninstalled_project_points_to_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", none)
    (finding,) = doctor.required_packages()
    assert finding.missing and "scripts/setup.sh" in finding.remedy


def test_hloc_is_found_installed_or_cloned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.d2s, "__file__", str(tmp_path / "d2s" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "hloc").is_dir()])
    assert doctor.find_hloc() is None and not doctor.hloc().missing
    clone = tmp_path / "third_party" / "Hierarchical_Localization"
    (clone / "hloc").mkdir(parents=True)
    (clone / "hloc" / "extract_features.py").touch()
    assert doctor.find_hloc() == clone
    assert "without its submodule SuperGluePretrainedNetwork" in doctor.hloc().text
    (clone / "third_party" / "SuperGluePretrainedNetwork" / "models").mkdir(parents=True)
    assert doctor.hloc().text == f"found in {clone}"
    elsewhere = tmp_path / "installed"
    (elsewhere / "hloc").mkdir(parents=True)
    (elsewhere / "hloc" / "extract_features.py").touch(), (elsewhere / "hloc" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(elsewhere))
    assert doctor.find_hloc() == elsewhere


def test_a_folder_that_cannot_be_written_to_stops_the_main_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (finding,) = doctor.folders({"scenes": tmp_path / "not" / "yet"})
    assert finding.missing and "Permission denied" in finding.text and str(tmp_path) in finding.remedy
