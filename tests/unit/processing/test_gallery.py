from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project
from processing.adapters.demo import make_demo_camera
from processing.gallery.museum import extent
from processing.gallery.museum_tour import museum_shots
from processing.gallery.renderer import Exposure, Renderer
from processing.gallery.room import Door, Place, Room, box, make_room, room_of, scene_coordinates, texture_position, trace
from processing.gallery.scenes import SCENES
from processing.gallery.tour import Shot, looking

CAMERA = make_demo_camera((640, 480))


def some_pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform((0, 0), (639, 479), (count, 2))


def sees(room: Room | Place, cam_from_world: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    pixels, in_front = project(CAMERA, pose.transform(cam_from_world, xyz))
    inside = in_front & (pixels > 0).all(axis=1) & (pixels < (639, 479)).all(axis=1)
    if inside.any():
        inside[inside] = np.linalg.norm(scene_coordinates(room, cam_from_world, CAMERA, pixels[inside]) - xyz[inside], axis=1) < 1e-6
    return inside


def floor_below(place: Room | Place, cam_from_world: np.ndarray) -> float:
    """Height of the camera above what is straight below it."""
    center = pose.center(cam_from_world)
    down = looking(center, 0.0, -90.0, 0.0)
    inverse, _ = trace(place, down, np.zeros(1), np.zeros(1))
    return float(1 / inverse[0])


@pytest.fixture(params=sorted(SCENES))
def name(request) -> str:
    return request.param


@pytest.fixture
def place(name) -> Room | Place:
    return SCENES[name].make_place()


@pytest.fixture
def plan(name) -> list[Shot]:
    return SCENES[name].shots(150, 40, 0)


def test_surfaces_face_the_free_space(place):
    for room in place.rooms:
        middle = np.mean([s.origin + s.size[0] / 2 * s.right + s.size[1] / 2 * s.down for s in room.shell], axis=0)
        assert all(surface.normal @ (middle - surface.origin) > 0 for surface in room.shell)
        for solid in room.solids:
            corners = np.concatenate([[s.origin, s.origin + s.size[0] * s.right, s.origin + s.size[1] * s.down] for s in solid])
            for surface in solid:
                assert ((corners - surface.origin) @ surface.normal < 1e-9).all()
    assert len({surface.name for surface in place.surfaces}) == len(place.surfaces) < 2**16


def test_doors_lead_both_ways_and_meet(place):
    for number, room in enumerate(place.rooms):
        for door in room.doors:
            (back,) = [other for other in place.rooms[door.room].doors if other.room == number]
            np.testing.assert_allclose(middle_of(room, door), middle_of(place.rooms[door.room], back), atol=1e-9)
            here, there = room.shell[door.side], place.rooms[door.room].shell[back.side]
            np.testing.assert_allclose(here.normal, -there.normal, atol=1e-12)
            assert abs(door.width - back.width) < 0.05 and abs(door.height - back.height) < 0.05


def middle_of(room: Room, door: Door) -> np.ndarray:
    side = room.shell[door.side]
    return side.origin + (door.left + door.width / 2) * side.right + (door.top + door.height / 2) * side.down


def test_trace_finds_what_a_search_over_all_rectangles_finds(place, plan):
    """Independent check: intersect with every rectangle by its own plane equation, leave out its doors, keep the nearest."""
    for shot in plan[::17]:
        rays = np.random.default_rng(0).uniform(-0.7, 0.7, (400, 2))
        inverse, index = trace(place, shot.cam_from_world, rays[:, 0], rays[:, 1])
        world_from_cam = pose.inverse(shot.cam_from_world)
        directions = np.column_stack([rays, np.ones(400)]) @ world_from_cam[:, :3].T
        nearest, chosen = np.full(400, np.inf), np.zeros(400, dtype=int)
        doors = {id(room.shell[door.side]): [d for d in room.doors if d.side == door.side] for room in place.rooms for door in room.doors}
        for i, surface in enumerate(place.surfaces):
            depth = surface.normal @ (surface.origin - world_from_cam[:, 3]) / (directions @ surface.normal)
            local = world_from_cam[:, 3] + depth[:, None] * directions - surface.origin
            u, v = local @ surface.right, local @ surface.down
            hit = (depth > 0) & (u > 0) & (u < surface.size[0]) & (v > 0) & (v < surface.size[1]) & (directions @ surface.normal < 0)
            for d in doors.get(id(surface), []):
                hit &= ~((u > d.left) & (u < d.left + d.width) & (v > d.top) & (v < d.top + d.height))
            closer = hit & (depth < nearest)
            nearest[closer], chosen[closer] = depth[closer], i
        np.testing.assert_array_equal(index, chosen)
        np.testing.assert_allclose(1 / inverse, nearest, rtol=1e-9)


def test_a_view_through_a_door_ends_in_the_room_behind_it():
    place = SCENES["museum"].make_place()
    at, size = extent(0)
    center = at + np.array([2.0, size[1] / 2 + 0.3, 1.5])
    inverse, index = trace(place, looking(center, 0.0, 0.0, 0.0), np.zeros(1), np.zeros(1))
    assert place.surfaces[index[0]].name.startswith("room2-") or place.surfaces[index[0]].name.startswith("room3-")
    assert 1 / inverse[0] > size[0] + extent(1)[1][0]


def test_cameras_stand_on_the_floor_and_clear_of_walls_and_furniture(name, place, plan):
    for shot in [*plan, *SCENES[name].shots(SCENES[name].mapping_images, 20, 0)[::2]]:
        center = pose.center(shot.cam_from_world)
        room = place.rooms[room_of(place, center)]
        open_sides = {door.side for door in room.doors}
        assert min(s.normal @ (center - s.origin) for i, s in enumerate(room.shell) if i not in open_sides) > 0.3
        for solid in room.solids:
            assert max(surface.normal @ (center - surface.origin) for surface in solid) > 0.2, (shot.name, solid[0].name)
        assert 0.7 < floor_below(place, shot.cam_from_world) < 2.2  # what is below may be a bench


def test_mapping_views_see_points_often_and_from_apart(place, plan):
    mapping = [shot for shot in plan if shot.split == "train"]
    xyz = np.concatenate([scene_coordinates(place, s.cam_from_world, CAMERA, some_pixels(3, i)) for i, s in enumerate(mapping)])
    seen = np.array([sees(place, shot.cam_from_world, xyz) for shot in mapping])
    centers = np.array([pose.center(shot.cam_from_world) for shot in mapping])
    rays = centers[:, None] - xyz[None]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    widest = [np.degrees(np.arccos(np.clip(rays[seen[:, i], i] @ rays[seen[:, i], i].T, -1, 1).min())) for i in range(len(xyz))]
    assert np.mean(seen.sum(axis=0) >= 4) > 0.95
    assert np.mean(np.array(widest) > 2) > 0.95


def test_queries_are_elsewhere_but_what_they_see_is_mapped(place, plan):
    mapping, queries = ([shot for shot in plan if shot.split == split] for split in ("train", "test"))
    mapping_centers = np.array([pose.center(shot.cam_from_world) for shot in mapping])
    covered, distances = [], []
    for i, query in enumerate(queries[::2]):
        xyz = scene_coordinates(place, query.cam_from_world, CAMERA, some_pixels(40, i))
        covered.append(np.mean(np.sum([sees(place, shot.cam_from_world, xyz) for shot in mapping], axis=0) >= 2))
        distances.append(np.linalg.norm(mapping_centers - pose.center(query.cam_from_world), axis=1).min())
    assert np.mean(covered) > 0.9 and min(covered) > 0.5
    assert np.median(distances) > 0.15 and max(distances) < 0.8


def test_fewer_pictures_of_the_museum_stay_in_its_first_rooms():
    place = SCENES["museum"].make_place()
    visited = {room_of(place, pose.center(shot.cam_from_world)) for shot in SCENES["museum"].shots(120, 30, 0)}
    assert {0, 1} <= visited and not visited & set(range(2, 11))
    everywhere = {room_of(place, pose.center(shot.cam_from_world)) for shot in SCENES["museum"].shots(800, 10, 0) if shot.split == "train"}
    assert set(range(11)) <= everywhere


def test_storeys_look_alike_but_for_details():
    place = SCENES["stairs"].make_place()
    textures = dict(zip((surface.name for surface in place.surfaces), SCENES["stairs"].make_textures(place, 0), strict=True))
    assert textures["flight0-step0-top"] is textures["flight2-step7-top"] and textures["landing1-floor"] is textures["landing3-floor"]
    for side in ("south", "north"):
        changed = (textures[f"landing1-wall-{side}"] != textures[f"landing2-wall-{side}"]).any(axis=-1).mean()
        assert 0.005 < changed < 0.15
    again = SCENES["stairs"].make_textures(place, 0)
    assert all(np.array_equal(a, b) for a, b in zip(textures.values(), again, strict=True))


def test_a_texture_shows_its_surface_the_right_way_up_and_to_its_end():
    """Points at known places of a texture's surface come back as these places."""
    place = SCENES["museum"].make_place()
    cam_from_world = museum_shots(1000, 1, 0)[0].cam_from_world
    rays = np.random.default_rng(3).uniform(-0.5, 0.5, (200, 2))
    inverse, index = trace(place, cam_from_world, rays[:, 0], rays[:, 1])
    for i in np.unique(index):
        surface, chosen = place.surfaces[i], index == i
        u, v = texture_position(surface, cam_from_world, rays[chosen, 0], rays[chosen, 1], 1 / inverse[chosen])
        assert (u > -1e-9).all() and (u < 1 + 1e-9).all() and (v > -1e-9).all() and (v < 1 + 1e-9).all()
        xyz = surface.origin + np.outer(u * surface.size[0], surface.right) + np.outer(v * surface.size[1], surface.down)
        local = pose.transform(cam_from_world, xyz)
        np.testing.assert_allclose(local[:, :2] / local[:, 2:], rays[chosen], atol=1e-9)


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
