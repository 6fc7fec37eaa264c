"""Poses refined by bundle adjustment, on a made scene whose true poses are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project
from d2s.geometry.pose_field import motion
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.colmap import SfmOptions
from processing.sfm.refinement import aligned, refine_poses

CAMERA = "SIMPLE_PINHOLE 640 480 500 320 240"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """True scene, keypoints and matches of 300 points on two walls, seen by twelve cameras on an arc."""
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-3, 3, 300), rng.uniform(-2, 2, 300), rng.choice([5.0, 6.5], 300) + rng.uniform(0, 0.3, 300)])
    images, keypoints, seen = [], {}, {}
    camera = parse_camera(CAMERA)
    for number, x in enumerate(np.linspace(-1.5, 1.5, 12)):
        rotation = motion(np.array([0.02 * np.sin(number), 0.15 * x, 0, 0, 0, 0]))[:, :3]
        center = np.array([x, 0.2 * np.sin(2 * x), 0.3 * np.cos(x)])
        truth = np.concatenate([rotation, -rotation @ center[:, None]], axis=1)
        pixels, front = project(camera, pose.transform(truth, points))
        inside = front & (pixels > 0).all(axis=1) & (pixels < [640, 480]).all(axis=1)
        name = f"{number:02d}.png"
        keypoints[name] = (pixels[inside] + 0.3 * rng.standard_normal((inside.sum(), 2))).astype(np.float32)
        seen[name] = np.flatnonzero(inside)
        images.append(SceneImage(name, 1, truth, "train"))
    names = list(keypoints)
    matches = {
        (a, b): np.column_stack(np.intersect1d(seen[a], seen[b], return_indices=True)[1:]).astype(np.int32)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
    }
    scene = Scene("test", "arc", tmp_path_factory.mktemp("arc"), {1: camera}, tuple(images), "metres")
    return scene, keypoints, matches


def disturbed(scene: Scene, size: float) -> Scene:
    rng = np.random.default_rng(1)
    moved = [pose.compose(motion(size * rng.standard_normal(6)), image.cam_from_world) for image in scene.images]
    return scene.with_images(replace(image, cam_from_world=matrix) for image, matrix in zip(scene.images, moved, strict=True))


def largest_errors(a: Scene, b: Scene) -> tuple[float, float]:
    errors = np.array([pose.pose_error(x.cam_from_world, y.cam_from_world) for x, y in zip(a.images, b.images, strict=True)])
    return float(np.median(errors[:, 0])), float(np.median(errors[:, 1]))


def test_wrong_poses_are_mended(place, tmp_path):
    truth, keypoints, matches = place
    given = disturbed(truth, 0.004)
    found = refine_poses(given, keypoints, matches, SfmOptions(), tmp_path)
    assert found.worthwhile
    assert found.error_after < 0.6 < 1 < found.error_before
    before, after = largest_errors(aligned(given, truth), truth), largest_errors(aligned(found.scene, truth), truth)
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.4 * before[1]
    assert not list(tmp_path.iterdir())


def test_right_poses_are_left_alone(place, tmp_path):
    truth, keypoints, matches = place
    found = refine_poses(truth, keypoints, matches, SfmOptions(), tmp_path)
    assert not found.worthwhile
    assert largest_errors(found.scene, truth)[0] < 0.01


def test_frame_and_scale_of_the_given_poses_are_kept(place):
    truth, *_ = place
    rotation = motion(np.array([0.3, -0.2, 0.9, 0, 0, 0]))[:, :3]
    moved = []
    for image in truth.images:
        center = 2.5 * rotation @ pose.center(image.cam_from_world) + [4, -1, 2]
        turned = image.cam_from_world[:, :3] @ rotation.T
        moved.append(replace(image, cam_from_world=np.concatenate([turned, -turned @ center[:, None]], axis=1)))
    distance, angle = largest_errors(aligned(truth.with_images(moved), truth), truth)
    assert distance < 1e-9
    assert angle < 1e-6
