from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from processing.adapters.demo import make_demo_camera
from processing.gallery.renderer import Exposure, Renderer
from processing.gallery.room import SIZE, Room, box, make_room, scene_coordinates, trace
from processing.gallery.tour import shots

CAMERA = make_demo_camera((640, 480))
PLAN = shots(150, 40, seed=0)
MAPPING = [shot for shot in PLAN if shot.split == "train"]
QUERIES = [shot for shot in PLAN if shot.split == "test"]


def some_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0), (639, 479), (count, 2))


def sees(room: Room, cam_from_world: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    pixels, in_front = project(CAMERA, pose.transform(cam_from_world, xyz))
    inside = in_front & (pixels > 0).all(axis=1) & (pixels < (639, 479)).all(axis=1)
    inside[inside] = np.linalg.norm(scene_coordinates(room, cam_from_world, CAMERA, pixels[inside]) - xyz[inside], axis=1) < 1e-6
    return inside


def test_surfaces_face_the_free_space():
    room = make_room()
    middle = np.array(SIZE) / 2
    assert all(surface.normal @ (middle - surface.origin) > 0 for surface in room.shell)
    for solid in room.solids:
        corners = np.concatenate([[s.origin, s.origin + s.size[0] * s.right, s.origin + s.size[1] * s.down] for s in solid])
        for surface in solid:
            assert ((corners - surface.origin) @ surface.normal < 1e-9).all()
    assert len({surface.name for surface in room.surfaces}) == len(room.surfaces) < 256


def test_trace_finds_what_a_search_over_all_rectangles_finds():
    """Independent check: intersect with every rectangle by its own plane equation and keep the nearest."""
    room = make_room()
    for shot in PLAN[::17]:
        rays = np.random.default_rng(0).uniform(-0.7, 0.7, (400, 2))
        inverse, index = trace(room, shot.cam_from_world, rays[:, 0], rays[:, 1])
        world_from_cam = pose.inverse(shot.cam_from_world)
        directions = np.column_stack([rays, np.ones(400)]) @ world_from_cam[:, :3].T
        nearest, chosen = np.full(400, np.inf), np.zeros(400, dtype=int)
        for i, surface in enumerate(room.surfaces):
            depth = surface.normal @ (surface.origin - world_from_cam[:, 3]) / (directions @ surface.normal)
            local = world_from_cam[:, 3] + depth[:, None] * directions - surface.origin
            u, v = local @ surface.right, local @ surface.down
            hit = (depth > 0) & (u > 0) & (u < surface.size[0]) & (v > 0) & (v < surface.size[1]) & (directions @ surface.normal < 0)
            closer = hit & (depth < nearest)
            nearest[closer], chosen[closer] = depth[closer], i
        np.testing.assert_array_equal(index, chosen)
        np.testing.assert_allclose(1 / inverse, nearest, rtol=1e-9)


def test_cameras_stay_in_the_room_and_clear_of_furniture():
    room = make_room()
    for shot in PLAN:
        center = pose.center(shot.cam_from_world)
        assert (center > 0.3).all() and (center < np.array(SIZE) - 0.3).all()
        for solid in room.solids:
            assert max(surface.normal @ (center - surface.origin) for surface in solid) > 0.2, (shot.name, solid[0].name)


def test_mapping_views_see_points_often_and_from_apart():
    room = make_room()
    xyz = np.concatenate([scene_coordinates(room, s.cam_from_world, CAMERA, some_pixels(6, i)) for i, s in enumerate(MAPPING)])
    seen = np.array([sees(room, shot.cam_from_world, xyz) for shot in MAPPING])
    centers = np.array([pose.center(shot.cam_from_world) for shot in MAPPING])
    rays = centers[:, None] - xyz[None]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    widest = [np.degrees(np.arccos(np.clip(rays[seen[:, i], i] @ rays[seen[:, i], i].T, -1, 1).min())) for i in range(len(xyz))]
    assert np.mean(seen.sum(axis=0) >= 4) > 0.95
    assert np.mean(np.array(widest) > 2) > 0.95


def test_queries_are_elsewhere_but_what_they_see_is_mapped():
    room = make_room()
    mapping_centers = np.array([pose.center(shot.cam_from_world) for shot in MAPPING])
    covered, distances = [], []
    for i, query in enumerate(QUERIES):
        xyz = scene_coordinates(room, query.cam_from_world, CAMERA, some_pixels(40, i))
        covered.append(np.mean(np.sum([sees(room, shot.cam_from_world, xyz) for shot in MAPPING], axis=0) >= 2))
        distances.append(np.linalg.norm(mapping_centers - pose.center(query.cam_from_world), axis=1).min())
    assert np.mean(covered) > 0.9 and min(covered) > 0.6
    assert np.median(distances) > 0.15 and max(distances) < 0.7


def flat(value: int) -> np.ndarray:
    return np.full((16, 16, 3), value, dtype=np.uint8)


@pytest.fixture(scope="module")
def plain_renderer() -> Renderer:
    """A room whose surfaces are each of one grey, so that an image shows which surface each pixel sees."""
    room = Room(make_room().shell, (box("block", "wood", (4, 4), (1, 1), 3),))
    return Renderer(room, [flat(20 * i) for i in range(len(room.surfaces))], make_camera("SIMPLE_PINHOLE", 64, 48, [50, 32, 24]))


def looking_north() -> np.ndarray:
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    return np.column_stack([rotation, -rotation @ [4.0, 1.0, 1.5]])


def test_renders_the_surfaces_where_they_are(plain_renderer):
    image = plain_renderer.render(looking_north(), Exposure())
    north, block_front, floor, ceiling = 2, 6, 4, 5
    assert image[24, 32].tolist() == [20 * block_front] * 3
    assert image[24, 5].tolist() == image[24, 58].tolist() == [20 * north] * 3
    assert image[47, 2].tolist() == [20 * floor] * 3 and image[0, 2].tolist() == [20 * ceiling] * 3
    columns = np.flatnonzero(image[24, :, 0] == 20 * block_front)
    # The block's front is 1 m wide, 2.5 m away: 20 pixels around x = 31.5.
    assert (columns[0], columns[-1]) == (22, 41)


def test_exposure_acts_on_light(plain_renderer):
    plain = plain_renderer.render(looking_north(), Exposure()).astype(float)
    brighter = plain_renderer.render(looking_north(), Exposure(gain=(1.5, 1.0, 0.5)))
    np.testing.assert_allclose(brighter, np.clip(plain * (1.5, 1.0, 0.5), 0, 255), atol=1)
    darker = plain_renderer.render(looking_north(), Exposure(vignetting=0.4)).astype(float)
    assert darker[0, 0, 0] == pytest.approx(0.6 * plain[0, 0, 0], abs=1) and darker[24, 32, 0] == pytest.approx(plain[24, 32, 0], abs=1)
    noisy = plain_renderer.render(looking_north(), Exposure(noise=4.0, seed=(1,))).astype(float)
    assert np.std((noisy - plain)[10:40]) == pytest.approx(4, rel=0.1)
    again = plain_renderer.render(looking_north(), Exposure(noise=4.0, seed=(1,)))
    np.testing.assert_array_equal(noisy, again)
