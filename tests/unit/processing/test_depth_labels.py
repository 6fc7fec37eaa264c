"""Points moved by depth images, on a scene of planes: a floor, a wall, and a box in front of the wall whose depth is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, project, unproject
from d2s.scene.manifest import Scene, SceneImage
from processing.depth_labels import DepthOptions, DepthView, correct_points, depth_corrected
from processing.depth_maps import COLOUR_FROM_DEPTH, DepthMap, depth_file, read_depth, read_depth_map, sample
from processing.labels import LabelOptions, PointTable, good_points

CAMERA = make_camera("SIMPLE_RADIAL", 320, 240, [260, 161, 118, -0.04])
# Planes z = c of the world, and the rectangle (x0, x1, y0, y1) that exists of each; nearer ones hide others. There is nothing at y < -1.2.
PLANES = ((4.0, (-9, 9, -1.2, 9)), (2.5, (-0.4, 0.4, -0.3, 0.5)))


def rotation_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def cam_from_world(x, y, yaw):
    rotation = rotation_y(yaw)
    return np.column_stack([rotation, -rotation @ [x, y, 0.0]])


POSES = [cam_from_world(x, y, yaw) for x, y, yaw in ((-0.6, 0, 8), (-0.2, 0.1, 3), (0.3, -0.1, -4), (0.7, 0.05, -9))]


def meet(world_from_ray, rays):
    """Depth (N,) along the camera's axis at which its rays meet the planes; NaN for none."""
    directions = np.column_stack([rays, np.ones(len(rays))]) @ world_from_ray[:, :3].T
    best = np.full(len(rays), np.inf)
    for z, (x0, x1, y0, y1) in PLANES:
        depth = (z - world_from_ray[2, 3]) / directions[:, 2]
        x, y, _ = (world_from_ray[:, 3] + depth[:, None] * directions).T
        hit = (depth > 0) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) & (depth < best)
        best[hit] = depth[hit]
    return np.where(np.isfinite(best), best, np.nan)


def render(camera, pose_of_camera):
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = unproject(camera, np.column_stack([x.ravel(), y.ravel()]))
    return meet(pose.inverse(pose_of_camera), rays).reshape(camera.height, camera.width)


def surface_points(count, seed=0, low=(-1.2, -0.9), high=(1.2, 1.0)):
    """Points on the wall, away from the box and what it hides."""
    x, y = np.random.default_rng(seed).uniform(low, high, (count, 2)).T
    x = np.sign(x) * (0.9 + np.abs(x) / 3)
    return np.column_stack([x, y, np.full(count, 4.0)])


def table_of(xyz):
    rows = {f"{i}.png": np.concatenate([[-1], np.arange(len(xyz)), [-1]]) for i in range(len(POSES))}
    count = len(xyz)
    return PointTable(np.asarray(xyz), np.full(count, len(POSES), np.int32), np.full(count, 0.5), np.full(count, 9.0), rows)


def views_of(depths, camera=CAMERA):
    return [
        DepthView(f"{i}.png", camera, p, lambda d=d: None if d is None else DepthMap(d, camera, pose.IDENTITY))
        for i, (p, d) in enumerate(zip(POSES, depths, strict=True))
    ]


@pytest.fixture(scope="module")
def depths():
    return [render(CAMERA, p) for p in POSES]


def off_by_depth(points, sigma, seed=1):
    """Points displaced along the ray of the middle of all cameras, as triangulation from a narrow baseline does."""
    return points * (1 + np.random.default_rng(seed).normal(0, sigma, (len(points), 1)))


def test_points_move_onto_the_surface(depths):
    true = surface_points(200)
    noisy = off_by_depth(true, 0.02)
    table, info = correct_points(table_of(noisy), views_of(depths), DepthOptions(max_shift_px=20))
    before, after = np.abs(noisy[:, 2] - 4), np.abs(table.xyz[:, 2] - 4)
    assert info["corrected"] == 200 == info["points"] and info["without_depth"] == info["disagreeing"] == 0
    assert np.median(before) > 0.04 and after.max() < 1e-3
    assert_allclose(info["moved"]["median"], np.median(np.linalg.norm(table.xyz - noisy, axis=1)))
    assert_array_equal(table.row_of_keypoint["0.png"], table_of(noisy).row_of_keypoint["0.png"])


