"""From a recipe and a training set to a network, its objective and its optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from d2s.config import Recipe
from d2s.geometry.torch_camera import TorchCameras
from d2s.regressor.landmark_map import principal_directions, spatial_order
from d2s.regressor.landmarks import LandmarkNet, select_landmarks
from d2s.regressor.model_files import Network
from d2s.regressor.network import D2SNet
from d2s.regressor.views import MOST_VIEWS, Views
from d2s.training.data import TrainingSet
from d2s.training.objective import LandmarkObjective, Objective, RegressionObjective

FEWEST_LANDMARKS, MOST_LANDMARKS, LANDMARKS_PER_IMAGE = 21_000, 40_000, 30
SAMPLED_IMAGES = 50
DISSIMILAR = 0.02
"""Share of the keypoints that may look less like their landmark than what a query must reach."""


def make_network(recipe: Recipe, data: TrainingSet) -> Network:
    """A freshly initialised network for a training set; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        if recipe.model.model == 3:
            return _landmark_network(recipe, data)
        network = D2SNet(recipe.model, data.descriptor_dim)
    if recipe.model.normalize_targets:
        center, scale = data.statistics()
        network.center.copy_(center)
        network.scale.copy_(scale)
    return network


def _landmark_network(recipe: Recipe, data: TrainingSet) -> LandmarkNet:
    """Landmarks with the mean descriptor and the coordinate of their SfM points; where these are few, some with further descriptors."""
    most = recipe.model.landmarks or landmark_count(data.num_real)
    chosen = _chosen_points(most, data)
    means, xyz = _means(chosen, data)
    # Attention is trained to name one landmark: further descriptors of the same point would count as wrong ones.
    point, further = _further_looks(chosen, means, most - len(chosen), data) if recipe.model.blocks == 0 else (chosen[:0], means[:0])
    owner = torch.cat([torch.arange(len(chosen)), point])
    order = torch.argsort(owner, stable=True)  # neighbours in space stay together
    network = LandmarkNet(recipe.model, data.descriptor_dim, len(order))
    if network.channels < network.descriptor_dim:
        network.projection.copy_(principal_directions(means, network.channels))
    least = _least_similarity(network, chosen, network.project(means), data)
    network.landmarks.fill(network.project(torch.cat([means, further])[order]), xyz[owner[order]], least)
    return network


def landmark_count(images: int) -> int:
    """Landmarks for a place of so many mapping images: a large place needs more of them, and every query is compared with all."""
    return min(MOST_LANDMARKS, max(FEWEST_LANDMARKS, LANDMARKS_PER_IMAGE * images))


