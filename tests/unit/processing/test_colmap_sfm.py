"""Verification and triangulation through the real pycolmap, on a made place with known geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.errors import ReconstructionError
from d2s.features.base import LocalFeatures
from d2s.geometry import pose
from d2s.geometry.camera import make_camera, pixels_from_colmap, project
from d2s.matching.table import make_matcher
from d2s.scene.manifest import Scene, SceneImage
from processing.labels import LabelOptions, make_labels, point_table
from processing.sfm import database, reconstruction
from processing.sfm.colmap import SfmOptions, match_known_poses, restrict, triangulate, verify_matches
from processing.sfm.focal_lengths import without_lens
from processing.sfm.reconstruction import match_photos, placed, reconstruct
from processing.sfm.verification import depths, make_view, sampson_distance, verify

WIDTH, HEIGHT = 640, 480
CAMERAS = {
    "pinhole": make_camera("SIMPLE_PINHOLE", WIDTH, HEIGHT, [500, 320, 240]),
    "distorted": make_camera("OPENCV", WIDTH, HEIGHT, [510, 505, 325, 236, -0.12, 0.03, 0.001, -0.002]),
    "fisheye": make_camera("OPENCV_FISHEYE", WIDTH, HEIGHT, [400, 400, 321, 239, 0.02, -0.004, 0.001, 0.0]),
}


def look_at(center, target):
    """cam_from_world of a camera at `center` that looks at `target`, upright."""
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.column_stack([rotation, -rotation @ center])


class Place:
    """Points on the walls of a box, seen by cameras on an arc; descriptors are unit vectors, one per point."""

    def __init__(self, camera, num_images=8, num_points=400, noise_px=0.0, clutter=40, seed=0):
        rng = np.random.default_rng(seed)
        self.points = np.column_stack([rng.uniform(-2, 2, num_points), rng.uniform(-1.5, 1.5, num_points), rng.uniform(3, 6, num_points)])
        descriptors = rng.normal(size=(num_points, 32))
        angles = np.linspace(-0.35, 0.35, num_images)
        poses = [look_at(np.array([4.5 * np.sin(a), 0.15 * np.sin(5 * a), 4.5 - 4.5 * np.cos(a)]), np.array([0, 0, 4.5])) for a in angles]
        self._photograph(camera, poses, descriptors, noise_px, clutter, rng)

    def _photograph(self, camera, poses, descriptors, noise_px, clutter, rng):
        names = [f"seq/{i:03d}.png" for i in range(len(poses))]
        images = tuple(SceneImage(name, 1, cam_from_world, "train") for name, cam_from_world in zip(names, poses, strict=True))
        self.scene = Scene("made", "box", Path(), {1: camera}, images)
        self.features, self.point_of_row = {}, {}
        for name, cam_from_world in zip(names, poses, strict=True):
            pixels, _ = project(camera, pose.transform(cam_from_world, self.points))
            inside = (pixels > 0).all(axis=1) & (pixels[:, 0] < WIDTH - 1) & (pixels[:, 1] < HEIGHT - 1)
            rows = rng.permutation(np.flatnonzero(inside))
            stray = rng.uniform([0, 0], [WIDTH - 1, HEIGHT - 1], (clutter, 2))
            keypoints = np.concatenate([pixels[rows] + noise_px * rng.normal(size=(len(rows), 2)), stray])
            local = np.concatenate([descriptors[rows] + 0.1 * rng.normal(size=(len(rows), 32)), rng.normal(size=(clutter, 32))])
            local /= np.linalg.norm(local, axis=1, keepdims=True)
            order = rng.permutation(len(keypoints))
            scores = np.linspace(1, 0.1, len(order)).astype(np.float32)
            self.features[name] = LocalFeatures(
                keypoints[order].astype(np.float32), scores, local[order].astype(np.float32), (WIDTH, HEIGHT)
            )
            self.point_of_row[name] = np.concatenate([rows, np.full(clutter, -1)])[order]

    @classmethod
    def from_the_air(cls, camera, noise_px):
        """Nearly flat ground, seen from straight above: height and focal length are one."""
        place, rng = cls.__new__(cls), np.random.default_rng(0)
        ground = rng.uniform(-9, 9, (1200, 2))
        place.points = np.column_stack([ground, 10 + 0.05 * rng.uniform(-1, 1, len(ground))])
        poses = [np.column_stack([np.eye(3), [-3.0 * x, -3.0 * y, 0.02 * (x - y)]]) for x in (-1, 0, 1) for y in (-1, 0, 1)]
        place._photograph(camera, poses, rng.normal(size=(len(ground), 32)), noise_px, 40, rng)
        return place

    @classmethod
    def along_a_corridor(cls, camera, step):
        """Walls on both sides, seen by someone who walks straight ahead and turns nowhere; `step` 0: who only stands there."""
        place, rng = cls.__new__(cls), np.random.default_rng(0)
        along = rng.uniform(2, 14, 500)
        place.points = np.column_stack([rng.choice([-1.5, 1.5], 500), rng.uniform(-1, 1, 500), along])
        poses = [np.column_stack([np.eye(3), [0, 0, -step * i]]) for i in range(6)]
        place._photograph(camera, poses, rng.normal(size=(500, 32)), 0.3, 40, rng)
        return place

    @property
    def keypoints(self):
        return {name: features.keypoints for name, features in self.features.items()}

    def matches(self):
        return match_known_poses(self.scene, self.features.__getitem__, make_matcher("nn", "sift"), SfmOptions())


@pytest.mark.parametrize("model", CAMERAS)
def test_triangulation_recovers_the_points(model):
    place = Place(CAMERAS[model])
    table = point_table(triangulate(place.scene, place.keypoints, place.matches(), SfmOptions()))
    rows = {name: len(features) for name, features in place.features.items()}
    seen = set()
    for name, labels in make_labels(table, rows, LabelOptions()):
        truth = place.point_of_row[name]
        assert not labels.valid[truth < 0].any()
        assert labels.valid[truth >= 0].mean() > 0.9
        assert_allclose(labels.xyz[labels.valid], place.points[truth[labels.valid]], atol=1e-3)
        assert labels.error[labels.valid].max() < 0.05
        seen.update(truth[labels.valid])
    assert len(seen) > 250


def test_poses_and_cameras_stay_as_given():
    place = Place(CAMERAS["distorted"], noise_px=0.5)
    model = triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())
    assert_array_equal(model.cameras[1].params, place.scene.cameras[1].params)
    by_name = {image.name: image for image in model.images.values()}
    for entry in place.scene.images:
        assert_allclose(by_name[entry.name].cam_from_world().matrix(), entry.cam_from_world, atol=1e-9)


def test_point2d_is_the_row_of_the_features():
    place = Place(CAMERAS["pinhole"])
    model = triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())
    for image in model.images.values():
        stored = np.array([point.xy for point in image.points2D])
        assert_allclose(pixels_from_colmap(stored), place.keypoints[image.name], atol=1e-4)


def test_triangulation_is_repeatable():
    place = Place(CAMERAS["pinhole"], noise_px=0.7)
    tables = [point_table(triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())) for _ in range(2)]
    assert_array_equal(tables[0].xyz, tables[1].xyz)
    for name, rows in tables[0].row_of_keypoint.items():
        assert_array_equal(rows, tables[1].row_of_keypoint[name])


def test_two_view_geometries_say_calibrated(tmp_path, monkeypatch):
    """COLMAP 4 triangulates nothing from pairs whose configuration is UNDEFINED and does not say so: ours must not be like that."""
    place = Place(CAMERAS["pinhole"], num_images=4, num_points=100)
    path = tmp_path / "d.db"
    database.write_database(path, place.scene, place.keypoints)
    matches = place.matches()
    database.write_verified(path, place.scene, matches)
    stored = pycolmap.Database.open(str(path))
    _, geometries = stored.read_two_view_geometries()
    stored.close()
    assert len(geometries) == len(matches) == 6
    assert {g.config for g in geometries} == {pycolmap.TwoViewGeometryConfiguration.CALIBRATED}
    assert sum(len(g.inlier_matches) for g in geometries) == sum(len(rows) for rows in matches.values())


def test_the_trap_of_undefined_geometries_is_an_error_not_an_empty_model(monkeypatch):
    """The reason for CALIBRATED: the same matches, written as UNDEFINED, give no point in COLMAP 4. Then we must say so."""

    def write_undefined(path, scene, matches):
        ids = database.image_ids(scene.images)
        opened = pycolmap.Database.open(str(path))
        for (name0, name1), rows in matches.items():
            geometry = pycolmap.TwoViewGeometry()
            geometry.inlier_matches = np.ascontiguousarray(rows, dtype=np.uint32)
            opened.write_two_view_geometry(ids[name0], ids[name1], geometry)
        opened.close()

    monkeypatch.setattr("processing.sfm.colmap.write_verified", write_undefined)
    place = Place(CAMERAS["pinhole"], num_images=4, num_points=100)
    if int(pycolmap.__version__.split(".")[0]) >= 4:
        with pytest.raises(ReconstructionError, match="No 3D point"):
            triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())
    else:
        assert triangulate(place.scene, place.keypoints, place.matches(), SfmOptions()).num_points3D() > 0


def test_no_points_is_an_error_that_says_why():
    place = Place(CAMERAS["pinhole"], num_images=4)
    with pytest.raises(ReconstructionError, match="No image pair has enough matches"):
        triangulate(place.scene, place.keypoints, {}, SfmOptions())
    names = [image.name for image in place.scene.images]
    wrong = {(names[0], names[1]): np.stack([np.arange(50), np.arange(50)[::-1]], axis=1).astype(np.int32)}
    with pytest.raises(ReconstructionError, match="No 3D point could be triangulated from 1 image pairs"):
        triangulate(place.scene, place.keypoints, wrong, SfmOptions())


def test_wrong_poses_verify_few_matches():
    place = Place(CAMERAS["pinhole"], num_images=5)
    turned = place.scene.with_images(
        SceneImage(image.name, 1, pose.compose(roll(0.7 * i), image.cam_from_world), "train") for i, image in enumerate(place.scene.images)
    )
    wrong = match_known_poses(turned, place.features.__getitem__, make_matcher("nn", "sift"), SfmOptions(min_matches=1))
    assert sum(map(len, wrong.values())) < 0.1 * sum(map(len, place.matches().values()))


def roll(angle):
    return np.array([[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("model", CAMERAS)
def test_verification_keeps_true_and_refuses_false_matches(model):
    place = Place(CAMERAS[model], noise_px=0.3)
    first, last = place.scene.images[0], place.scene.images[-1]
    views = [make_view(CAMERAS[model], place.keypoints[image.name], image.cam_from_world) for image in (first, last)]
    truth = [place.point_of_row[image.name] for image in (first, last)]
    common = np.intersect1d(truth[0][truth[0] >= 0], truth[1])
    true = np.array([[int(np.flatnonzero(t == p)[0]) for t in truth] for p in common], dtype=np.int32)
    false = np.column_stack([true[:, 0], np.roll(true[:, 1], 7)]).astype(np.int32)
    assert len(verify(*views, true, 3.0)) >= 0.99 * len(true) > 100
    assert len(verify(*views, false, 3.0)) < 0.15 * len(false)


def test_points_behind_the_cameras_are_refused():
    camera = CAMERAS["pinhole"]
    poses = [np.eye(3, 4), np.column_stack([np.eye(3), [-1.0, 0, 0]])]
    # Diverging rays: they meet on the epipolar line, but behind both cameras.
    views = [make_view(camera, np.array([[x, 239.5]]), p) for x, p in zip((200.0, 400.0), poses, strict=True)]
    match = np.zeros((1, 2), np.int32)
    assert len(verify(*views, match, 3.0)) == 0
    converging = [make_view(camera, np.array([[x, 239.5]]), p) for x, p in zip((400.0, 200.0), poses, strict=True)]
    assert len(verify(*converging, match, 3.0)) == 1


def test_pair_without_baseline_verifies_nothing():
    view = make_view(CAMERAS["pinhole"], np.array([[100.0, 100.0]]), np.eye(3, 4))
    assert len(verify(view, view, np.zeros((1, 2), np.int32), 3.0)) == 0


def test_sampson_distance_measures_pixels_off_the_line():
    relative = np.column_stack([np.eye(3), [1.0, 0, 0]])  # epipolar lines are rows
    x0 = np.array([[0.1, 0.2, 1.0]])
    x1 = np.array([[0.3, 0.2 + 0.01, 1.0]])
    assert_allclose(sampson_distance(relative, x0, x1), 0.01 / np.sqrt(2), rtol=1e-9)


def test_depths_of_a_point():
    point, relative = np.array([0.3, -0.2, 4.0]), look_at(np.array([1.0, 0.2, 0.1]), np.array([0, 0, 5.0]))
    local = pose.transform(relative, point[None])[0]
    depth0, depth1, sine = depths(relative, point[None] / point[2], local[None] / local[2])
    center = pose.center(relative)
    angle = np.arccos(point @ (point - center) / np.linalg.norm(point) / np.linalg.norm(point - center))
    assert_allclose([depth0[0], depth1[0], sine[0]], [4.0, local[2], np.sin(angle)], rtol=1e-9)


def test_photos_without_poses_are_placed():
    camera = make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, 0.0])
    place = Place(camera, num_images=8, noise_px=0.2)
    images = [SceneImage(image.name, 1, None, "test" if i == 3 else "train") for i, image in enumerate(place.scene.images)]
    blind = place.scene.with_images([*images, SceneImage("stranger.png", 1, None, "train")])
    stranger = Place(camera, 1, seed=9).features["seq/000.png"]
    features = {**place.features, "stranger.png": stranger}
    matches = match_photos(blind, features.__getitem__, make_matcher("nn", "sift"), SfmOptions())
    found = reconstruct(blind, features.__getitem__, matches, True, SfmOptions())
    scene, unplaced = placed(blind, found.model)
    assert unplaced == ("stranger.png",)
    truth = np.stack([pose.center(image.cam_from_world) for image in place.scene.images])
    estimated = np.stack([pose.center(image.cam_from_world) for image in scene.images])
    ratio = np.linalg.norm(estimated[0] - estimated[-1]) / np.linalg.norm(truth[0] - truth[-1])
    spacing = np.linalg.norm(np.diff(estimated, axis=0), axis=1) / np.linalg.norm(np.diff(truth, axis=0), axis=1)
    assert_allclose(spacing, ratio, rtol=0.02)
    train = scene.with_images(scene.split("train"))
    names = {image.name for image in train.images}
    verified = verify_matches(train, features.__getitem__, restrict(matches, names), SfmOptions())
    model = triangulate(train, place.keypoints, verified, SfmOptions())
    assert {image.name for image in model.images.values()} == names
    assert "seq/003.png" not in names


def reconstructed_focal_length(place, named, known):
    """What becomes of a focal length that photos name; `known`: whether it comes from EXIF data, or is a guess."""
    camera = make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [named, 320, 240, 0.0])
    camera.has_prior_focal_length = known
    images = tuple(SceneImage(image.name, 1, None, "train") for image in place.scene.images)
    blind = Scene("photos", "field", Path(), {1: camera}, images)
    matches = match_photos(blind, place.features.__getitem__, make_matcher("nn", "sift"), SfmOptions())
    model = reconstruct(blind, place.features.__getitem__, matches, True, SfmOptions()).model
    assert model.num_reg_images() == len(images)
    return model.cameras[1].mean_focal_length()


def test_a_focal_length_that_the_photos_leave_open_stays_what_exif_says(monkeypatch):
    field = Place.from_the_air(make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, 0.0]), noise_px=1.0)
    assert reconstructed_focal_length(field, 500, known=True) == 500
    monkeypatch.setattr(reconstruction, "moved", lambda model, named: set())
    assert abs(reconstructed_focal_length(field, 500, known=True) / 500 - 1) > 0.2  # 330 or 890, as chance has it


def test_a_wrong_focal_length_in_exif_is_corrected_where_the_photos_tell():
    box = Place(make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, 0.0]), noise_px=0.5)
    assert reconstructed_focal_length(box, 620, known=True) == pytest.approx(500, rel=0.03)


def by_anybody(true):
    """The model of photos that have a camera each, of which nothing is known."""
    place = Place(true, noise_px=0.5)
    images = tuple(SceneImage(image.name, i, None, "train") for i, image in enumerate(place.scene.images, start=1))
    cameras = {image.camera_id: make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [600, 320, 240, 0.0], image.camera_id) for image in images}
    blind = Scene("photos", "square", Path(), cameras, images)
    matches = match_photos(blind, place.features.__getitem__, make_matcher("nn", "sift"), SfmOptions())
    model = reconstruct(blind, place.features.__getitem__, matches, True, SfmOptions()).model
    assert model.num_reg_images() == len(images)
    return model


@pytest.mark.parametrize("radial", [0.0, -0.25])
def test_photos_by_anybody_have_distortion_only_where_it_is_seen(radial):
    model = by_anybody(make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, radial]))
    found = [camera.params[3] for camera in model.cameras.values()]
    assert set(found) == {0.0} if radial == 0 else np.median(found) == pytest.approx(radial, abs=0.08)


def test_a_photo_whose_focal_length_left_for_infinity_is_left_out_and_named(caplog):
    model = by_anybody(make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, 0.0]))
    assert without_lens(model) == {}
    image = next(image for image in model.images.values() if image.name == "seq/002.png")
    model.cameras[image.camera_id].params = [6e6, 320, 240, 0.0]
    reconstruction.drop_without_lens(model)
    assert {image.name for image in model.images.values() if not image.has_pose} == {"seq/002.png"}
    assert "seq/002.png is left out" in caplog.text and "no lens has" in caplog.text


def test_photos_taken_straight_ahead_are_placed_and_those_from_one_spot_say_so(caplog):
    camera = make_camera("SIMPLE_RADIAL", WIDTH, HEIGHT, [500, 320, 240, 0.0])
    with caplog.at_level("INFO"):
        assert 400 < reconstructed_focal_length(Place.along_a_corridor(camera, 0.4), 500, known=True) < 600  # all six are placed
    assert "trying again with less" in caplog.text
    with pytest.raises(ReconstructionError, match=r"all from one spot.* Take some steps to the side"):
        reconstructed_focal_length(Place.along_a_corridor(camera, 0.0), 500, known=True)


def test_photos_without_a_point_are_no_model(monkeypatch):
    """COLMAP hands out such a model of photos from one spot, or does not, as the noise of the matches has it."""
    place = Place(CAMERAS["pinhole"], num_images=3)
    model = triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())
    for point in list(model.points3D):
        model.delete_point3D(point)
    assert model.num_reg_images() == 3
    monkeypatch.setattr(reconstruction.pycolmap, "incremental_mapping", lambda *_, **__: {0: model})
    with pytest.raises(ReconstructionError, match="No model could be started from 3 photos"):
        reconstruct(place.scene, place.features.__getitem__, place.matches(), True, SfmOptions())


@pytest.mark.parametrize(("photos", "enough"), [(12, True), (31, False)])
def test_three_photos_are_a_place_of_few_only(photos, enough):
    place = Place(CAMERAS["pinhole"], num_images=3)
    names = [image.name for image in place.scene.images]
    others = [SceneImage(f"{i}.png", 1, None, "train") for i in range(photos - 3)]
    blind = place.scene.with_images([*(SceneImage(name, 1, None, "train") for name in names), *others])
    model = triangulate(place.scene, place.keypoints, place.matches(), SfmOptions())
    if enough:
        assert [image.name for image in placed(blind, model)[0].images] == names
    else:
        with pytest.raises(ReconstructionError, match=f"Only 3 of {photos} photos fit together.*stands still"):
            placed(blind, model)


def test_photos_that_show_nothing_in_common_are_an_error():
    camera = CAMERAS["pinhole"]
    places = [Place(camera, 1, seed=s) for s in range(4)]
    features = {f"{i}.png": place.features["seq/000.png"] for i, place in enumerate(places)}
    scene = Scene("photos", "none", Path(), {1: camera}, tuple(SceneImage(name, 1, None, "train") for name in features))
    matches = match_photos(scene, features.__getitem__, make_matcher("nn", "sift"), SfmOptions())
    with pytest.raises(ReconstructionError, match="No model could be started from 4 photos"):
        reconstruct(scene, features.__getitem__, matches, True, SfmOptions())