def test_exact_points_stay_and_errors_grow_by_the_shift(depths):
    true = surface_points(50)
    table, _ = correct_points(table_of(true), views_of(depths), DepthOptions())
    assert_allclose(table.xyz, true, atol=1e-6)
    noisy = off_by_depth(true, 0.003)
    table, _ = correct_points(table_of(noisy), views_of(depths), DepthOptions())
    shifts = [project(CAMERA, pose.transform(p, table.xyz))[0] - project(CAMERA, pose.transform(p, noisy))[0] for p in POSES]
    assert_allclose(table.error - 0.5, np.linalg.norm(shifts, axis=2).mean(axis=0), atol=1e-9)


@pytest.mark.parametrize(("missing", "stays"), [("keep", True), ("drop", False)])
def test_points_in_holes_follow_the_rule(depths, missing, stays):
    above = surface_points(30) * [1, 0, 1] - [0, 1.35, 0]  # nothing was measured there
    visible = np.array([[project(CAMERA, pose.transform(p, above))[0][:, 1] > 0] for p in POSES])
    assert visible.all()
    table, info = correct_points(table_of(np.vstack([above, surface_points(20)])), views_of(depths), DepthOptions(missing=missing))
    assert info["without_depth"] == 30 and info["corrected"] == 20 and info["rule_for_others"] == missing
    good = good_points(table, LabelOptions())
    assert_array_equal(good, [stays] * 30 + [True] * 20)
    if stays:
        assert_allclose(table.xyz[:30], above)
        assert_allclose(table.error[:30], 0.5)


def test_one_wrong_depth_image_is_outvoted_and_the_last_does_not_win(depths):
    true = surface_points(100)
    for wrong in range(len(POSES)):
        spoilt = [d * 1.3 if i == wrong else d for i, d in enumerate(depths)]
        table, info = correct_points(table_of(true), views_of(spoilt), DepthOptions())
        assert info["corrected"] == 100
        assert_allclose(table.xyz, true, atol=1e-6)


def test_images_that_disagree_settle_nothing(depths):
    true = surface_points(40)
    spoilt = [d * factor for d, factor in zip(depths, (0.7, 0.85, 1.2, 1.4), strict=True)]
    table, info = correct_points(table_of(true), views_of(spoilt), DepthOptions())
    assert info["corrected"] == 0 and info["disagreeing"] == 40
    assert_allclose(table.xyz, true)


@pytest.mark.parametrize(("factors", "settled"), [((1, 1.004, 1.002, 0.8, 1.3), True), ((1, 1.004, 0.7, 0.8, 1.3), False)])
def test_half_of_the_images_must_agree(depths, factors, settled):
    points = np.array([[0.95, 0.2, 4.0], [1.0, -0.5, 4.0]])
    table = replace(table_of(points), row_of_keypoint={str(i): np.arange(2) for i in range(5)})
    views = [DepthView(str(i), CAMERA, POSES[2], lambda f=f: DepthMap(depths[2] * f, CAMERA, pose.IDENTITY)) for i, f in enumerate(factors)]
    corrected, info = correct_points(table, views, DepthOptions())
    assert info["corrected"] == (2 if settled else 0)
    middle = points + 0.002 * (points - pose.center(POSES[2]))  # the median of those that agree
    assert_allclose(corrected.xyz, middle if settled else points, atol=1e-5)


def test_depth_beside_the_colour_camera_is_found_from_a_bad_guess():
    """On a slanted wall, where the pixel to look up depends on the depth that is sought."""
    camera = make_camera("SIMPLE_PINHOLE", 640, 480, [585, 320, 240])
    x = np.arange(640) + 0.5
    row = 1 / (1 / 2.0 - 0.5 * (x - 320) / 585)  # depth along the axis of the plane z = 2 + x
    image_from_depth = np.column_stack([rotation_y(3), [-0.2, 0.01, 0.03]])
    depth = DepthMap(np.tile(np.where(row > 0, row, np.nan), (480, 1)), camera, pose.inverse(image_from_depth))
    rays = np.array([[-0.3, 0.1], [-0.1, -0.2], [0.05, 0.0], [0.2, 0.2]])
    z = depth.along(rays, np.full(4, 3.0))
    in_depth_camera = pose.transform(pose.inverse(image_from_depth), np.column_stack([rays, np.ones(4)]) * z[:, None])
    assert_allclose(in_depth_camera[:, 2], 2 + in_depth_camera[:, 0], atol=5e-3)


