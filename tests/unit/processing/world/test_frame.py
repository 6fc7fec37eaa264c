"""From scene units to metres: the world is known here, and the frame that has to be found with it."""

from __future__ import annotations

import logging
import math

import numpy as np
import pycolmap
import pytest

from d2s.errors import InputError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.database import posed_model
from processing.world.frame import find_world, from_gps, in_world, transform_model
from processing.world.gps import Fix
from processing.world.measures import parse_scale

ORIGIN = Fix(47.0, 8.0, 400.0)
METRES_PER_DEGREE = (76060.0, 111180.0)
SCALE, ANGLE = 0.2, 0.7
"""Scene units per metre, and how the scene is turned about an axis that is not up."""


def turned(points: np.ndarray) -> np.ndarray:
    c, s = math.cos(ANGLE), math.sin(ANGLE)
    return SCALE * points @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]).T + [3.0, -1.0, 2.0]


def place(metres: np.ndarray) -> Scene:
    """A scene in units of its own whose cameras are at the given places (N, 3), east, north and up in metres."""
    images = tuple(
        SceneImage(f"{i}.jpg", 1, pose.inverse(np.column_stack([np.eye(3), center])), "train") for i, center in enumerate(turned(metres))
    )
    return Scene("photos", "yard", "/nowhere", {1: make_camera("SIMPLE_PINHOLE", 100, 80, [90, 50, 40])}, images, "arbitrary")


def fixes(metres: np.ndarray, noise: float = 0.0, seed: int = 0) -> dict[str, Fix]:
    shifted = metres + np.random.default_rng(seed).normal(0, noise, metres.shape) if noise else metres
    return {
        f"{i}.jpg": Fix(ORIGIN.latitude + n / METRES_PER_DEGREE[1], ORIGIN.longitude + e / METRES_PER_DEGREE[0], ORIGIN.altitude + u)
        for i, (e, n, u) in enumerate(shifted)
    }


