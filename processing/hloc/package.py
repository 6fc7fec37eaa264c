"""Finding and importing hloc itself, installed or cloned into third_party/."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import pickle
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from d2s.commands.doctor import find_hloc
from d2s.errors import InputError, MissingPackageError, unknown_choice

logger = logging.getLogger(__name__)

GET_HLOC = (
    "Install it, or: git clone --recursive https://github.com/cvg/Hierarchical-Localization third_party/Hierarchical-Localization; "
    "or take --sfm native."
)


def hloc_module(name: str) -> Any:
    """A module of hloc, for example `triangulation`. Raises MissingPackageError where hloc, or something that it needs, is missing."""
    folder = find_hloc()
    if folder is None:
        raise MissingPackageError("hloc is not installed, nor cloned into third_party/.", GET_HLOC)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # first: the current folder may hold another `hloc`, such as ours
    try:
        importlib.import_module("hloc")
        _calm()
        return importlib.import_module(f"hloc.{name}")
    except ImportError as error:
        remedy = f"Install it, or fetch hloc's submodules: git -C {folder} submodule update --init --recursive."
        raise MissingPackageError(f"hloc.{name} cannot be used here: {error}.", remedy) from None


def _calm() -> None:
    """Quiet: hloc logs whole configurations to a handler of its own."""
    if not logger.isEnabledFor(logging.DEBUG):
        logging.getLogger("hloc").setLevel(logging.WARNING)


def usable(kind: str, model: Mapping[str, Any]) -> str:
    """Why hloc's extractor or matcher cannot be used here; empty when it can. `kind`: `extractors` or `matchers`.

    `model`: that part of a configuration. It is built for the answer: its code may be here without its weights.
    """
    try:
        hloc_module(f"{kind}.{model['name']}")
    except MissingPackageError as error:
        return error.problem
    build = hloc_module("utils.base_model").dynamic_load(hloc_module(kind), model["name"])
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some say that they were loaded, and will again
            build(deepcopy(dict(model)))
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        return f"hloc.{kind}.{model['name']} cannot be used here, its weights do not load: {reason}."
    return ""


def configuration(module: str, name: str) -> dict[str, Any]:
    """A copy of one of hloc's configurations: the module's own are changed by hloc's pipelines. Raises InputError listing the names."""
    confs = hloc_module(module).confs
    if name not in confs:
        raise unknown_choice("configuration of hloc", name, confs)
    return dict(deepcopy(confs[name]))


def version() -> str:
    """Version of hloc, with the commit where it is a clone."""
    package = hloc_module("extract_features")
    folder = Path(str(package.__file__)).resolve().parents[1]
    number = str(importlib.import_module("hloc").__version__)
    if not (folder / ".git").exists():
        return number
    try:
        found = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return number
    return f"{number} ({found.stdout.strip()})"


def require_known_poses(known: bool) -> None:
    """Raise InputError for photos without poses, which hloc's triangulation cannot take."""
    if not known:
        raise InputError(
            "--sfm hloc triangulates at known poses, and these photos have none.", "Take --sfm native, or give --hloc_out_dir."
        )
