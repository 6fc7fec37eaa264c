"""What is exported: points found again from labels, tracks, colours, poses of results, and the map of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from d2s.config import ModelConfig
from d2s.errors import InputError
from d2s.export.content import query_content, scene_content, tracks, with_colors, with_results
from d2s.export.predicted import landmark_content, map_content, merge
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.regressor.base import ModelInfo
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel
from d2s.regressor.network import D2SNet

from .conftest import COLORS, DIM, POINTS, SETTINGS, look


def rows_of(content, made):
    """For each exported point the point of the scene that it is."""
    distance = np.linalg.norm(content.points.xyz[:, None] - made.xyz[None], axis=2)
    assert distance.min(axis=1).max() < 1e-6
    return distance.argmin(axis=1)


def test_points_and_tracks_are_those_of_the_labels(made):
    content = scene_content(made.scene, made.folder)
    original = rows_of(content, made)
    seen = {int(p) for point in made.seen.values() for p in point[point >= 0]}
    assert sorted(original.tolist()) == sorted(seen) and len(seen) > 30
    assert [view.split for view in content.views] == ["train"] * 6 + ["val"] + ["test"] * 2
    for view in content.views[:6]:
        expected = made.seen[view.name]
        shown = view.point >= 0
        assert (shown == (expected >= 0)).all() and (original[view.point[shown]] == expected[shown]).all()
    assert content.points.error == pytest.approx(0.25 * (original % 3))
    starts, elements = tracks(content.views, len(content.points))
    assert starts[-1] == sum((point >= 0).sum() for point in made.seen.values())
    for row in range(len(content.points)):
        for view, index in elements[starts[row] : starts[row + 1]]:
            assert content.views[view].point[index] == row


def test_colors_are_those_of_the_pixels_and_gray_without_images(made, caplog):
    content = scene_content(made.scene, made.folder)
    assert (with_colors(content).points.rgb == COLORS[rows_of(content, made)]).all(axis=1).mean() > 0.9  # a few share a pixel
    for image in made.scene.images:
        made.scene.path(image).unlink()
    assert (with_colors(content).points.rgb == 128).all() and "6 of 6 images" in caplog.text


def test_results_replace_the_poses_of_queries(made, tmp_path):
    test = made.scene.split("test")
    moved = pose.compose(np.column_stack([np.eye(3), [0.1, 0, 0]]), test[0].cam_from_world)
    poses = {test[0].name: moved, test[2].name: moved}  # the second was not localized, the third has no reference pose
    for content in (scene_content(made.scene, made.folder), query_content(made.scene)):
        changed = with_results(content, made.scene, poses, tmp_path / "results.txt")
        queries = [view for view in changed.views if view.split == "test"]
        assert [view.name for view in queries] == list(poses) and all((view.cam_from_world == moved).all() for view in queries)
        assert len(changed.views) - len(queries) == sum(view.split != "test" for view in content.views)
    train = made.scene.split("train")[0].name
    changed = with_results(scene_content(made.scene, made.folder), made.scene, {train: moved}, tmp_path)
    assert (next(view for view in changed.views if view.name == train).point >= 0).any()  # what it shows stays known
    with pytest.raises(InputError, match="stranger"):
        with_results(query_content(made.scene), made.scene, {"stranger.png": moved}, tmp_path)


def info(**values):
    return ModelInfo("made", "place", "metres", SETTINGS, 60, bounds=((-1.2, -0.8, 4), (1.2, 0.8, 6)), **values)


def landmark_model(made, count=POINTS):
    network = LandmarkNet(ModelConfig(model=3, width=16, heads=2, blocks=1, norm="layer", reliability="sigmoid"), DIM, count)
    network.landmarks.fill(torch.from_numpy(look()[:count]), torch.from_numpy(made.xyz[:count]))
    return TrainedModel(network, info(reliability_threshold=0.3), precision="fp32")


def test_the_map_of_model_3_is_its_landmarks_with_the_keypoints_that_name_them(made):
    content = map_content(landmark_model(made, 30), made.scene, made.folder)
    assert content.points.xyz == pytest.approx(made.xyz[:30], abs=1e-6) and len(content.views) == 6
    for view in content.views:
        shown = view.point >= 0
        assert shown.sum() > 5
        pixels, _ = project(content.cameras[view.camera_id], pose.transform(view.cam_from_world, content.points.xyz[view.point[shown]]))
        assert np.abs(pixels - view.keypoints[shown]).max() < 0.01
    seen = content.points.error >= 0
    assert seen.sum() > 20 and content.points.error[seen].max() < 0.01
    nothing = map_content(landmark_model(made, 30), made.scene, made.folder, threshold=1.0)
    assert len(nothing.points) == 30 and all((view.point < 0).all() for view in nothing.views) and (nothing.points.error == -1).all()


def test_landmarks_can_be_had_without_the_scene(made):
    content = landmark_content(landmark_model(made))
    assert len(content.points) == POINTS and content.views == ()
    with pytest.raises(InputError, match="mapping images"):
        landmark_content(TrainedModel(D2SNet(ModelConfig(model=1), DIM), info()))


class Knowing(TrainedModel):
    """Model 1 that knows where its keypoints are, up to 2 mm; every fifth is wrong, and says so or not."""

    def __init__(self, made):
        super().__init__(D2SNet(ModelConfig(model=1), DIM), info(), precision="fp32")
        self.made = made

    def predict(self, features):
        point = (features.descriptors.astype(np.float32) @ look().T).argmax(axis=1)
        xyz = self.made.xyz[point] + np.random.default_rng(len(point)).normal(0, 0.002, (len(point), 3))
        xyz[::5] += 3
        return xyz.astype(np.float32), np.where(np.arange(len(point)) % 10 == 0, 0.1, 0.9).astype(np.float32)


def test_the_map_of_models_1_and_2_is_what_they_reliably_predict_merged(made):
    content = map_content(Knowing(made), made.scene, made.folder, voxel=0.5)
    fine = map_content(Knowing(made), made.scene, made.folder)
    assert 0 < len(content.points) < len(fine.points)
    distance = np.linalg.norm(fine.points.xyz[:, None] - made.xyz[None], axis=2).min(axis=1)
    assert distance.max() < 0.02  # wrong predictions are reliable or not, but none agrees with its image
    assert max(fine.points.error) < 12 and sum((view.point >= 0).sum() for view in fine.views) > len(fine.points)
    for view in fine.views:
        shown = view.point[view.point >= 0]
        assert len(np.unique(shown)) == len(shown)


def test_merging_weighs_by_reliability():
    xyz = np.array([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [-0.1, 0.1, 0.1]], np.float32)
    means, number = merge(xyz, np.array([1, 3, 1], np.float32), 0.5)
    assert number[0] == number[1] != number[2]
    assert means[number[0]] == pytest.approx([0.25, 0.1, 0.1]) and means[number[2]] == pytest.approx([-0.1, 0.1, 0.1])
