"""Checkpoints of the public D2S code, both branches, as networks of ours, and networks of ours as such checkpoints.

The older branch (feat2map) writes `epoch_%03d.pth.tar` with `epoch`, `model_state_dict` and `optim_state_dict`, the newer one
`DATASET_SCENE_REGRESSOR.pth.tar` without the optimiser. Their networks are the same: model 1 is `feedfw.{0,2,4,6,8}`; model 2 is
`gnn.layers.{i}.attn.{proj.0,proj.1,proj.2,merge}`, `gnn.layers.{i}.mlp.{0,2}` and `mapping.{0,2,4,6,8}`; weights are (out, in, 1), as of
convolutions with kernel 1, or (out, in). The older network returns the reliability r, the newer one u with r = 1 / (1 + 100 |u|); ours
gives both. A checkpoint knows nothing of scene, cameras or features: these come from the preprocessed scene.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2s.config import ModelConfig
from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import format_camera
from d2s.regressor.base import ModelInfo
from d2s.regressor.model_files import TrainedModel
from d2s.regressor.network import OUTPUTS, D2SNet
from d2s.scene.atomic import atomic_path
from d2s.scene.feature_store import FeatureReader
from d2s.scene.label_store import LabelReader
from d2s.scene.manifest import Scene

logger = logging.getLogger(__name__)

HEADS = 4
"""Attention heads of every published network; a checkpoint does not say how many there are."""

NUM_KEYPOINTS = 2048
THRESHOLDS = {"feat2map": 0.5, "d2s": 0.6}
"""Reliability above which the evaluation of a branch keeps a keypoint."""

PROJECTIONS = {"attn.proj.0": "query", "attn.proj.1": "key", "attn.proj.2": "value", "attn.merge": "merge"}
WRAPPERS = ("module.", "regressor.")
EXPECTED = "a D2S checkpoint has layers feedfw.* (model 1), or gnn.layers.*.{attn,mlp} and mapping.* (model 2)"


@dataclass(frozen=True)
class Published:
    """A checkpoint: the network, the epoch that it names (0 where it names none) and the branch that wrote it."""

    network: D2SNet
    epoch: int
    branch: str


def read_published(path: Path) -> Published:
    """The network of a public checkpoint.

    Raises MissingFileError, or FormatError when the file is damaged, holds more than tensors and plain values, or another network.
    """
    content = _load(Path(path))
    state = content.get("model_state_dict", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise FormatError(f"{path} has no 'model_state_dict' of tensors.", f"Expected: {EXPECTED}.")
    epoch = content.get("epoch", 0)
    return Published(
        _network({_unwrapped(str(name)): value for name, value in state.items()}, Path(path)),
        int(epoch) if isinstance(epoch, (int, float)) else 0,
        "feat2map" if "optim_state_dict" in content else "d2s",
    )


def load_published(path: Path, scene: Scene, folder: Path, device: str | torch.device = "cpu") -> TrainedModel:
    """A public checkpoint as a model of a preprocessed scene (`folder` holds its files)."""
    published = read_published(path)
    return TrainedModel(published.network, published_info(published, path, scene, folder), device)


def published_info(published: Published, path: Path, scene: Scene, folder: Path) -> ModelInfo:
    """What the scene says about a checkpoint. Raises InputError when the scene's features do not fit it."""
    images = scene.split("train")
    return ModelInfo(
        dataset=scene.dataset,
        scene=scene.name,
        units=scene.units,
        features=_features(published.network, path, scene, folder),
        num_keypoints=int(scene.features.get("settings", {}).get("num_keypoints", NUM_KEYPOINTS)),
        reliability_threshold=THRESHOLDS[published.branch],
        cameras=tuple(dict.fromkeys(format_camera(scene.camera(image)) for image in images)),
        bounds=_bounds(folder, [image.name for image in images]),
        extra={"published": {"file": Path(path).name, "branch": published.branch, "epoch": published.epoch}},
    )


