"""Parts of a map that too little holds: what is predicted of them, and what bundle adjustment makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap
import pytest

from d2s.geometry import pose
from d2s.geometry.alignment import similarity_from_points
from d2s.geometry.camera import make_camera, project
from d2s.scene.manifest import Scene, SceneImage
from processing.sfm.bundle import Bundle, read_bundle, similarity_motion
from processing.sfm.database import posed_model
from processing.sfm.hinges import SYSTEMATIC, Motion, Part, loose_parts
from processing.sfm.refinement import adjust

CAMERA = make_camera("SIMPLE_PINHOLE", 1000, 750, [900, 500, 375])
EACH, POINTS = 5, 60
"""Photos around each of two statues, and points of each statue."""
NAMES = [f"{row}.jpg" for row in range(2 * EACH)]
SECOND = list(range(EACH, 2 * EACH))


@dataclass
class Place:
    """Two statues 14 apart. Of the photos around the second, 7 sees `strong` points of the first statue, too, and 8 sees `weak`."""

    strong: int
    weak: int
    noise: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        middles = np.array([[0.0, 0, 0], [14.0, 0, 0]])
        angles = np.pi * np.linspace([0.8, -0.4], [1.7, 0.5], EACH).T
        self.poses = np.concatenate([[_look(m, a) for a in row] for m, row in zip(middles, angles, strict=True)])
        self.xyz = np.repeat(middles, POINTS, axis=0) + random.normal(0, 1.2, (2 * POINTS, 3))
        sees = np.kron(np.eye(2, dtype=bool), np.ones((EACH, POINTS), bool)) & (random.random((2 * EACH, 2 * POINTS)) < 0.7)
        sees[:2, :POINTS] = sees[-2:, POINTS:] = True
        for row, count in ((7, self.strong), (8, self.weak)):
            sees[row, random.permutation(POINTS)[:count]] = True
        pixels = [project(CAMERA, pose.transform(cam, self.xyz))[0] + random.normal(0, self.noise, (2 * POINTS, 2)) for cam in self.poses]
        images = tuple(SceneImage(name, 1, cam, "train") for name, cam in zip(NAMES, self.poses, strict=True))
        self.model = posed_model(Scene("made", "two", "/nowhere", {1: CAMERA}, images), dict(zip(NAMES, pixels, strict=True)))
        for point, seen in enumerate(sees.T):
            track = pycolmap.Track()
            for row in np.flatnonzero(seen):
                track.add_element(int(row) + 1, point)
            self.model.add_point3D(self.xyz[point], track)

    def bundle(self) -> Bundle:
        found = read_bundle(self.model, NAMES)
        assert found is not None
        return found

    def second(self) -> Motion:
        """What is predicted of the photos around the second statue."""
        bundle = self.bundle()
        return Part(bundle.poses, SECOND).motion(bundle.covariance, bundle.noise)


def _look(middle: np.ndarray, angle: float) -> np.ndarray:
    """A photo from 5 away towards `middle`."""
    center = middle + [5 * np.cos(angle), 5 * np.sin(angle), 0.3 * np.sin(9 * angle)]
    z = (middle - center) / np.linalg.norm(middle - center)
    x = np.cross([0, 0, -1.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.column_stack([rotation, -rotation @ center])


def test_moving_the_whole_world_changes_no_pixel():
    bundle = Place(40, 40).bundle()
    motion = np.zeros((6 * len(NAMES) + 1, 7))
    motion[:-1] = similarity_motion(bundle.poses).reshape(-1, 7)
    assert np.abs(bundle.views @ motion).max() > 1 and np.abs(bundle.change(motion)).max() < 1e-3


def test_the_pixels_change_as_the_derivatives_say():
    place, step = Place(40, 40, noise=0.0), 1e-5
    bundle = place.bundle()
    random = np.random.default_rng(1)
    views, points = random.normal(0, step, 6 * len(NAMES) + 1), random.normal(0, step, (2 * POINTS, 3))
    row = 7
    own = bundle.photo == row
    linear = (bundle.views @ views).reshape(-1, 2)[own] + np.einsum("mki,mi->mk", bundle.by_point[own], points[bundle.point[own]])
    extent = np.linalg.norm(np.ptp(pose.center(place.poses), axis=0))
    seen = np.flatnonzero([any(e.image_id == row + 1 for e in place.model.points3D[i + 1].track.elements) for i in range(2 * POINTS)])
    local = pose.transform(place.poses[row], place.xyz[seen] + extent * points[seen])
    turn, shift = views[6 * row : 6 * row + 3], views[6 * row + 3 : 6 * row + 6]
    moved = make_camera("SIMPLE_PINHOLE", 1000, 750, [900 * np.exp(views[-1]), 500, 375])
    after = project(moved, local + np.cross(turn, local) + extent * shift)[0]
    before = project(CAMERA, pose.transform(place.poses[row], place.xyz[seen]))[0]
    np.testing.assert_allclose(after - before, linear, atol=1e-4)
    assert np.abs(linear).max() > 1e-2


@pytest.mark.parametrize("weak", [12, 50])
def test_the_predicted_scale_error_is_that_of_bundle_adjustment(weak):
    off = []
    for seed in range(12):
        place = Place(50, weak, seed=seed)
        adjust(place.model)
        found = np.stack([place.model.images[row + 1].cam_from_world().matrix() for row in range(2 * EACH)])
        centers, true = pose.center(found), pose.center(place.poses)
        first, second = (similarity_from_points(centers[side], true[side]).scale for side in (slice(EACH), slice(EACH, None)))
        off.append(np.log(first / second) / (place.second().scale / SYSTEMATIC))
    assert 0.5 < np.sqrt(np.mean(np.square(off))) < 1.6  # 12 draws of a standard normal distribution are outside once in 160


def test_noise_and_points_move_the_prediction_as_they_should():
    plain, noisy, more = (place.second() for place in (Place(50, 15), Place(50, 15, noise=2.0), Place(50, 60)))
    assert noisy.scale == pytest.approx(2 * plain.scale, rel=0.1) and more.scale < plain.scale


def test_common_points_of_one_photo_do_not_fix_the_scale():
    (hinge,) = loose_parts(Place(60, 0).model, NAMES, 0.01)
    assert hinge.part == tuple(NAMES[:EACH]) and (hinge.second, hinge.photo) == ("7.jpg", "7.jpg")
    assert hinge.scale > 0.5 and hinge.shift > 0.5


def test_a_part_that_is_held_is_not_doubted():
    assert loose_parts(Place(60, 60).model, NAMES, 0.02) == []


def test_the_photo_that_holds_a_part_is_named():
    (hinge,) = loose_parts(Place(12, 6, noise=2.0).model, NAMES, 0.02)
    assert hinge.photo in ("7.jpg", "8.jpg") and 0.3 < hinge.share <= 1 and 1 <= hinge.tracks < 60


def test_too_little_to_say_anything_is_no_doubt():
    empty = posed_model(Scene("made", "x", "/nowhere", {1: CAMERA}, ()), {})
    assert loose_parts(empty, [], 0.01) == []
    place = Place(0, 0)
    for point in list(place.model.points3D):
        place.model.delete_point3D(point)
    assert loose_parts(place.model, NAMES, 0.01) == []
