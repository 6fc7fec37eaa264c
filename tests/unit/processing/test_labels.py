from __future__ import annotations

import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from d2s.errors import FormatError, ReconstructionError
from d2s.scene.label_store import LabelReader, write_labels
from processing.labels import LabelOptions, PointTable, good_points, make_labels, point_table, require_labels


@pytest.fixture(scope="module")
def model():
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig, options.num_points3D = 1, 1, 6, 50
    pycolmap.set_random_seed(0)
    return pycolmap.synthesize_dataset(options)


def table_of(rows, **columns):
    count = 4
    defaults = {
        "xyz": np.arange(count * 3, dtype=float).reshape(count, 3),
        "track_length": np.full(count, 5, np.int32),
        "error": np.full(count, 1.0),
        "angle_deg": np.full(count, 10.0),
    }
    return PointTable(**{**defaults, **columns}, row_of_keypoint={"a": np.array(rows, dtype=np.int64)})


def test_point_table_agrees_with_the_model(model):
    table = point_table(model)
    ids = list(model.points3D)
    assert len(table.xyz) == len(ids) == 50
    for image in model.images.values():
        rows = table.row_of_keypoint[image.name]
        assert len(rows) == len(image.points2D)
        for row, point in zip(rows, image.points2D, strict=True):
            assert (row >= 0) == point.has_point3D()
            if point.has_point3D():
                assert ids[row] == point.point3D_id
                assert_array_equal(table.xyz[row], model.points3D[point.point3D_id].xyz)
    assert_array_equal(table.track_length, [p.track.length() for p in model.points3D.values()])


def test_angles_are_those_of_the_widest_pair_of_rays(model):
    share = []
    for angle, point in zip(point_table(model).angle_deg, model.points3D.values(), strict=True):
        centers = [model.images[e.image_id].projection_center() for e in point.track.elements]
        rays = np.array([(c - point.xyz) / np.linalg.norm(c - point.xyz) for c in centers])
        widest = np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1).min()))
        share.append(angle / widest)
    assert 0.5 <= min(share) <= max(share) <= 1 + 1e-6
    assert np.median(share) > 0.9


def test_model_without_points_gives_an_empty_table():
    table = point_table(pycolmap.Reconstruction())
    assert table.xyz.shape == (0, 3)
    ((name, labels),) = make_labels(table, {"a": 7}, LabelOptions())
    assert (name, len(labels), labels.valid.any()) == ("a", 7, False)


def test_labels_are_aligned_with_rows_and_negatives_stay():
    ((_, labels),) = make_labels(table_of([-1, 2, 0, -1, 3]), {"a": 5}, LabelOptions())
    assert_array_equal(labels.valid, [False, True, True, False, True])
    assert_array_equal(labels.xyz, [[0, 0, 0], [6, 7, 8], [0, 1, 2], [0, 0, 0], [9, 10, 11]])
    assert_array_equal(labels.track_length, [0, 5, 5, 0, 5])
    assert_allclose(labels.error, [0, 1, 1, 0, 1])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("track_length", np.array([2, 3, 9, 3], np.int32)),
        ("error", np.array([4.1, 4.0, 0.1, 0.0])),
        ("angle_deg", np.array([1.4, 1.5, 3.0, 90.0])),
        ("xyz", np.array([[np.nan, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]])),
    ],
)
def test_each_filter_refuses_the_bad_point_only(column, values):
    table = table_of([0, 1, 2, 3], **{column: values})
    assert_array_equal(good_points(table, LabelOptions()), [False, True, True, True])
    ((_, labels),) = make_labels(table, {"a": 4}, LabelOptions())
    assert_array_equal(labels.valid, [False, True, True, True])
    assert_array_equal(labels.xyz[0], [0, 0, 0])


def test_image_that_the_model_lacks_has_negatives_only():
    ((_, labels),) = make_labels(table_of([0]), {"b": 3}, LabelOptions())
    assert_array_equal(labels.valid, [False] * 3)


def test_features_of_another_run_are_refused():
    with pytest.raises(FormatError, match="has 2 keypoints of image a, the features have 3"):
        list(make_labels(table_of([0, 1]), {"a": 3}, LabelOptions()))


def test_too_few_labels_are_an_error():
    require_labels([50, 50, 10], LabelOptions(), "")
    with pytest.raises(ReconstructionError, match=r"median training image has 49 labels; at least 50 .* Try sift\."):
        require_labels([49, 49, 1000], LabelOptions(), "Try sift.")
    with pytest.raises(ReconstructionError, match="has 0 labels"):
        require_labels([], LabelOptions(), "")


def test_labels_survive_the_file(tmp_path, model):
    table = point_table(model)
    rows = {name: len(index) for name, index in table.row_of_keypoint.items()}
    made = dict(make_labels(table, rows, LabelOptions()))
    write_labels(tmp_path / "labels.h5", made.items())
    with LabelReader(tmp_path / "labels.h5") as reader:
        for name, labels in made.items():
            read = reader.read(name)
            assert_array_equal(read.valid, labels.valid)
            assert_array_equal(read.xyz, labels.xyz)
    assert sum(int(labels.valid.sum()) for labels in made.values()) > 100
