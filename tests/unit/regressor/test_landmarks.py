"""Model 3: before training it is matching against the landmarks, and its landmarks cover every image."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from d2s.config import ModelConfig
from d2s.regressor.landmarks import LandmarkNet, select_landmarks


def made_network(count=30, dim=16, seed=0) -> LandmarkNet:
    torch.manual_seed(seed)
    network = LandmarkNet(ModelConfig(model=3, width=32, heads=2, blocks=1, norm="layer", reliability="sigmoid"), dim, count).eval()
    network.landmarks.data.copy_(functional.normalize(torch.randn(count, dim), dim=1))
    network.xyz.copy_(torch.randn(count, 3))
    return network


def test_before_training_it_is_mutual_nearest_neighbour_matching():
    network = made_network()
    seen = torch.tensor([3, 7, 7, 20])  # landmark 7 twice: only the closer keypoint may keep it
    noise = torch.tensor([0.05, 0.2, 0.02, 0.1])[:, None] * torch.randn(4, 16)
    descriptors = functional.normalize(network.landmarks.data[seen] + noise, dim=1)
    similarity = descriptors @ network.landmarks.data.T
    mutual = [similarity[:, similarity[i].argmax()].argmax().item() == i for i in range(4)]
    with torch.no_grad():
        xyz, u = network(descriptors[None])
    assert torch.equal(xyz[0], network.xyz[similarity.argmax(dim=1)])
    assert ((network.reliability(u)[0] > 1e-3).tolist()) == mutual
    assert mutual.count(False) == 1


def test_a_keypoint_far_from_every_landmark_is_unreliable():
    network = made_network(dim=64)
    stranger = functional.normalize(torch.randn(1, 1, 64), dim=-1)
    exact = network.landmarks.data[None, :1]
    with torch.no_grad():
        assert network.reliability(network(stranger)[1]).item() < 0.05
        assert network.reliability(network(exact)[1]).item() > 0.95


def test_padding_changes_nothing():
    network = made_network()
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    x = functional.normalize(torch.randn(1, 9, 16), dim=-1)
    padded = torch.cat([x, functional.normalize(torch.randn(1, 4, 16), dim=-1)], dim=1)
    with torch.no_grad():
        alone, u_alone = network(x)
        together, u_together = network(padded, torch.arange(13)[None] < 9)
    assert torch.equal(alone, together[:, :9]) and torch.allclose(u_alone, u_together[:, :9], atol=1e-4)


def test_landmarks_cover_thin_images_before_well_seen_ones_get_more():
    # Images 0 to 8 share 900 long tracks; image 9 alone sees 50 short ones.
    shared = [(image, point) for point in range(900) for image in range(9)]
    lonely = [(image, point) for point in range(900, 950) for image in (9, 8)]
    image, point = np.array(shared + lonely).T
    chosen = select_landmarks(image, point, 10, 950, 200)
    assert len(chosen) == 200 == len(set(chosen.tolist()))
    assert (chosen >= 900).sum() >= 40


def test_no_more_landmarks_than_points():
    image, point = np.repeat(np.arange(3), 5), np.tile(np.arange(5), 3)
    assert select_landmarks(image, point, 3, 5, 100).tolist() == [0, 1, 2, 3, 4]


def test_points_that_no_image_sees_are_never_chosen():
    assert select_landmarks(np.array([0, 1]), np.array([2, 2]), 2, 5, 3).tolist() == [2]