def _features(network: D2SNet, path: Path, scene: Scene, folder: Path) -> dict[str, Any]:
    """The scene's features, sampled as those that the public networks were trained on."""
    settings = dict(scene.features.get("settings", {}))
    name = settings.get("name", "unknown")
    with FeatureReader(folder / "features.h5") as reader:
        dimension = reader.read(reader.names()[0]).descriptors.shape[1]
    if dimension != network.descriptor_dim:
        raise InputError(
            f"{path} takes {network.descriptor_dim}-d descriptors, but {folder} has {dimension}-d {name} features.",
            "Preprocess the scene with the features that the checkpoint was trained on (the public ones: --features superpoint).",
        )
    if name != "superpoint":
        logger.warning("The public checkpoints were trained on SuperPoint; this scene has %s features.", name)
    if settings.get("sampling", "hloc") != "hloc":
        logger.info("Descriptors of queries are sampled as hloc does; the scene's stored ones are sampled %s.", settings["sampling"])
        settings["sampling"] = "hloc"
    return settings


def _bounds(folder: Path, names: list[str]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Corners of the box that holds 98 % of the labelled points along each axis."""
    with LabelReader(folder / "labels.h5") as reader:
        labels = [reader.read(name) for name in names if name in reader]
    points = np.concatenate([np.zeros((0, 3), np.float32), *(entry.xyz[entry.valid] for entry in labels)])
    low, high = (np.percentile(points, [1, 99], axis=0) if len(points) else np.zeros((2, 3))).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _load(path: Path) -> dict[str, Any]:
    """Nothing in the file is executed: tensors, numbers, texts and containers of them are all that is accepted."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: no checkpoint there.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        found = re.search(r"GLOBAL ([\w.]+)", reason)
        if found is None:
            raise FormatError(f"{path} is damaged or no checkpoint of PyTorch.") from None
        raise FormatError(
            f"{path} holds more than tensors ({found[1]}), and loading that could execute code.",
            "Where it was made, save its tensors alone: torch.save({'epoch': e, 'model_state_dict': model.state_dict()}, FILE).",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:160]
        raise FormatError(f"{path} is damaged or no checkpoint of PyTorch ({type(error).__name__}: {reason}).") from None
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds a {type(content).__name__}, not a dictionary.", f"Expected: {EXPECTED}.")
    return content


def _unwrapped(name: str) -> str:
    """A layer's name without what DataParallel or a pipeline put before it."""
    while wrapper := next((wrapper for wrapper in WRAPPERS if name.startswith(wrapper)), None):
        name = name.removeprefix(wrapper)
    return name


def _network(state: Mapping[str, Tensor], path: Path) -> D2SNet:
    """Our network with the weights of a published one. Raises FormatError."""
    try:
        tensors = dict(_renamed(state))
        network = D2SNet(_config(tensors), int(_first(tensors).shape[1]))
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise FormatError(f"{path} is not a network of D2S ({' '.join(str(error).split())[:200]}).", f"Expected: {EXPECTED}.") from None
    if unexpected or set(missing) - {"center", "scale"}:
        wrong = [*unexpected, *(name for name in missing if name not in ("center", "scale"))]
        raise FormatError(f"{path} is not a network of D2S: {', '.join(wrong[:3])} missing or unknown.", f"Expected: {EXPECTED}.")
    return network.eval()


def _renamed(state: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    """Our names and layouts of published tensors."""
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        tensor = value.detach().float()
        if kind == "weight" and tensor.ndim == 3:
            tensor = tensor[..., 0]
        found = re.fullmatch(r"gnn\.layers\.(\d+)\.(.+)", layer)
        if found and found[2] in PROJECTIONS:
            yield f"blocks.{found[1]}.{PROJECTIONS[found[2]]}.{kind}", _heads_outside(tensor, found[2] == "attn.merge", kind)
        elif found and found[2] in ("mlp.0", "mlp.2"):
            yield f"blocks.{found[1]}.{found[2]}.{kind}", tensor
        elif re.fullmatch(r"(feedfw|mapping)\.\d+", layer):
            yield f"head.{layer.partition('.')[2]}.{kind}", tensor
        else:
            raise KeyError(f"unknown layer {layer or name}")


def _heads_outside(tensor: Tensor, merge: bool, kind: str, back: bool = False) -> Tensor:
    """Published channels h, h + 4, h + 8, … of head h put side by side, as ours are; `back`: the other way.

    Projections have these channels at their output, the merging layer at its input (its bias has none).
    """
    if merge and kind == "bias":
        return tensor
    axis = 1 if merge else 0
    size = tensor.shape[axis]
    if size % HEADS:
        raise ValueError(f"{size} channels cannot be shared by {HEADS} heads")
    order = torch.arange(size).view(size // HEADS, HEADS).T.reshape(-1)
    return tensor.index_select(axis, torch.argsort(order) if back else order)


def _first(tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["blocks.0.query.weight"] if "blocks.0.query.weight" in tensors else tensors["head.0.weight"]


def _config(tensors: Mapping[str, Tensor]) -> ModelConfig:
    """The sizes that the tensors have."""
    layers = sorted(int(name.split(".")[1]) for name in tensors if name.startswith("head.") and name.endswith("weight"))
    widths = [int(tensors[f"head.{layer}.weight"].shape[0]) for layer in layers]
    if not widths or widths[-1] != OUTPUTS or layers != list(range(0, 2 * len(layers), 2)):
        raise ValueError(f"the layers {layers} of its MLP end with {widths[-1:]} outputs, not {OUTPUTS}")
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    width = int(_first(tensors).shape[1])
    if not blocks:
        return ModelConfig(model=1, head_widths=tuple(widths[:-1]))
    return ModelConfig(model=2, blocks=blocks, width=width, heads=HEADS, head_widths=tuple(widths[:-1]))


def published_state(network: D2SNet) -> dict[str, Tensor]:
    """Our network under the published names and layouts (weights (out, in, 1)); the scene's centre and scale go into the last layer.

    Raises InputError for a network that the public code cannot run.
    """
    config = network.config
    if config.norm != "none" or config.reliability != "inverse" or not isinstance(network.project, torch.nn.Identity):
        raise InputError(
            "Only networks of the published form can be written as a public checkpoint.",
            "It needs model.norm = none, model.reliability = inverse and descriptors of model.width channels (as in configsV2.ini).",
        )
    if config.model == 2 and config.heads != HEADS:
        raise InputError(f"The public code has {HEADS} attention heads, this network {config.heads}.")
    state = {}
    for name, tensor in _unscaled(network).items():
        layer, _, kind = name.rpartition(".")
        state[f"{_published_layer(layer, config.model)}.{kind}"] = _published_layout(tensor, layer, kind)
    return state


def _unscaled(network: D2SNet) -> dict[str, Tensor]:
    """The network's tensors on the CPU, with an output that needs no centre and scale any more."""
    tensors = {name: tensor.detach().cpu().float().clone() for name, tensor in network.state_dict().items()}
    center, scale = tensors.pop("center"), tensors.pop("scale")
    last = f"head.{2 * len(network.config.head_widths)}"
    tensors[f"{last}.weight"][:3] *= scale
    tensors[f"{last}.bias"][:3] = tensors[f"{last}.bias"][:3] * scale + center
    return tensors


def _published_layer(layer: str, model: int) -> str:
    if layer.startswith("head."):
        return f"{'feedfw' if model == 1 else 'mapping'}.{layer.removeprefix('head.')}"
    _, index, part = layer.split(".", 2)
    names = {ours: theirs for theirs, ours in PROJECTIONS.items()}
    return f"gnn.layers.{index}.{names.get(part, part)}"


def _published_layout(tensor: Tensor, layer: str, kind: str) -> Tensor:
    part = layer.rpartition(".")[2]
    if layer.startswith("blocks.") and part in PROJECTIONS.values():
        tensor = _heads_outside(tensor, part == "merge", kind, back=True)
    return (tensor[..., None] if kind == "weight" else tensor).contiguous()


def write_published(path: Path, network: D2SNet, epoch: int = 0) -> None:
    """Write a checkpoint that the public code reads (its newer branch's form), by rename."""
    state = published_state(network)
    with atomic_path(path) as temporary:
        torch.save({"epoch": epoch, "model_state_dict": state}, temporary)
