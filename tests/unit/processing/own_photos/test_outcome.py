"""What `d2s map` says to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene
from processing.own_photos.outcome import _which_camera

HALF = {index: make_camera("SIMPLE_PINHOLE", 64, 48, [60 + index, 32, 24], index) for index in range(1, 3)}


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        ({1: HALF[1]}, ""),
        ({1: HALF[1], 2: make_camera("SIMPLE_PINHOLE", 48, 64, [60, 24, 32], 2)}, ""),  # the photo's size tells which
        (HALF, " --camera 'SIMPLE_PINHOLE 64 48 61.0 32.0 24.0'"),
        ({index: make_camera("SIMPLE_PINHOLE", 64, 48, [60 + index / 10, 32, 24], index) for index in range(1, 9)}, ""),  # one, eight times
    ],
)
def test_a_new_photo_needs_a_camera_only_where_nothing_else_tells(cameras, said, caplog):
    assert _which_camera(Scene("colmap", "hall", Path("/nowhere"), cameras, ())) == said
    assert not caplog.records
