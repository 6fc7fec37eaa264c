"""What a model's bytes are spent on, read from the headers of its files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from d2s.regressor.model_files import POSE_FIELD, VIEWS, WEIGHTS, is_checkpoint_file, model_bytes

PARTS = (("landmarks", ("landmarks", "xyz", "dense")),)
"""Names of parts, and the tensors or modules that make them; all else is the network."""
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def model_parts(path: Path) -> dict[str, int]:
    """Bytes by part of a model (folder or file as `load_model` takes them), which add up to `model_bytes`.

    A file that is not ours has no parts: `load_model` is what refuses it.
    """
    folder = path.parent if path.suffix == ".safetensors" else path
    weights = path if path.suffix == ".safetensors" else folder / WEIGHTS
    if is_checkpoint_file(path) or not weights.is_file():
        return {}
    tensors = _tensor_bytes(weights)
    if not tensors:
        return {}
    parts = dict.fromkeys([*(name for name, _ in PARTS), "network"], 0)
    for name, size in tensors.items():
        part = next((p for p, starts in PARTS if name.split(".")[0] in starts), "network")
        parts[part] += size
    if (folder / POSE_FIELD).is_file():
        parts["from the map to the given poses"] = (folder / POSE_FIELD).stat().st_size
    if (folder / VIEWS).is_file():
        parts["mapping views"] = (folder / VIEWS).stat().st_size
    parts["description"] = model_bytes(path) - sum(parts.values())
    return {name: size for name, size in parts.items() if size > 0}


def _tensor_bytes(path: Path) -> dict[str, int]:
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: _product(s.get_shape()) * BYTES.get(s.get_dtype(), 1) for name, s in slices.items()}
    except SafetensorError:
        return {}


def _product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
