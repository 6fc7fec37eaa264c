"""The losses of both public branches, written out image by image and keypoint by keypoint, against the objective of a recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from d2s.config import LossConfig, find_recipe, load_recipe
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.torch_camera import TorchCameras
from d2s.training.data import Batch
from d2s.training.objective import RegressionObjective

CAMERA = parse_camera("SIMPLE_PINHOLE 640 480 500 320 240")
IMAGES, ROWS = 3, 12


class Answers(torch.nn.Module):
    """A network that predicts what it is given."""

    def __init__(self, xyz, u):
        super().__init__()
        self.answers = xyz, u

    def forward(self, descriptors, mask):
        return self.answers

    def reliability(self, u):
        return 1 / (1 + 100 * u.abs())


class Case:
    """A batch, predictions that are off by centimetres to metres, and per keypoint what the formulas need, in plain numbers."""

    def __init__(self):
        random = np.random.default_rng(4)
        self.poses = [pose.from_qvec_tvec([1, *random.normal(0, 0.1, 3)], random.normal(0, 0.3, 3)) for _ in range(IMAGES)]
        self.xyz = random.uniform([-1, -1, 3], [1, 1, 6], (IMAGES, ROWS, 3))
        self.valid = random.random((IMAGES, ROWS)) < 0.6
        self.pixels = np.stack([project(CAMERA, pose.transform(p, x))[0] for p, x in zip(self.poses, self.xyz, strict=True)])
        self.pixels += random.normal(0, 0.5, self.pixels.shape)
        self.predicted = self.xyz + random.normal(size=self.xyz.shape) * np.geomspace(0.01, 1.0, ROWS)[None, :, None]
        self.predicted[0, 0] = pose.center(self.poses[0]) - [0, 0, 2]  # behind the camera
        self.u = random.normal(0, 0.01, (IMAGES, ROWS))

    def batch(self):
        def tensor(values):
            return torch.tensor(np.asarray(values), dtype=torch.float32)

        everywhere = torch.ones(IMAGES, ROWS, dtype=torch.bool)
        values = {
            "descriptors": torch.zeros(IMAGES, ROWS, 8),
            "keypoints": tensor(self.pixels),
            "mask": everywhere,
            "xyz": tensor(self.xyz),
            "valid": torch.tensor(self.valid),
            "point": torch.zeros(IMAGES, ROWS, dtype=torch.long),
            "cam_from_world": tensor(np.stack(self.poses)),
            "camera": torch.zeros(IMAGES, dtype=torch.long),
        }
        extra = {"weight": everywhere.float(), "has_pose": torch.ones(IMAGES, dtype=torch.bool)}
        return Batch(**values, **{name: value for name, value in extra.items() if name in Batch.__dataclass_fields__})

    def errors(self, image):
        """Distances in pixels and depths of the predictions of one image."""
        points = pose.transform(self.poses[image], self.predicted[image])
        pixels = points[:, :2] / points[:, 2:] * 500 + [319.5, 239.5]
        return np.linalg.norm(pixels - self.pixels[image], axis=1), points[:, 2]

    def terms(self, config, progress, stage):
        network = Answers(torch.tensor(self.predicted, dtype=torch.float32), torch.tensor(self.u, dtype=torch.float32))
        objective = RegressionObjective(config, network, TorchCameras([CAMERA]), torch.tensor(1.0))
        batch = self.batch()
        return {name: term.item() for name, term in objective(batch, batch.mask, progress, stage).items()}

    def map_sum(self):
        return sum(math.dist(self.predicted[b, i], self.xyz[b, i]) for b in range(IMAGES) for i in range(ROWS) if self.valid[b, i]) / IMAGES

    def reliability(self):
        return 1 / (1 + 100 * np.abs(self.u))


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.mark.parametrize("name", ["configsV1.ini", "configsV2.ini"])
def test_older_branch(case, name):
    """Total = map + reliability over the whole batch, in the second stage + 10 reprojection, which divides by all keypoints."""
    config = load_recipe(find_recipe(name)).loss
    first, second = (case.terms(config, 0.5, stage) for stage in (1, 2))
    expected_reliability = math.sqrt(((case.valid - case.reliability()) ** 2).sum()) / IMAGES
    reprojection = 0.0
    for image in range(IMAGES):
        errors, depth = case.errors(image)
        reprojection += sum(e for e, z, v in zip(errors, depth, case.valid[image], strict=True) if v and z >= 0.1 and e <= 1000) / ROWS
    assert set(first) == {"map", "reliability"} and set(second) == {*first, "reprojection"}
    for terms in (first, second):
        assert terms["map"] == pytest.approx(case.map_sum(), rel=1e-5)
        assert terms["reliability"] == pytest.approx(expected_reliability, rel=1e-4)
    assert second["reprojection"] == pytest.approx(10 * reprojection / IMAGES, rel=1e-3)
    assert case.terms(config, 0.0, 2)["reprojection"] == second["reprojection"]  # from the first step of the stage on


def kept(case, image, mask):
    errors, depth = case.errors(image)
    chosen = {"labelled": case.valid[image], "unlabelled": ~case.valid[image], "all": np.ones(ROWS, bool)}[mask]
    return errors[chosen & (depth >= 0.1) & (depth <= 1000) & (errors <= 1000)]


FORMULAS = {
    "tanh": lambda e, clamp, progress: clamp * math.tanh(e / clamp),
    "l1": lambda e, clamp, progress: e if e <= clamp else 0.0,
    "l1+sqrt": lambda e, clamp, progress: e if e <= clamp else math.sqrt(clamp * e),
    "l1+log": lambda e, clamp, progress: e if e <= clamp else math.log(1 + clamp * e),
    "dyntanh": lambda e, clamp, progress: width(clamp, progress, "circle") * math.tanh(e / width(clamp, progress, "circle")),
    "dyntanh linear": lambda e, clamp, progress: width(clamp, progress, "linear") * math.tanh(e / width(clamp, progress, "linear")),
}


def width(clamp, progress, schedule):
    gone = 1 - math.sqrt(1 - progress**2) if schedule == "circle" else progress
    return (1 - gone) * clamp + 1


@pytest.mark.parametrize("mask", ["labelled", "unlabelled", "all"])
@pytest.mark.parametrize("kind", FORMULAS)
def test_newer_branch(case, kind, mask):
    """Total = map + mean of the norms per image + one of the robust reprojections, from 80 % of the run on."""
    name, _, schedule = kind.partition(" ")
    config = LossConfig(
        reliability_loss="image", reprojection=name, clamp_schedule=schedule or "circle", reprojection_mask=mask,
        reprojection_stage=1, reprojection_start=0.8, coef_lrepr=1.0, soft_clamp=20.0, soft_clamp_min=1.0,
    )  # fmt: skip
    early, late = case.terms(config, 0.79, 1), case.terms(config, 0.9, 1)
    assert "reprojection" not in early
    expected_reliability = np.linalg.norm(case.valid - case.reliability(), axis=1).mean()
    assert late["map"] == pytest.approx(case.map_sum(), rel=1e-5) and late["reliability"] == pytest.approx(expected_reliability, rel=1e-4)
    errors = np.concatenate([kept(case, image, mask) for image in range(IMAGES)])
    assert (errors > 20).any() and (errors < 20).any()
    values = [FORMULAS[kind](e, 20.0, 0.9) for e in errors]
    expected = sum(values) if name.startswith("l1") else np.mean(values)
    assert late["reprojection"] == pytest.approx(expected, rel=1e-3)