def _means(chosen: Tensor, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Mean descriptors (M, D), of unit length, and coordinates (M, 3) of the chosen points."""
    landmark = _landmark_of_row(chosen, data)
    total, xyz = torch.zeros(len(chosen), data.descriptor_dim), torch.zeros(len(chosen), 3)
    for image in range(data.num_real):  # image by image: all descriptors at once would double the memory
        rows = landmark[image] >= 0
        total.index_add_(0, landmark[image, rows], functional.normalize(data.descriptors[image, rows].float(), dim=-1))
        xyz[landmark[image, rows]] = data.xyz[image, rows]
    return functional.normalize(total, dim=-1), xyz


def _further_looks(chosen: Tensor, means: Tensor, room: int, data: TrainingSet) -> tuple[Tensor, Tensor]:
    """Two more unit descriptors (R, D) for the chosen points whose observations differ most, and which of the chosen (R,) they are of.

    The mean of views from two sides looks like neither. Observations are split by the two that are least alike; both parts' means are
    added, for as many points as there is `room` for.
    """
    landmark = _landmark_of_row(chosen, data)[: data.num_real]
    image, row = torch.nonzero(landmark >= 0, as_tuple=True)
    owner = landmark[image, row]
    if room < 2 or not len(owner):
        return owner[:0], means[:0]
    seen = functional.normalize(data.descriptors[image, row].float(), dim=-1)
    first = _least(torch.einsum("nd,nd->n", seen, means[owner]), owner, len(chosen))
    to_first = torch.einsum("nd,nd->n", seen, seen[first[owner]])
    second = _least(to_first, owner, len(chosen))
    far = torch.einsum("nd,nd->n", seen, seen[second[owner]]) > to_first
    differ = torch.argsort(to_first[second], stable=True)[: room // 2]
    differ = differ[first[differ] != second[differ]]  # a point that one image sees has one descriptor
    parts = [torch.zeros_like(means).index_add_(0, owner[part], seen[part])[differ] for part in (far, ~far)]
    return differ.repeat(2), functional.normalize(torch.cat(parts), dim=-1)


def _least(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    """Where the least of the values (N,) of each of the owners (O,) is; `owner` (N,) says whose each value is, and none goes without."""
    order = torch.argsort(values, descending=True, stable=True)
    least = torch.zeros(owners, dtype=torch.long)
    least[owner[order]] = order  # of several assignments to one place the last one stays
    return least


def _landmark_of_row(chosen: Tensor, data: TrainingSet) -> Tensor:
    """Landmark (images, K) of every keypoint, -1 for none."""
    return torch.where(data.valid, _landmark_of_point(chosen, data.num_points)[data.point.clamp(min=0)], -1)


def _least_similarity(network: LandmarkNet, chosen: Tensor, descriptors: Tensor, data: TrainingSet) -> float:
    """The similarity that all but a few keypoints of the mapping images have with their own landmark."""
    landmark = _landmark_of_row(chosen, data)
    found = []
    for image in range(0, data.num_real, max(1, data.num_real // SAMPLED_IMAGES)):
        rows = landmark[image] >= 0
        own = network.project(data.descriptors[image, rows].float())
        found.append((own * descriptors[landmark[image, rows]]).sum(dim=-1))
    return float(torch.cat(found).quantile(DISSIMILAR))


def _chosen_points(count: int, data: TrainingSet) -> Tensor:
    """At most `count` SfM points that become landmarks, neighbours in space together: a pure function of the data, so a resumed run finds
    the same ones.

    Extra images have no say: every stage may add others, and the landmarks must stay.
    """
    image, row = torch.nonzero(data.valid[: data.num_real], as_tuple=True)
    point = data.point[image, row]
    points = select_landmarks(image.numpy(), point.numpy(), data.num_real, data.num_points, count)
    xyz = np.zeros((data.num_points, 3))
    xyz[point.numpy()] = data.xyz[image, row].numpy()
    return torch.from_numpy(points[spatial_order(xyz[points])])


def _landmark_of_point(chosen: Tensor, points: int) -> Tensor:
    index = torch.full((points,), -1, dtype=torch.long)
    index[chosen] = torch.arange(len(chosen))
    return index


def _landmarks_by_place(network: LandmarkNet, data: TrainingSet) -> Tensor:
    """The landmark (P,) of each of the data's points, -1 for none, found by its coordinates, which both have to the last bit; of a point
    with several descriptors the first, which is their mean.

    The network may be older than the data: a later stage may bring further points, and the landmarks must stay what they are.
    """
    numbered = list(enumerate(network.xyz.detach().cpu().float().numpy()))
    places = {place.tobytes(): landmark for landmark, place in reversed(numbered)}
    index = torch.full((data.num_points,), -1, dtype=torch.long)
    xyz, point = data.xyz[data.valid].numpy(), data.point[data.valid].numpy()
    numbers, first = np.unique(point, return_index=True)
    index[torch.from_numpy(numbers)] = torch.tensor([places.get(xyz[row].tobytes(), -1) for row in first])
    return index


def make_views(network: Network, data: TrainingSet) -> Views | None:
    """The mapping images that a model keeps, where it has landmarks."""
    if not isinstance(network, LandmarkNet):
        return None
    posed = torch.nonzero(data.has_pose[: data.num_real]).ravel().numpy()
    images = posed[np.unique(np.linspace(0, len(posed) - 1, min(len(posed), MOST_VIEWS)).astype(int))]
    landmark = _landmarks_by_place(network, data)
    seen = [np.unique(landmark[data.point[image][data.valid[image]]].numpy()) for image in images]
    seen = [rows[rows >= 0] for rows in seen]
    return Views(
        data.cam_from_world[images].numpy().astype(np.float64),
        data.camera[images].numpy(),
        np.cumsum([0, *map(len, seen)]),
        np.concatenate(seen),
    )


def make_objective(recipe: Recipe, data: TrainingSet, network: Network, device: torch.device) -> Objective:
    """What the recipe minimises for this network."""
    if isinstance(network, LandmarkNet):
        return LandmarkObjective(recipe.loss, network, _landmarks_by_place(network, data).to(device), recipe.training)
    cameras = TorchCameras(list(data.cameras)).to(device)
    return RegressionObjective(recipe.loss, network, cameras, data.statistics()[1].to(device))


def make_optimizer(recipe: Recipe, network: Network) -> torch.optim.Optimizer:
    """The optimiser of a recipe."""
    config = recipe.optimization
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
    if config.opt == "sgd":
        options["momentum"] = 0.9
    return kinds[config.opt](network.parameters(), **options)  # type: ignore[no-any-return]
