from __future__ import annotations

import numpy as np
import pytest

from d2s.geometry.pose import pose_error
from d2s.localization.table import make_estimator
from d2s.matching.nearest import mutual_nearest_neighbors
from processing.pseudo.candidates import from_matches, from_votes
from processing.pseudo.transfer import (
    FEW_LABELS,
    NO_MATCH,
    NO_POSE,
    TransferOptions,
    label_weight,
    one_to_one,
    transfer,
)


def pairs(*rows):
    return np.array(rows, np.int32).reshape(-1, 2)


def taken_at(place):
    return place.at(0.3, yaw_deg=4)


def run(place, photo, neighbours, matches=None, **options):
    if matches is None:
        matches = [mutual_nearest_neighbors(photo.descriptors, n.features.descriptors) for n in neighbours]
    return transfer(photo, place.camera, neighbours, matches, place.the_map, make_estimator(), TransferOptions(**options))


def shown(place, labels):
    """Point of each row, found by its exact coordinates; -1 for rows without a label."""
    index = {xyz.tobytes(): i for i, xyz in enumerate(place.the_map.xyz)}
    return np.array([index[xyz.tobytes()] if valid else -1 for xyz, valid in zip(labels.xyz, labels.valid, strict=True)])


@pytest.fixture
def scene(place):
    """A photo of points 0 … 149 and of 50 other things; three neighbours that show parts of that."""
    points = np.r_[np.arange(150), np.full(50, -1)]
    photo = place.photo(taken_at(place), points)
    ranges = [np.arange(0, 100), np.arange(50, 150), np.arange(75, 200)]
    neighbours = [place.neighbour(f"n{i}", 0.2 * i, np.r_[r, np.full(20, -1)]) for i, r in enumerate(ranges)]
    return photo, points, neighbours


def test_labels_are_exact_copies_of_map_points_and_right(place, scene):
    photo, points, neighbours = scene
    found = run(place, photo, neighbours)
    labels = found.labels
    got = shown(place, labels)
    assert labels.valid.sum() >= 140
    assert (got[labels.valid] == points[labels.valid]).all()
    assert (labels.track_length[labels.valid] == place.the_map.track_length[got[labels.valid]]).all()
    assert (labels.error[labels.valid] == place.the_map.error[got[labels.valid]]).all()
    assert not labels.xyz[~labels.valid].any()
    assert pose_error(found.cam_from_world, taken_at(place))[0] < 0.02


def test_votes_say_how_many_neighbours_agree_and_which(place, scene):
    photo, points, neighbours = scene
    found = run(place, photo, neighbours, guided=False)
    labels = found.labels
    assert (found.voters.sum(axis=1) == labels.votes).all()
    for row in np.flatnonzero(labels.valid):
        agree = [points[row] in neighbour.point for neighbour in neighbours]
        assert (found.voters[row] <= agree).all()
    assert (labels.votes[75:100] == 3).mean() > 0.9
    assert (labels.votes[:50] == 1).mean() > 0.9
    assert labels.weight[75:100].mean() > labels.weight[:50].mean() + 0.1


def test_wrong_matches_are_no_labels(place, scene):
    photo, points, neighbours = scene
    rng = np.random.default_rng(0)
    matches = []
    for neighbour in neighbours:
        right = mutual_nearest_neighbors(photo.descriptors, neighbour.features.descriptors)
        wrong = np.stack([rng.permutation(200)[:100], rng.permutation(len(neighbour.point))[:100]], axis=1)
        matches.append(np.concatenate([right, wrong]).astype(np.int32))
    for guided in (False, True):
        labels = run(place, photo, neighbours, matches, guided=guided).labels
        assert labels.valid.sum() > 120
        got = shown(place, labels)[labels.valid]
        assert (got == points[labels.valid]).mean() > 0.97  # a wrong match may lie near by chance