def test_one_depth_image_is_not_enough_unless_allowed(depths):
    true = surface_points(40)
    noisy = off_by_depth(true, 0.003)
    single = [depths[0], None, None, None]
    assert correct_points(table_of(noisy), views_of(single), DepthOptions())[1]["corrected"] == 0
    table, info = correct_points(table_of(noisy), views_of(single), DepthOptions(min_views=1))
    pixels, _ = project(CAMERA, pose.transform(POSES[0], noisy))
    inside = ((pixels > 0) & (pixels < [319, 239])).all(axis=1)
    hidden = sample(depths[0], pixels) < 3  # the box stands before them; the other images do not confirm that they lie on it
    seen = inside & ~hidden
    assert (info["corrected"], info["disagreeing"], info["without_depth"]) == (seen.sum(), hidden.sum(), (~inside).sum())
    assert seen.sum() > 10 and hidden.sum() > 2
    assert np.abs(table.xyz[seen, 2] - 4).max() < 1e-3
    assert_allclose(table.xyz[~seen], noisy[~seen])


def test_a_point_behind_the_box_is_not_drawn_onto_it(depths):
    hidden = np.array([[0.0, 0.1, 4.0]])  # all cameras see the box there; no label should be moved 1.5 m to its front
    table, info = correct_points(table_of(hidden), views_of(depths), DepthOptions())
    assert info["corrected"] == 0 and info["disagreeing"] == 1
    assert_allclose(table.xyz, hidden)


def test_edges_are_not_interpolated(depths):
    """Beside the box, bilinear depth would lie in the air between box and wall."""
    x = np.linspace(-0.6, 0.6, 121)
    points = np.column_stack([x, np.full(len(x), 0.1), np.full(len(x), 2.5)])
    for p, depth in zip(POSES, depths, strict=True):
        pixels, _ = project(CAMERA, pose.transform(p, points))
        world = pose.transform(
            pose.inverse(p), np.column_stack([unproject(CAMERA, pixels), np.ones(len(x))]) * sample(depth, pixels)[:, None]
        )
        inside = (pixels > 0).all(axis=1) & (pixels < [319, 239]).all(axis=1)
        assert inside.sum() > 80
        assert set(np.round(world[inside, 2], 1)) == {2.5, 4.0}


def test_depth_of_a_smaller_aligned_image(tmp_path):
    """Half the resolution: pixel centres do not coincide, and both cameras bend alike."""
    small = make_camera("SIMPLE_RADIAL", 160, 120, [130, 80.5, 59, -0.04])
    true = surface_points(100)
    files = [tmp_path / f"{i}.png" for i in range(len(POSES))]
    for path, p in zip(files, POSES, strict=True):
        write_depth(path, render(small, p))
    views = [
        DepthView(f"{i}.png", CAMERA, p, lambda f=f: read_depth_map(f, CAMERA, kinect=False))
        for i, (p, f) in enumerate(zip(POSES, files, strict=True))
    ]
    table, info = correct_points(table_of(off_by_depth(true, 0.003)), views, DepthOptions())
    assert info["corrected"] == 100
    assert np.abs(table.xyz[:, 2] - 4).max() < 2e-3  # millimetres in the file


def write_depth(path, depth):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.where(np.isnan(depth), 65535, np.rint(depth * 1000)).astype(np.uint16)
    Image.fromarray(values).save(path)


def kinect_scene(folder, suffix=".depth.png", aligned=False):
    """Images of a colour camera, and depth images of a Kinect's depth camera beside it (or of the colour camera itself)."""
    colour = make_camera("SIMPLE_PINHOLE", 640, 480, [525, 320, 240])
    depth_camera = make_camera("SIMPLE_PINHOLE", 640, 480, [585, 320, 240])
    images = []
    for i, p in enumerate(POSES):
        name = f"seq-01/frame-{i:06d}.color.png"
        where, camera = (p, colour) if aligned else (pose.compose(pose.inverse(COLOUR_FROM_DEPTH), p), depth_camera)
        write_depth(folder / f"seq-01/frame-{i:06d}{suffix}", render(camera, where))
        images.append(SceneImage(name, 1, p, "train"))
    return Scene("7scenes", "planes", folder, {1: colour}, tuple(images))


