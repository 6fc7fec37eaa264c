"""Points that look otherwise from two sides have descriptors of both, where there is room for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from d2s.config import load_recipe
from d2s.geometry.camera import parse_camera
from d2s.training.data import TrainingSet
from d2s.training.networks import _chosen_points, _further_looks, _means, make_network

POINTS, DIM = 30, 24
DIFFER, ONCE = 8, 5
"""The first points look like nothing seen before from the other side; the last ones are in one image only."""


def seen_from_two_sides(seed: int = 0) -> tuple[TrainingSet, torch.Tensor]:
    """Three images from each of two sides, rows in another order in each, and how the points look from either: (2, P, D)."""
    random = torch.Generator().manual_seed(seed)
    looks = functional.normalize(torch.randn(2, POINTS, DIM, generator=random), dim=-1)
    looks[1, DIFFER:] = looks[0, DIFFER:]
    xyz = torch.randn(POINTS, 3, generator=random)
    point = torch.stack([torch.randperm(POINTS, generator=random) for _ in range(6)])
    valid = (point < POINTS - ONCE) | (torch.arange(6)[:, None] == 4)
    noisy = looks[torch.arange(6)[:, None] // 3, point] + 0.02 * torch.randn(6, POINTS, DIM, generator=random)
    data = TrainingSet(
        names=tuple(f"{i}.jpg" for i in range(6)),
        descriptors=noisy.half(),
        keypoints=torch.zeros(6, POINTS, 2),
        mask=torch.ones(6, POINTS, dtype=torch.bool),
        xyz=xyz[point],
        valid=valid,
        point=torch.where(valid, point, -1),
        weight=torch.ones(6, POINTS),
        cam_from_world=torch.eye(3, 4).expand(6, 3, 4),
        has_pose=torch.ones(6, dtype=torch.bool),
        camera=torch.zeros(6, dtype=torch.long),
        cameras=(parse_camera("SIMPLE_PINHOLE 640 480 500 320 240"),),
        num_real=6,
    )
    return data, looks


def further(data: TrainingSet, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The points (R,) that get further descriptors (R, D)."""
    chosen = _chosen_points(POINTS, data)
    owner, looks = _further_looks(chosen, _means(chosen, data)[0], room, data)
    return chosen[owner], looks


@pytest.mark.parametrize("seed", range(3))
def test_points_that_look_otherwise_from_two_sides_get_both_looks(seed):
    data, looks = seen_from_two_sides(seed)
    point, found = further(data, 2 * DIFFER)
    assert sorted(point.tolist()) == sorted([*range(DIFFER), *range(DIFFER)])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))
    for one in range(DIFFER):
        likeness = found[point == one] @ looks[:, one].T  # each of the two is that of one side, and not the same side
        assert likeness.max(dim=1).values.min() > 0.98
        assert sorted(likeness.argmax(dim=1).tolist()) == [0, 1]


@pytest.mark.parametrize("room", [0, 1, 2, 3, 7, 11])
def test_there_are_no_more_than_there_is_room_for_and_two_of_each(room):
    point, found = further(seen_from_two_sides()[0], room)
    assert len(point) == len(found) == room // 2 * 2
    assert all(count == 2 for count in point.unique(return_counts=True)[1])
    assert (point < DIFFER).all()  # those that differ most come first


def test_points_that_one_image_sees_get_none_however_much_room_there_is():
    data, looks = seen_from_two_sides()
    point, found = further(data, 1000)
    assert set(point.tolist()) == set(range(POINTS - ONCE))
    same = torch.einsum("rd,rd->r", found, looks[0, point])[point >= DIFFER]
    assert same.min() > 0.98  # parts of a point that looks the same from everywhere are like it, each of them


def test_nothing_is_added_where_nothing_is_seen():
    data, _ = seen_from_two_sides()
    unseen = replace(data, valid=torch.zeros_like(data.valid))
    owner, found = _further_looks(torch.arange(POINTS), functional.normalize(torch.randn(POINTS, DIM), dim=-1), 10, unseen)
    assert owner.shape == (0,) and found.shape == (0, DIM)


def test_extra_images_have_no_say():
    data, looks = seen_from_two_sides()
    point, found = further(replace(data, num_real=3), 1000)  # the other side is in extra images only
    assert torch.einsum("rd,rd->r", found, looks[0, point]).min() > 0.98


def test_landmarks_without_attention_have_further_looks_where_their_points_are():
    data, _ = seen_from_two_sides()
    network = make_network(load_recipe(None, ["model.model=3", "model.blocks=0", "model.landmarks=40"]), data)
    places = {tuple(xyz.tolist()) for xyz in data.xyz[data.valid]}
    found, counts = network.xyz.unique(dim=0, return_counts=True)
    assert network.count == 40 and {tuple(xyz.tolist()) for xyz in found} == places
    assert sorted(counts.tolist()) == [1] * (POINTS - 5) + [3] * 5
    with torch.no_grad():
        xyz, logits = network(data.descriptors.float())
    right = (xyz == data.xyz).all(dim=-1)
    assert right[data.valid].all() and (torch.sigmoid(logits)[data.valid] > 0.5).float().mean() > 0.9


def test_attention_is_trained_to_name_one_landmark_a_point():
    data, _ = seen_from_two_sides()
    network = make_network(load_recipe(None, ["model.model=3", "model.blocks=1", "model.width=16", "model.landmarks=40"]), data)
    assert network.count == len(network.xyz.unique(dim=0)) == POINTS