def test_pose_brings_points_to_light_that_no_match_found(place, scene):
    photo, points, neighbours = scene
    matches = [pairs(*((i, i) for i in range(0, 100, 2)))] + [pairs()] * 2
    plain, guided = (run(place, photo, neighbours, matches, guided=g).labels for g in (False, True))
    assert plain.valid.sum() <= 50
    assert guided.valid.sum() >= 120
    assert (shown(place, guided)[guided.valid] == points[guided.valid]).all()


def test_photo_of_another_place_gets_nothing(place):
    photo = place.photo(taken_at(place), np.full(300, -1))
    neighbours = [place.neighbour(f"n{i}", 0.1 * i, np.arange(200)) for i in range(5)]
    found = run(place, photo, neighbours)
    assert found.labels is None
    assert found.cam_from_world is None
    assert found.reason == NO_POSE
    assert "points" in found.detail


def test_photo_without_matches_or_neighbours_gets_nothing(place, scene):
    photo, _, neighbours = scene
    assert run(place, photo, [], []).reason == NO_MATCH
    unlabelled_only = [pairs(*((i, 100 + i) for i in range(20)))] + [pairs()] * 2  # rows 100 … 119 of the first show no point
    assert run(place, photo, neighbours, unlabelled_only).reason == NO_MATCH


def test_photo_with_few_labels_gets_none(place, scene):
    photo, _, neighbours = scene
    found = run(place, photo, neighbours, min_labels=151)
    assert (found.labels, found.reason) == (None, FEW_LABELS)
    assert found.cam_from_world is not None


def test_keypoints_near_a_point_of_which_nobody_is_sure_do_not_count(place, scene):
    photo, points, neighbours = scene
    photo.descriptors[10] = -photo.descriptors[10]  # looks like anything but its point
    labels = run(place, photo, neighbours).labels
    assert not labels.valid[10]
    assert labels.weight[10] == 0
    others = np.flatnonzero(points < 0)
    assert (labels.weight[others] == 1).mean() > 0.5  # most of them are far from any point: certain negatives


def test_conflicts_are_decided_by_votes_then_similarity_then_distance():
    #               row 0: points 1 (2 votes), 2 (1 vote); row 1: point 1, 3 and 4, all one vote; row 2: 3 as row 1, and as similar
    votes = [(0, 1, 0, 0.5), (0, 1, 1, 0.5), (0, 2, 0, 0.9), (1, 1, 2, 0.99), (1, 3, 0, 0.7), (1, 4, 0, 0.6), (2, 3, 1, 0.7)]
    row, point, voter, similarity = (np.array(column) for column in zip(*votes, strict=True))
    candidates = from_votes(row, point, voter, similarity.astype(np.float32), 3)
    errors = np.where((candidates.row == 2) & (candidates.point == 3), 0.5, 1.0)
    chosen = candidates.select(one_to_one(candidates, errors))
    assert sorted(zip(chosen.row.tolist(), chosen.point.tolist(), strict=True)) == [(0, 1), (1, 4), (2, 3)]


def test_candidate_without_a_vote_is_never_taken():
    candidates = from_votes(*(np.array([0, 1]),) * 2, np.array([0, 0]), np.array([0.9, 0.2], np.float32), 1, min_similarity=0.5)
    assert one_to_one(candidates, np.zeros(2)).tolist() == [0]


def test_same_match_of_two_neighbours_is_one_candidate(place, scene):
    photo, _, neighbours = scene
    found = from_matches(photo, neighbours, [pairs((80, 80)), pairs((80, 30)), pairs((80, 6))])  # 80, 80 and 81 of the map
    assert found.point.tolist() == [80, 81]
    assert found.voters.tolist() == [[True, True, False], [False, False, True]]


def test_weight_grows_with_votes_and_falls_with_distance():
    weight = label_weight(np.array([1, 2, 9, 9]), np.array([0, 0, 0, 4.0]), 4.0)
    assert np.allclose(weight, [1 / 2, 2 / 3, 0.9, 0.45])
