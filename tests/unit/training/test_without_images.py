"""A training set without some of its images: nothing of them may be left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.pose_field import motion
from d2s.training.data import TrainingSet
from d2s.training.without_images import FEWEST, without_images

CAMERA = parse_camera("SIMPLE_RADIAL 640 480 500 320 240 0.05")
IMAGES, POINTS = 8, 50


@pytest.fixture
def seen_by_all() -> TrainingSet:
    """Points in front of cameras side by side, each seen by every camera; coordinates are off by centimetres."""
    random = np.random.default_rng(0)
    cloud = random.uniform([-1, -1, 3], [1, 1, 5], (POINTS, 3))
    poses = [motion(np.concatenate([random.normal(0, 0.05, 3), [0.2 * i, 0, 0]])) for i in range(IMAGES)]
    pixels = [project(CAMERA, pose.transform(p, cloud))[0] for p in poses]
    point = torch.arange(POINTS).expand(IMAGES, POINTS)
    return TrainingSet(
        names=tuple(f"{i}.jpg" for i in range(IMAGES)),
        descriptors=torch.zeros(IMAGES, POINTS, 4).half(),
        keypoints=torch.tensor(np.array(pixels)).float(),
        mask=torch.ones(IMAGES, POINTS, dtype=torch.bool),
        xyz=torch.tensor(cloud + 0.02 * random.normal(size=cloud.shape)).float().expand(IMAGES, POINTS, 3),
        valid=torch.ones(IMAGES, POINTS, dtype=torch.bool),
        point=point,
        weight=torch.ones(IMAGES, POINTS),
        cam_from_world=torch.tensor(np.array(poses)).float(),
        has_pose=torch.ones(IMAGES, dtype=torch.bool),
        camera=torch.zeros(IMAGES, dtype=torch.long),
        cameras=(CAMERA,),
        num_real=IMAGES,
    )


def held(*images: int) -> torch.Tensor:
    return torch.tensor([i in images for i in range(IMAGES)])


def test_points_are_where_the_rays_of_the_others_meet(seen_by_all):
    left = without_images(seen_by_all, held(0, 1))
    assert not left.valid[:2].any() and left.valid[2:].all()
    for image in range(2, IMAGES):
        pixels, _ = project(CAMERA, pose.transform(left.cam_from_world[image].double().numpy(), left.xyz[image].double().numpy()))
        np.testing.assert_allclose(pixels, left.keypoints[image], atol=0.01)
        assert torch.equal(left.xyz[image], left.xyz[2])  # to the last bit: it is by these that points are told apart


def test_held_out_images_leave_no_trace(seen_by_all):
    moved = seen_by_all.cam_from_world.clone()
    moved[:2, :, 3] += 0.5
    before, after = without_images(seen_by_all, held(0, 1)), without_images(replace(seen_by_all, cam_from_world=moved), held(0, 1))
    assert torch.equal(before.xyz[2:], after.xyz[2:])
    assert not torch.equal(before.xyz[2:], without_images(seen_by_all, held(0)).xyz[2:])


def test_points_that_too_few_others_see_go(seen_by_all):
    rare = seen_by_all.valid.clone()
    rare[FEWEST + 1 :, 0] = False  # the first point is seen by FEWEST + 1 images
    data = replace(seen_by_all, valid=rare, point=torch.where(rare, seen_by_all.point, -1))
    assert without_images(data, held(0)).valid[1 : FEWEST + 1, 0].all()
    assert not without_images(data, held(0, 1)).valid[:, 0].any()
    assert without_images(data, held(0, 1)).valid[2:, 1:].all()
