"""The files of a trained model: `model.safetensors` (fp16) and `model.json`. Together they are everything that localizing needs, except
the feature network that all scenes share.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2s.config import load_recipe
from d2s.errors import ConfigError, FormatError, InputError, MissingFileError
from d2s.features.base import LocalFeatures
from d2s.features.weights import sha256_of
from d2s.matching.database import Database
from d2s.regressor.base import CAMERA_GAIN, ModelInfo
from d2s.regressor.landmark_map import LandmarkMap
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.network import D2SNet
from d2s.regressor.pose_field_file import load_pose_field, save_pose_field
from d2s.regressor.precision import resolve_precision
from d2s.regressor.views import load_views, save_views
from d2s.scene.atomic import atomic_path, read_json, write_json

FORMAT_VERSION = 2
WEIGHTS, DESCRIPTION, POSE_FIELD, VIEWS = "model.safetensors", "model.json", "pose_field.safetensors", "views.safetensors"


Network = D2SNet | LandmarkNet
EXACT = ("center", "scale", "landmarks.xyz", "landmarks.min_similarity", "log_scale", "threshold")
"""Tensors kept in float32: coordinates (a place may lie far from its origin) and single numbers."""

CHECKPOINT_SUFFIXES = (".tar", ".pth", ".pt", ".ckpt")
"""Files of PyTorch; `d2s.regressor.published` reads those of the public D2S code."""


class TrainedModel:
    """A network with what it was trained for; a `SceneRegressor`.

    `precision` "auto" is float32 for regression: in bf16, coordinates of a room are off by centimetres. Model 3 may use bf16 where the
    hardware has it, since its coordinates are those of its landmarks.
    """

    def __init__(self, network: Network, info: ModelInfo, device: str | torch.device = "cpu", precision: str = "auto") -> None:
        self.network, self.info, self.device = network.to(device).eval(), info, torch.device(device)
        if precision == "auto" and isinstance(network, D2SNet):
            precision = "fp32"
        self.dtype = resolve_precision(precision, self.device)
        self._map: LandmarkMap | None = None
        self._database: Database | None = None

    def landmark_map(self) -> LandmarkMap | None:
        """The landmarks for a second look, None where the network has none."""
        if self._map is None and isinstance(self.network, LandmarkNet):
            self._map = self.network.landmark_map()
        return self._map

    @torch.inference_mode()
    def predict(self, features: LocalFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scene coordinates (N, 3) in the scene's unit and reliabilities (N,) of the keypoints of one image."""
        if len(features) == 0:
            return np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
        if features.descriptors.shape[1] != self.network.descriptor_dim:
            raise InputError(
                f"This model takes {self.network.descriptor_dim}-d descriptors, not {features.descriptors.shape[1]}-d ones.",
                f"Extract {self.info.features.get('name', 'the same')} features.",
            )
        descriptors = torch.from_numpy(np.asarray(features.descriptors, dtype=np.float32)).to(self.device)[None]
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            if isinstance(self.network, LandmarkNet) and self.device.type == "cpu":
                xyz, u = self._compare(self.network, descriptors)
            else:
                xyz, u = self.network(descriptors)
        return xyz[0].cpu().numpy(), self.network.reliability(u)[0].cpu().numpy()

    def _compare(self, network: LandmarkNet, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """What `network(descriptors)` says about one image, several times faster: CPUs search integers faster than floats."""
        if self._database is None:
            landmarks = self.landmark_map()
            assert landmarks is not None
            self._database = Database(landmarks.descriptors)
        found = self._database.nearest(network.refine(descriptors)[0].float().numpy())
        u = network.logits(torch.from_numpy(found.similarity), torch.from_numpy(found.mutual))
        return network.xyz[torch.from_numpy(found.index)][None], u[None]


def save_model(folder: Path, network: Network, info: ModelInfo, exact: bool = False) -> None:
    """Publish `folder` with the weights in half precision (`exact`: single precision) and their description."""
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_model(temporary, network, info, exact)


def write_model(folder: Path, network: Network, info: ModelInfo, exact: bool = False) -> None:
    """Write the two files into a folder that exists."""
    tensors = {name: _stored(name, tensor.detach().cpu(), exact).contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    description = {
        "format_version": FORMAT_VERSION,
        "network": {**dataclasses.asdict(network.config), "descriptor_dim": network.descriptor_dim, **_landmark_count(network)},
        "info": dataclasses.asdict(dataclasses.replace(info, pose_field=None, views=None)),
        "weights_sha256": sha256_of(folder / WEIGHTS),
    }
    if info.pose_field is not None:
        save_pose_field(folder / POSE_FIELD, info.pose_field)
        description["pose_field_sha256"] = sha256_of(folder / POSE_FIELD)
    if info.views is not None:
        save_views(folder / VIEWS, info.views)
        description["views_sha256"] = sha256_of(folder / VIEWS)
    write_json(folder / DESCRIPTION, description)


def _stored(name: str, tensor: torch.Tensor, exact: bool) -> torch.Tensor:
    """Codes stay bytes, coordinates and single numbers single precision; the rest is halved unless `exact`."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if exact or name in EXACT else torch.float16)


def _landmark_count(network: Network) -> dict[str, int]:
    return {"landmarks": network.count} if isinstance(network, LandmarkNet) else {}


def load_model(path: Path, device: str | torch.device = "cpu", precision: str = "auto") -> TrainedModel:
    """Load a `model/` folder, a checkpoint folder, or a `.safetensors` file with its `model.json` beside it."""
    if is_checkpoint_file(path):
        raise InputError(
            f"{path} is a checkpoint of the public code, which does not say for which scene and features it is.",
            "Make a model of it: d2s export --format model --checkpoint FILE --dataset DATASET --scene SCENE --out DIR.",
        )
    folder = Path(path).parent if Path(path).suffix == ".safetensors" else Path(path)
    weights = Path(path) if Path(path).suffix == ".safetensors" else folder / WEIGHTS
    if not weights.is_file():
        raise MissingFileError(
            f"{weights} does not exist: no trained model there.", "Give the model/ folder of a run, or train first: d2s train."
        )
    description = read_json(folder / DESCRIPTION)
    network, info = _from_description(description, folder / DESCRIPTION)
    _require_described(weights, description.get("weights_sha256"))  # files of the first version have none
    if "pose_field_sha256" in description:
        _require_described(folder / POSE_FIELD, description["pose_field_sha256"])
        info = dataclasses.replace(info, pose_field=load_pose_field(folder / POSE_FIELD))
    if "views_sha256" in description and isinstance(network, LandmarkNet):
        _require_described(folder / VIEWS, description["views_sha256"])
        info = dataclasses.replace(info, views=load_views(folder / VIEWS, len(info.cameras), network.count))
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    except (SafetensorError, RuntimeError) as error:
        raise FormatError(f"{weights} does not fit {DESCRIPTION} beside it: {' '.join(str(error).split())[:300]}.") from None
    return TrainedModel(network, info, device, precision)


def _require_described(path: Path, checksum: str | None) -> None:
    """Raises MissingFileError or FormatError for a file that is not the one which the description speaks of."""
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist, but {DESCRIPTION} beside it names it.", "Copy the whole folder again.")
    if checksum is not None and checksum != sha256_of(path):
        raise FormatError(f"{path} is damaged or not the file that {DESCRIPTION} beside it describes.", "Copy both again.")


def is_checkpoint_file(path: Path) -> bool:
    """Whether a path names a checkpoint file of PyTorch rather than a model of ours."""
    return Path(path).suffix.lower() in CHECKPOINT_SUFFIXES and not Path(path).is_dir()


def _from_description(value: Any, path: Path) -> tuple[Network, ModelInfo]:
    if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{path} is not a model description of format version {FORMAT_VERSION}.", "Train again, or use the program that wrote it."
        )
    try:
        network = dict(value["network"])
        descriptor_dim = network.pop("descriptor_dim")
        landmarks = network.pop("landmarks")  # their true number, which may be below what a recipe may ask for
        config = load_recipe(None, (), {f"model.{key}": _tuple(entry) for key, entry in network.items()}).model
        made = LandmarkNet(config, descriptor_dim, landmarks) if config.model == 3 else D2SNet(config, descriptor_dim)
        return made, _info(value["info"])
    except (KeyError, TypeError, RuntimeError, ConfigError) as error:
        raise FormatError(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}).", "Train again.") from None


def _info(value: dict[str, Any]) -> ModelInfo:
    """Raises TypeError for entries of the wrong type."""
    info = ModelInfo(**{key: _tuple(entry) for key, entry in value.items()})
    for name, kind in (("num_keypoints", int), ("seed", int), ("max_error", float | int), ("reliability_threshold", float | int)):
        if not isinstance(getattr(info, name), kind):
            raise TypeError(f"{name} is {getattr(info, name)!r}")
    if [len(corner) for corner in info.bounds] != [3, 3]:
        raise TypeError(f"bounds are {info.bounds}")
    if not isinstance(info.cameras, tuple) or not all(isinstance(line, str) for line in info.cameras):
        raise TypeError(f"cameras are {info.cameras!r}")
    if not isinstance(info.extra, dict) or not isinstance(info.extra.get(CAMERA_GAIN, 1.0), float | int):
        raise TypeError(f"extra is {info.extra!r}")
    return info


def _tuple(value: Any) -> Any:
    """JSON has lists only."""
    return tuple(_tuple(entry) for entry in value) if isinstance(value, list) else value


def model_bytes(path: Path) -> int:
    """Size on disk of everything that localizing needs, without the feature network that all scenes share."""
    if is_checkpoint_file(path):
        return Path(path).stat().st_size
    folder = Path(path).parent if Path(path).suffix == ".safetensors" else Path(path)
    files = (folder / name for name in (WEIGHTS, DESCRIPTION, POSE_FIELD, VIEWS))
    return sum(file.stat().st_size for file in files if file.is_file())