@pytest.fixture
def walk() -> np.ndarray:
    """Around a house: 40 m wide."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.column_stack([20 * np.cos(angle), 15 * np.sin(angle), 1.5 + 0.3 * np.sin(3 * angle)])


def centers(scene: Scene) -> np.ndarray:
    return pose.center(np.stack([image.cam_from_world for image in scene.images]))


def test_gps_gives_east_north_up(walk):
    scene = place(walk)
    world = from_gps(fixes(walk), scene)
    found = in_world(scene, world)
    assert found.units == "metres" and "GPS in 40 photos" in found.provenance["units"]
    assert found.provenance["axes"] == "east, north, up"
    np.testing.assert_allclose(centers(found) - centers(found)[0], walk - walk[0], atol=0.02)
    assert world.info["east_north_up"] and world.info["origin"][0] == pytest.approx(47.0, abs=1e-3)


def test_wrong_positions_do_not_matter(walk):
    measured = fixes(walk, noise=0.5)
    for name in ("3.jpg", "11.jpg", "25.jpg", "30.jpg", "31.jpg", "32.jpg"):  # reflections in a street: 80 m off
        measured[name] = Fix(measured[name].latitude + 80 / METRES_PER_DEGREE[1], measured[name].longitude, measured[name].altitude)
    world = from_gps(measured, place(walk))
    assert world.info["scale"] == pytest.approx(1 / SCALE, rel=0.03) and world.info["outliers"] >= 6
    assert f"GPS in 40 photos, of which {40 - world.info['outliers']} agree to" in world.note
    assert 0.3 < world.info["scatter_m"] < 1.2 and world.info["relative_error"] < 0.03


def test_gps_that_scatters_as_much_as_the_place_is_wide_is_refused(walk):
    with pytest.raises(InputError, match=r"scatter by \d+\.\d m, too much for a path of"):
        from_gps(fixes(walk, noise=12.0), place(walk))


def test_a_line_has_a_scale_but_no_up():
    line = np.column_stack([np.linspace(0, 100, 30), np.zeros(30), 0.01 * np.sin(np.arange(30))])
    scene = place(line)
    world = from_gps(fixes(line, noise=0.5), scene)
    assert not world.info["east_north_up"] and world.info["origin"] is None and "line" in world.note
    assert world.info["scale"] == pytest.approx(1 / SCALE, rel=0.03)
    np.testing.assert_allclose(in_world(scene, world).images[3].cam_from_world[:, :3], np.eye(3), atol=1e-12)


def test_few_positions_are_an_error_only_where_gps_was_asked_for(walk, monkeypatch, caplog):
    few = {name: fix for name, fix in fixes(walk).items() if name in ("0.jpg", "1.jpg", "2.jpg")}
    monkeypatch.setattr("processing.world.frame.read_fixes", lambda folder, names: few)
    with pytest.raises(InputError, match="Only 3 of 40 placed photos"):
        find_world(parse_scale(["gps"]), place(walk))
    with caplog.at_level(logging.INFO):
        assert find_world(parse_scale(["auto"]), place(walk)) is None
    assert "No scale from GPS: Only 3" in caplog.text
    monkeypatch.setattr("processing.world.frame.read_fixes", lambda folder, names: {})
    assert find_world(parse_scale(["auto"]), place(walk)) is None


def test_measured_distances(walk, caplog):
    scene = place(walk)
    metres = [float(np.linalg.norm(walk[0] - walk[20])), float(np.linalg.norm(walk[5] - walk[30]))]
    texts = [f"0.jpg 20.jpg {metres[0]}", f"5.jpg 30.jpg {1.02 * metres[1]}"]
    world = find_world(parse_scale(texts), scene)
    assert world.similarity.scale == pytest.approx(1 / SCALE, rel=0.02) and "agree to 1.3 %" in world.note
    assert not caplog.records
    find_world(parse_scale([texts[0], f"5.jpg 30.jpg {2 * metres[1]}"]), scene)
    assert "do not agree" in caplog.text


def test_a_distance_between_cameras_at_one_spot_says_nothing(walk):
    walk[7] = walk[6]
    with pytest.raises(InputError, match="same place"):
        find_world(parse_scale(["6.jpg 7.jpg 1"]), place(walk))


def test_a_factor(walk):
    scene = place(walk)
    assert np.allclose(centers(in_world(scene, find_world(parse_scale(["5"]), scene))), 5 * centers(scene))
    assert find_world(None, scene) is None and in_world(scene, None) is scene


def model_with_points(scene: Scene, pixels: np.ndarray, xyz: np.ndarray) -> pycolmap.Reconstruction:
    """Every camera observes the points at the same pixels: only which point a pixel means matters here."""
    model = posed_model(scene, {image.name: pixels for image in scene.images})
    for row, point in enumerate(xyz):
        track = pycolmap.Track()
        for image_id in model.images:
            track.add_element(image_id, row)
        model.add_point3D(point, track)
    return model


def test_a_distance_between_things_in_a_photo(walk):
    scene = place(walk)
    xyz = np.array([[0.0, 0, 5], [0.4, 0, 5], [9, 9, 9]])
    model = model_with_points(scene, np.array([[10.0, 10], [60, 40], [90, 70]]), xyz)
    world = find_world(parse_scale(["4.jpg 10.4,9.5 60,41 2.0"]), scene, model)
    assert world.similarity.scale == pytest.approx(2.0 / 0.4)
    with pytest.raises(InputError, match="no 3D point within 2 pixels of 40,40; the nearest is 20 pixels away"):
        find_world(parse_scale(["4.jpg 10,10 40,40 2.0"]), scene, model)
    with pytest.raises(InputError, match="these poses come without"):
        find_world(parse_scale(["4.jpg 10,10 60,40 2.0"]), scene)


def test_models_move_with_the_scene(walk):
    scene = place(walk)
    world = from_gps(fixes(walk), scene)
    model = model_with_points(scene, np.array([[10.0, 10]]), np.array([[0.5, 1.0, 2.0]]))
    transform_model(model, world)
    moved = {image.name: image.cam_from_world for image in in_world(scene, world).images}
    for image in model.images.values():
        np.testing.assert_allclose(image.cam_from_world().matrix(), moved[image.name], atol=1e-6)
    np.testing.assert_allclose(next(iter(model.points3D.values())).xyz, world.similarity.apply_points([[0.5, 1.0, 2.0]])[0], atol=1e-6)
