"""What this machine has and what is missing: versions, devices, hloc, weights and their licences, write access."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import d2s
from d2s.features.table import FEATURES
from d2s.features.weights import cache_dir, weights_status

IMPORT_NAMES = {"pillow": "PIL", "opencv-python-headless": "cv2", "python-multipart": "python_multipart"}
"""Distributions whose module has another name."""

OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
"""The distributions that give `cv2`; any one of them will do."""

EXTRAS = {"serve": "for d2s serve", "onnx": "for d2s export --format onnx"}
HLOC_CLONES = ("Hierarchical-Localization", "Hierarchical_Localization")
HLOC_HELP = "optional; --sfm auto takes the native path (third_party/README.md says how to get it)"
HLOC_SUBMODULE = "SuperGluePretrainedNetwork"
HLOC_FILE = "extract_features.py"
"""Tells hloc from another package of that name, our own `processing/hloc` among them."""
WIDTH = 26


@dataclass(frozen=True)
class Finding:
    """One line of the report. `missing`: without it the main job cannot run; `remedy`: how to get it."""

    name: str
    text: str
    missing: bool = False
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s doctor`."""
    parser.add_argument("--data_dir", type=Path, default=Path("dataset"), help="where scenes would be written (default: dataset)")
    parser.add_argument("--log_dir", type=Path, default=Path("logs"), help="where runs would be written (default: logs)")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when photos can be preprocessed, trained and localized here, else 1."""
    print(f"d2s {d2s.__version__}, Python {platform.python_version()}, {platform.platform()}")
    missing = [
        *_print_section("Packages", required_packages()),
        *_print_section("Optional packages", optional_packages()),
        *_print_section("Devices", devices()),
        *_print_section("hloc", [hloc()]),
        *_print_section("Local features (licence of the code; weights and theirs)", features()),
        *_print_section("Folders", folders({"scenes": args.data_dir, "runs": args.log_dir, "weights": cache_dir()})),
    ]
    print()
    for finding in missing:
        print(f"missing: {finding.name}: {finding.remedy or finding.text}")
    print("Something that the main job needs is missing." if missing else "Everything that the main job needs is here.")
    return 1 if missing else 0


def _print_section(title: str, findings: Iterable[Finding]) -> list[Finding]:
    """Print the findings as they come; returns those that stop the main job."""
    print(f"\n{title}")
    missing = []
    for finding in findings:
        print(f"  {finding.name:<{WIDTH}}{finding.text}")
        if finding.missing:
            missing.append(finding)
    return missing


def required_packages() -> Iterator[Finding]:
    """Every dependency of the installed project: its version, whether it is new enough and whether it can be imported."""
    wanted = [requirement for requirement in _own_requirements() if _applies(requirement)]
    if not wanted:
        yield Finding("d2s", "not installed", True, "run: sh scripts/setup.sh")
    for requirement in wanted:
        yield check_package(requirement)


def _own_requirements() -> list[Requirement]:
    """What pyproject.toml asks for, extras included; nothing when the project is not installed."""
    try:
        return [Requirement(text) for text in metadata.requires("d2s") or []]
    except metadata.PackageNotFoundError:
        return []


def _applies(requirement: Requirement) -> bool:
    """Whether it is needed on this Python, without extras."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def check_package(requirement: Requirement) -> Finding:
    """One dependency. Visdom only draws: training does without it."""
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    essential = requirement.name != "visdom"
    name, version = _installed(requirement.name)
    if version is None:
        return Finding(requirement.name, f"not installed: {remedy}", essential, remedy)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}, but {requirement.specifier} is needed", essential, remedy)
    problem = _import_problem(IMPORT_NAMES.get(requirement.name.lower(), requirement.name))
    if problem:
        return Finding(name, f"{version}, cannot be imported: {problem}", essential, f"{problem}; {remedy}")
    return Finding(name, version)


def _installed(distribution: str) -> tuple[str, str | None]:
    """Name and version of what is installed as `distribution`, or as another that gives the same module."""
    for name in OPENCV if distribution in OPENCV else (distribution,):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return distribution, None


def _import_problem(module: str) -> str:
    """Why a module cannot be imported (a shared library that the system lacks, for example); empty when it can."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return ""


def optional_packages() -> Iterator[Finding]:
    """Packages of the extras, and visdom where it is not a requirement; found, not imported."""
    for requirement in _own_requirements():
        if requirement.name == "visdom" and not _applies(requirement):
            yield _optional("visdom", "live plots of training", "sh scripts/setup.sh")
        for extra, use in EXTRAS.items():
            if requirement.marker is not None and f'extra == "{extra}"' in str(requirement.marker):
                yield _optional(requirement.name, use, f"sh scripts/setup.sh {extra}")


def _optional(name: str, use: str, remedy: str) -> Finding:
    version = _installed(name)[1]
    return Finding(name, f"{version} ({use})" if version else f"not installed ({use}): {remedy}")


def devices() -> Iterator[Finding]:
    """CPU cores and GPUs."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("CPU", f"{cores} cores, {torch.get_num_threads()} PyTorch threads")
    if not torch.cuda.is_available():
        yield Finding("GPU", "none that PyTorch can use" if torch.version.cuda else "none: this PyTorch is built without CUDA")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB (--cudaid {index})")


def find_hloc() -> Path | None:
    """The folder that holds the package `hloc`: installed, or cloned into `third_party/`; None when it is nowhere."""
    spec = importlib.util.find_spec("hloc")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    installed = next((place.parent for place in places if (place / HLOC_FILE).is_file()), None)
    if installed is not None:
        return installed
    third_party = Path(d2s.__file__).resolve().parent.parent / "third_party"
    clones = (third_party / name for name in HLOC_CLONES)
    return next((clone for clone in clones if (clone / "hloc" / HLOC_FILE).is_file()), None)


def hloc() -> Finding:
    """Where hloc is; it is never necessary."""
    found = find_hloc()
    if found is None:
        return Finding("hloc", f"not found: {HLOC_HELP}")
    complete = (found / "third_party" / HLOC_SUBMODULE / "models").is_dir()
    lacks = "" if complete else f"; without its submodule {HLOC_SUBMODULE}, which its SuperPoint and SuperGlue need"
    return Finding("hloc", f"found in {found}{lacks}")


def features() -> Iterator[Finding]:
    """Each local feature: whether its weights are here and under which licences it stands. None of them alone stops the main job."""
    weights = {name: (path, licence, how) for name, path, licence, how in weights_status()}
    for name, spec in FEATURES.items():
        if spec.weights is None:
            yield Finding(name, f"{spec.code_licence}; needs no weights")
            continue
        path, licence, how = weights[spec.weights]
        yield Finding(name, f"{spec.code_licence}; weights: {licence}, {'found' if path else 'not here'}")
        yield Finding("", str(path or how))


def folders(named: dict[str, Path]) -> Iterator[Finding]:
    """Whether each folder (or the nearest one above it that exists) can be written to, and the space left there."""
    for name, path in named.items():
        existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                free = shutil.disk_usage(existing).free
        except OSError as error:
            remedy = f"make {existing} writable or choose another folder ({'$D2S_CACHE' if name == 'weights' else '--data_dir, --log_dir'})"
            yield Finding(name, f"{path}: not writable ({error.strerror})", True, remedy)
            continue
        yield Finding(name, f"{path}: writable, {free / 1e9:.0f} GB free")
