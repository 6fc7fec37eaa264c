"""Words, figures and pictures of a report; the page itself is tested with d2s eval."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2s.evaluation import html, wording
from d2s.evaluation.figures import error_curve
from d2s.evaluation.map_figure import PlaceMap, ups, view_from_above
from d2s.evaluation.pictures import GREEN, RED, draw_keypoints, jpeg_uri
from d2s.geometry.camera import make_camera
from d2s.localization.result import LocalizationResult
from d2s.scene.manifest import AXES, EAST_NORTH_UP, Scene, SceneImage


@pytest.mark.parametrize(
    ("t", "units", "extent", "text"),
    [
        (0.0234, "metres", 1.0, "2.34 cm"),
        (0.234, "metres", 1.0, "23.4 cm"),
        (2.34, "metres", 1.0, "2.34 m"),
        (234.0, "metres", 1.0, "234 m"),
        (0.02, "arbitrary", 4.0, "0.50 %"),
        (0.02, "arbitrary", 0.0, "0.02 units"),
        (math.inf, "metres", 1.0, "-"),
        (None, "arbitrary", 1.0, "-"),
    ],
)
def test_distances(t, units, extent, text):
    assert wording.distance(t, units, extent) == text


def test_other_words():
    assert wording.size(4_312_334) == "4.3 MB" and wording.size(900) == "0.9 kB" and wording.duration(90) == "90 s"
    assert wording.duration(1.4) == "1 s" and wording.duration(0.64) == "0.6 s" and wording.duration(0.012) == "0.01 s"
    assert wording.duration(630) == "10.5 min" and wording.duration(0) == "-" and wording.share(0.6841) == "68.4 %"
    assert wording.angle(math.inf) == "-" and wording.milliseconds(None) == "-"


def upright_camera(center, yaw):
    """A camera of a world whose z axis points up, looking along (cos yaw, sin yaw, 0)."""
    forward = np.array([math.cos(yaw), math.sin(yaw), 0])
    down = np.array([0, 0, -1.0])
    rotation = np.stack([np.cross(down, forward), down, forward])
    return np.column_stack([rotation, -rotation @ center])


def test_view_from_above_is_along_gravity_and_not_mirrored():
    poses = np.stack([upright_camera([3 * x, x % 2, 0.3 * x], x) for x in range(6)])
    first, second = view_from_above(poses)
    np.testing.assert_allclose(np.abs(first @ [0, 0, 1]), 0, atol=1e-9)
    np.testing.assert_allclose(np.cross(first, second), [0, 0, 1], atol=1e-9)
    assert abs(first[0]) > 0.9


def test_up_is_where_the_top_of_a_photo_is_that_was_stored_turned(tmp_path):
    images = []
    for orientation, turns in ((1, 0), (6, 3), (3, 2), (8, 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (8, 6)).save(tmp_path / f"{turns}.jpg", exif=exif)
        upright = upright_camera([turns, 0, 0], 0.3)
        stored = np.linalg.matrix_power(np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1.0]]), turns).T @ upright  # the picture, turned clockwise
        images.append(SceneImage(f"{turns}.jpg", 1, stored, "train"))
    scene = Scene("photos", "yard", tmp_path, {1: make_camera("SIMPLE_PINHOLE", 8, 6, [9, 4, 3])}, tuple(images))
    np.testing.assert_allclose(ups(scene, scene.images), [[0, 0, 1]] * 4, atol=1e-9)
    axes = view_from_above(np.stack([image.cam_from_world for image in images]), ups(scene, scene.images))
    np.testing.assert_allclose(np.cross(*axes), [0, 0, 1], atol=1e-9)


def test_a_scene_with_east_north_and_up_knows_where_up_is():
    down = np.column_stack([np.diag([1.0, -1.0, -1.0]), [0, 0, 50]])  # from a drone that looks down: the top of its images is north
    scene = Scene("photos", "field", Path(), {1: make_camera("SIMPLE_PINHOLE", 8, 6, [9, 4, 3])}, (SceneImage("a", 1, down, "train"),))
    known = replace(scene, provenance={AXES: EAST_NORTH_UP})
    np.testing.assert_allclose(ups(scene, scene.images), [[0, 1, 0]], atol=1e-9)
    np.testing.assert_allclose(ups(known, scene.images), [[0, 0, 1]])


@pytest.mark.parametrize("count", [1, 3])
def test_view_of_cameras_in_one_place(count):
    axes = view_from_above(np.stack([upright_camera([1, 2, 3], 0.1)] * count))
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    np.testing.assert_allclose(axes @ [0, 0, 1], 0, atol=1e-9)


def test_figures_are_svg_and_repeatable():
    poses = np.stack([upright_camera([x, 0, 0], x) for x in range(5)])
    estimated = poses.copy()
    estimated[2] = np.nan
    view = PlaceMap(poses, poses, estimated, [0, 1, 3, 2, 0], np.random.default_rng(0).normal(size=(20000, 3)), "metres")
    drawn = view.from_above()
    assert view.from_above() == drawn and drawn.startswith("<svg") and "width=" not in drawn.split(">")[0]
    assert drawn.count("query ") == 4 and view.from_the_side().startswith("<svg")
    assert PlaceMap(poses[:0], poses, np.full_like(poses, np.nan), [3] * 5, np.zeros((0, 3)), "metres").from_above().startswith("<svg")
    for errors in ([], [math.inf], [0.0, 1.0, math.inf]):
        assert error_curve({"ours": errors}, "cm", (1, 5), 2).startswith("<svg")
        assert ">theirs<" in error_curve({"ours": errors, "theirs": [0.1]}, "cm", (1, 5))


def test_keypoints_have_the_colours_of_their_fate():
    keypoints = np.array([[100, 100], [300, 100], [500, 300]], np.float32)
    used, inliers = np.array([False, True, True]), np.array([False, False, True])
    nothing = np.zeros((3, 3), np.float32)
    result = LocalizationResult(False, None, "", {}, keypoints, nothing, nothing[:, 0], used, inliers)
    drawn = draw_keypoints(np.full((600, 1120), 128, np.uint8), result)
    assert drawn.shape == (300, 560, 3)
    np.testing.assert_allclose(drawn[50, 50], RED, atol=30)
    np.testing.assert_allclose(drawn[150, 250], GREEN, atol=30)
    assert drawn[50, 150].max() < 120, "a reliable keypoint that does not agree is a ring"
    assert (np.abs(drawn[46:55, 146:155].astype(int) - GREEN).max(axis=2) < 60).any()
    data = base64.b64decode(jpeg_uri(drawn).split(",")[1])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (300, 560, 3)


def test_foreign_text_is_escaped():
    page = html.page("<a>", html.table(("h",), [("<script>",)]) + html.tiles([("<i>", "<b>")]) + html.picture("data:,", '"><', "x"))
    assert "<script>" not in page and "&lt;script&gt;" in page and "<i>" not in page and '""><"' not in page
