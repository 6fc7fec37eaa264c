"""Model 3: before training it is matching against the landmarks, and its landmarks cover every image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from d2s.config import ModelConfig
from d2s.features.base import LocalFeatures
from d2s.matching import database
from d2s.matching.database import BLOCK
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmark_map import LandmarkCodes, principal_directions, quantise, spatial_order
from d2s.regressor.landmarks import LandmarkNet, select_landmarks
from d2s.regressor.model_files import TrainedModel


def made_network(count=30, dim=16, seed=0, **options) -> LandmarkNet:
    torch.manual_seed(seed)
    config = ModelConfig(model=3, width=32, heads=2, blocks=1, norm="layer", reliability="sigmoid", **options)
    network = LandmarkNet(config, dim, count).eval()
    network.landmarks.fill(network.project(torch.randn(count, dim)), torch.randn(count, 3))
    return network


def test_before_training_it_is_mutual_nearest_neighbour_matching():
    network = made_network()
    seen = torch.tensor([3, 7, 7, 20])  # landmark 7 twice: only the closer keypoint may keep it
    noise = torch.tensor([0.05, 0.2, 0.02, 0.1])[:, None] * torch.randn(4, 16)
    descriptors = functional.normalize(network.landmarks.directions()[seen] + noise, dim=1)
    similarity = descriptors @ network.landmarks.directions().T
    mutual = [similarity[:, similarity[i].argmax()].argmax().item() == i for i in range(4)]
    with torch.no_grad():
        xyz, u = network(descriptors[None])
    assert torch.equal(xyz[0], network.xyz[similarity.argmax(dim=1)])
    assert ((network.reliability(u)[0] > 1e-3).tolist()) == mutual
    assert mutual.count(False) == 1


def test_a_keypoint_far_from_every_landmark_is_unreliable():
    network = made_network(dim=64)
    stranger = functional.normalize(torch.randn(1, 1, 64), dim=-1)
    exact = network.landmarks.directions()[None, :1]
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


def test_only_the_first_keypoints_are_attended_to():
    network = made_network(context=4)
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    x = functional.normalize(torch.randn(1, 9, 16), dim=-1)
    changed = x.clone()
    changed[:, 6] = functional.normalize(torch.randn(16), dim=0)
    with torch.no_grad():
        before, after = network.refine(x), network.refine(changed)
        changed[:, 2] = functional.normalize(torch.randn(16), dim=0)
        moved = network.refine(changed)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-6) and not torch.allclose(before[:, 6], after[:, 6])
    assert not torch.allclose(after[:, 8], moved[:, 8], atol=1e-4)


def test_long_descriptors_are_projected_to_where_the_landmarks_differ():
    torch.manual_seed(0)
    spread = torch.diag(torch.cat([torch.ones(8), torch.full((56,), 0.02)]))
    descriptors = functional.normalize(torch.randn(500, 64) @ spread @ torch.linalg.qr(torch.randn(64, 64))[0], dim=1)
    kept = principal_directions(descriptors, 8)
    torch.testing.assert_close(kept.T @ kept, torch.eye(8), atol=1e-5, rtol=0)
    assert ((descriptors @ kept).norm(dim=1) ** 2).mean() > 0.98
    network = made_network(dim=64, landmark_channels=8)
    network.projection.copy_(kept)
    network.landmarks.fill(network.project(descriptors[:30]), torch.randn(30, 3))
    places = network.landmark_map()
    similarity = places.describe(descriptors[:30].numpy()) @ places.descriptors.T
    assert (similarity.argmax(axis=1) == np.arange(30)).all() and np.diag(similarity).min() > 0.999
    with torch.no_grad():
        assert torch.equal(network(descriptors[None, :30])[0][0], network.xyz)


def test_codes_keep_directions():
    descriptors = functional.normalize(torch.randn(500, 128, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert quantise(descriptors).dtype == torch.int8
    codes = LandmarkCodes(500, 128)
    codes.fill(descriptors, torch.zeros(500, 3), 0.7)
    read = codes.read()
    assert (read.descriptors * descriptors.numpy()).sum(axis=1).min() > 0.999
    assert read.min_similarity == pytest.approx(0.7)
    assert torch.equal(codes.directions(torch.tensor([7, 3])), codes.directions()[[7, 3]])


def test_neighbours_in_space_stay_together():
    rng = np.random.default_rng(0)
    rooms = rng.integers(0, 4, 400)
    xyz = np.array([[0, 0, 0], [50, 0, 0], [0, 50, 0], [50, 50, 0]])[rooms] + rng.uniform(0, 3, (400, 3))
    order = spatial_order(xyz)
    assert sorted(order) == list(range(400))
    assert (np.diff(rooms[order]) != 0).sum() == 3  # room by room
    assert (spatial_order(np.zeros((5, 3))) == np.arange(5)).all()


def test_other_places_compete_and_neighbours_do_not():
    """A twin in the block of the best landmark costs no reliability, one in another block does."""
    torch.manual_seed(1)
    network = made_network(count=2 * BLOCK, dim=32)
    directions = functional.normalize(torch.randn(2 * BLOCK, 32), dim=1)
    u = {}
    for name, twin in {"beside": 8, "elsewhere": BLOCK + 8}.items():
        with_twin = directions.clone()
        with_twin[twin] = with_twin[7]
        network.landmarks.fill(with_twin, torch.randn(2 * BLOCK, 3))
        with torch.no_grad():
            u[name] = network.reliability(network(directions[None, 7:8])[1]).item()
    assert u["beside"] > 0.95 and 0.3 < u["elsewhere"] < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
@pytest.mark.parametrize("count", [1, 700, BLOCK, 2 * BLOCK + 300])
def test_the_fast_comparison_is_the_network(monkeypatch, dtype, count):
    """A CPU compares in blocks and in its fastest numbers: the same answers as the network itself, up to rounding."""
    monkeypatch.setattr(database, "comparison_dtype", lambda: dtype)
    network = made_network(count=count, dim=64)
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    noise = 0.05 * torch.randn(400, 64)
    seen = functional.normalize(network.landmarks.directions()[torch.randint(count, (400,))] + noise, dim=1)
    info = ModelInfo("x", "x", "metres", {}, 2048)
    features = LocalFeatures(np.zeros((400, 2), np.float32), np.ones(400, np.float32), seen.numpy(), (9, 9))
    xyz, reliability = TrainedModel(network, info, precision="fp32").predict(features)
    with torch.no_grad():
        expected, u = network(seen[None])
    same = (xyz == expected[0].numpy()).all(axis=1)
    assert same.mean() > (0.99 if dtype == torch.float32 else 0.95)
    difference = np.abs(reliability - network.reliability(u)[0].numpy())[same]
    assert np.quantile(difference, 0.9) < 0.05
    assert np.median(difference) < 0.01
