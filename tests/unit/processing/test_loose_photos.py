"""Photos that fit together too loosely for a map: what is said of them does not speak of poses that nobody gave."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from d2s.errors import ReconstructionError
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing import pipeline


def test_no_points_of_photos_without_poses(monkeypatch, tmp_path):
    images = tuple(SceneImage(f"{i}.jpg", 1, None, "train") for i in range(40))
    scene = Scene("photos", "person", Path(), {1: make_camera("SIMPLE_PINHOLE", 8, 6, [9, 4, 3])}, images)

    def no_point(*arguments):
        raise ReconstructionError("No 3D point could be triangulated from 3 image pairs.", "Check that the poses are world-to-camera.")

    stand_ins = {
        "make_matcher": None, "match_photos": {}, "reconstruct": None, "capture_order": [], "find_world": None, "verify_matches": {},
        "reconsider": None, "firmer": types.SimpleNamespace(model=None), "placed": (scene.with_images(images[:4]), ()),
    }  # fmt: skip
    for name, value in stand_ins.items():
        monkeypatch.setattr(pipeline, name, lambda *arguments, value=value: value)
    monkeypatch.setattr(pipeline, "_publish_map", no_point)
    settings = pipeline.Settings("photos", pipeline.AdapterOptions(Path()))
    with pytest.raises(ReconstructionError) as error:
        pipeline._reconstruct(settings, tmp_path, types.SimpleNamespace(scene=scene, refine_cameras=True), None)
    assert error.value.problem.startswith("Only 4 of 40 photos fit together, and too loosely for a map: No 3D point")
    assert "stands still" in error.value.remedy and "world-to-camera" not in str(error.value)