def named(table, scene):
    rows = {image.name: table.row_of_keypoint[f"{i}.png"] for i, image in enumerate(scene.images)}
    return replace(table, row_of_keypoint=rows)


@pytest.mark.parametrize("aligned", [False, True])
def test_depth_camera_beside_the_colour_camera(tmp_path, aligned):
    true = surface_points(150)
    scene = kinect_scene(tmp_path, aligned=aligned)
    noisy = off_by_depth(true, 0.004)
    table = named(table_of(noisy), scene)
    right = DepthOptions(camera="aligned") if aligned else DepthOptions()  # auto: 7scenes' own depth is a Kinect's
    corrected, info = depth_corrected(table, scene, right)
    assert info["depth"]["corrected"] == 150 and info["depth"]["images_with_depth"] == 4
    assert np.abs(corrected.xyz[:, 2] - 4).max() < 2e-3
    # On a plane facing the camera the wrong geometry goes unnoticed, except where it crosses the edge of the box
    box = np.column_stack([np.tile([-0.38, 0.38], 20), np.linspace(-0.25, 0.4, 40), np.full(40, 2.5)])
    counts = [
        depth_corrected(named(table_of(box), scene), scene, DepthOptions(camera=kind))[1]["depth"]["corrected"]
        for kind in ("aligned", "kinect")
    ]
    assert counts[not aligned] > counts[aligned] + 10


def test_without_options_nothing_happens():
    table = table_of(surface_points(3))
    assert depth_corrected(table, None, None) == (table, {})


@pytest.mark.parametrize(
    ("file", "given"),
    [
        ("seq-01/frame-000002.depth.png", False),
        ("seq-01/frame-000002.depth.png", True),
        ("seq-01/frame-000002.depth.tiff", True),
        ("seq-01-frame-000002.depth.png", True),
        ("seq01_frame-000002.pose.depth.tiff", True),
    ],
)
def test_depth_images_are_found(tmp_path, file, given):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    other = tmp_path / "images"
    found = depth_file("seq-01/frame-000002.color.png", other if given else tmp_path, tmp_path if given else None)
    assert found == tmp_path / file
    assert depth_file("seq-02/frame-000002.color.png", tmp_path, tmp_path) is None


def test_values_that_mean_nothing_was_measured(tmp_path):
    write = np.array([[0, 65535, 1], [1500, 65534, 2]], np.uint16)
    Image.fromarray(write).save(tmp_path / "a.png")
    assert_allclose(read_depth(tmp_path / "a.png"), [[np.nan, np.nan, 0.001], [1.5, 65.534, 0.002]])
    Image.fromarray(np.array([[-1, np.nan, 2e6], [1500, 1e6, np.inf]], np.float32)).save(tmp_path / "a.tiff")
    assert_allclose(read_depth(tmp_path / "a.tiff"), [[np.nan, np.nan, np.nan], [1.5, 1000, np.nan]])


def test_wrong_depth_images_are_named(tmp_path):
    scene = kinect_scene(tmp_path)
    Image.new("RGB", (640, 480)).save(tmp_path / "seq-01/frame-000001.depth.png")
    table = named(table_of(surface_points(3)), scene)
    with pytest.raises(FormatError, match=r"frame-000001.depth.png is not a depth image \(RGB\)"):
        depth_corrected(table, scene, DepthOptions())
    write_depth(tmp_path / "seq-01/frame-000001.depth.png", np.ones((240, 320)))
    with pytest.raises(InputError, match=r"frame-000001.depth.png is 320x240; a Kinect's depth images are 640x480"):
        depth_corrected(table, scene, DepthOptions())
    write_depth(tmp_path / "seq-01/frame-000001.depth.png", np.ones((320, 240)))
    with pytest.raises(InputError, match=r"frame-000001.depth.png is 240x320, but its camera is for 640x480"):
        depth_corrected(table, scene, DepthOptions(camera="aligned"))
    with pytest.raises(MissingFileError, match="no training image has a depth image in .*nowhere"):
        depth_corrected(table, scene, DepthOptions(depth_dir=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="keep, drop"):
        DepthOptions(missing="guess")
